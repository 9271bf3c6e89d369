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
                        {.own_node = "n1",
                         .node = "n2",
                         .address = absl::StrCat("127.0.0.1:", server_->port()),
                         .checkpoint_uid = "c-1",
                         .archive = "app.tar",
                         .max_bytes = max_bytes},
                        path_, Soon());
  }
  const std::string folder_ = tls::TestFolder();
  const std::string path_ = folder_ + "/fetched.tar";
  const tls::TestAuthority authority_;
  std::unique_ptr<tls::Identity> n1_, n2_;
  FindArchive find_ = [this](const std::string& uid,
                             const std::string& archive) -> absl::StatusOr<std::string> {
    if (uid != "c-1" || archive != "app.tar") return absl::NotFoundError("no such archive");
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
  find_ = [](const std::string&, const std::string&) -> absl::StatusOr<std::string> {
    return absl::NotFoundError("no such archive");
  };
  const absl::Status status = Fetch();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), testing::HasSubstr("app.tar from node n2: no such archive"));
}

TEST_F(FetchTest, AFileThatCannotBeReadIsToldByThePeer) {
  EXPECT_EQ(Fetch().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(FileExists(path_));
}

}  // namespace
}  // namespace godwit::transfer
