// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/fetch.h"

#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/transfer/stream_pair.h"

namespace godwit::transfer {
namespace {

class FetchTest : public testing::Test {
 protected:
  FetchTest() {
    n1_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n1.agent.godwit"}));
    n2_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n2.agent.godwit"}));
    server_ = *StreamServer::Start(*n2_, "127.0.0.1", 0, [this](std::shared_ptr<Stream> stream) {
      absl::StatusOr<Frame> frame = stream->Receive(Soon());
      if (frame.ok()) (void)ServeArchive(*stream, *DecodeMessage<Hello>(*frame), find_, Soon());
    });
  }
  absl::Status Fetch(int64_t max_bytes = 1 << 30) {
    return FetchArchive(*n1_,
                        {.own_node = own_node_,
                         .node = "n2",
                         .address = absl::StrCat("127.0.0.1:", server_->port()),
                         .checkpoint_uid = "c-1",
                         .archive = "app.tar",
                         .digest = digest_,
                         .max_bytes = max_bytes},
                        path_, Soon());
  }
  const std::string folder_ = tls::TestFolder();
  const std::string path_ = folder_ + "/fetched.tar";
  const tls::TestAuthority authority_;
  std::unique_ptr<tls::Identity> n1_, n2_;
  std::string own_node_ = "n1";
  std::string digest_ = "sha256:1";
  FindArchive find_ = [this](const std::string& uid, const std::string& archive,
                             const std::string& digest) -> absl::StatusOr<std::string> {
    if (uid != "c-1" || archive != "app.tar") return absl::NotFoundError("no such archive");
    if (digest != "sha256:1") return absl::PermissionDeniedError("another digest");
    return folder_ + "/original.tar";
  };
  std::unique_ptr<StreamServer> server_;
};

TEST_F(FetchTest, TheArchiveArrivesWhole) {
  std::string content(5'000'001, 'a');
  for (size_t i = 0; i < content.size(); i += 97) content[i] = static_cast<char>(i);
  ASSERT_TRUE(WriteFileDurably(folder_ + "/original.tar", content).ok());
  const absl::Status status = Fetch();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(*ReadFile(path_), content);
  EXPECT_FALSE(FileExists(path_ + ".fetching"));
}

TEST_F(FetchTest, MoreThanWasExpectedIsRefusedAndLeavesNothing) {
  ASSERT_TRUE(WriteFileDurably(folder_ + "/original.tar", std::string(1001, 'x')).ok());
  EXPECT_EQ(Fetch(1000).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(FileExists(path_));
  EXPECT_FALSE(FileExists(path_ + ".fetching"));
}

TEST_F(FetchTest, WhatThePeerDoesNotHaveIsNotFound) {
  find_ = [](const std::string&, const std::string&, const std::string&) -> absl::StatusOr<std::string> {
    return absl::NotFoundError("no such archive");
  };
  const absl::Status status = Fetch();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), testing::HasSubstr("app.tar from node n2: no such archive"));
}

TEST_F(FetchTest, WhoWasNotToldTheDigestGetsNothing) {
  ASSERT_TRUE(WriteFileDurably(folder_ + "/original.tar", "secret").ok());
  digest_ = "";
  const absl::Status status = Fetch();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), testing::HasSubstr("Refused: another digest"));
  EXPECT_FALSE(FileExists(path_));
}

TEST_F(FetchTest, ANodeCannotSpeakForAnother) {
  ASSERT_TRUE(WriteFileDurably(folder_ + "/original.tar", "secret").ok());
  own_node_ = "n3";
  EXPECT_THAT(Fetch().message(), testing::HasSubstr("the caller is node n1, not n3"));
  EXPECT_FALSE(FileExists(path_));
}

TEST_F(FetchTest, AFileThatCannotBeReadIsToldByThePeer) {
  EXPECT_EQ(Fetch().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(FileExists(path_));
}

}  // namespace
}  // namespace godwit::transfer
