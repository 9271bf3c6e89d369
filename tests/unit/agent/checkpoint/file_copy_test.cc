// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/file_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/files/describe.h"

namespace godwit::checkpoint {
namespace {

using testing::HasSubstr;

class FileCopyTest : public testing::Test {
 protected:
  FileCopyTest() : folder_(absl::StrCat(testing::TempDir(), "file_copy_test.", getpid())) {
    EXPECT_TRUE(RemoveTree(folder_).ok());
    EXPECT_TRUE(MakeFolders(Upper()).ok());
    copy_.emplace(runtime::HostView{.root = folder_ + "/host", .proc = folder_ + "/proc"},
                  migration::PodOnNode{},
                  std::vector<FileCopy::Tree>{{"/upper", files::Layout::kPlain, folder_ + "/upper"}}, stop_);
  }
  ~FileCopyTest() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  std::string Upper() const { return folder_ + "/host/upper"; }
  void Put(const std::string& name, const std::string& content) {
    ASSERT_TRUE(WriteFileDurably(absl::StrCat(Upper(), "/", name), content).ok());
  }

  const std::string folder_;
  const std::atomic<bool> stop_ = false;
  std::optional<FileCopy> copy_;
};

TEST_F(FileCopyTest, WhatTheAgentCannotRememberIsReadWholeAtLast) {
  Put("file", "before");
  files::HeldEntries others;
  ASSERT_TRUE(others.Set(files::kMaxHeldEntries));
  const absl::Status round = copy_->CopyRound();
  EXPECT_TRUE(round.ok()) << round;
  ASSERT_TRUE(others.Set(files::kMaxHeldEntries - 1));
  Put("file", "at last");
  ASSERT_TRUE(copy_->CopyRound().ok());
  const absl::Status last = copy_->CopyLast();
  ASSERT_TRUE(last.ok()) << last;
  const absl::StatusOr<Content> whole = copy_->Whole(0);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const std::string tar = folder_ + "/whole.tar", back = folder_ + "/back";
  const UniqueFd out = *OpenFile(tar, O_WRONLY | O_CREAT, 0600);
  ASSERT_TRUE(whole->write([&](absl::string_view bytes) { return WriteAll(out.get(), bytes, tar); }).ok());
  ASSERT_TRUE(MakeFolders(back).ok());
  ASSERT_TRUE(files::Apply(tar, back, files::Layout::kPlain).ok());
  EXPECT_EQ(files::Describe(back), files::Describe(Upper()));
}

TEST_F(FileCopyTest, WhatTheAgentCannotRememberInTheFreezeEither) {
  Put("file", "content");
  files::HeldEntries others;
  ASSERT_TRUE(others.Set(files::kMaxHeldEntries));
  ASSERT_TRUE(copy_->CopyRound().ok());
  const absl::Status last = copy_->CopyLast();
  EXPECT_TRUE(absl::IsFailedPrecondition(last)) << last << ": the disk is not full";
  EXPECT_THAT(last.message(), HasSubstr("files of all pods"));
}

// More than 256 MiB of paths: 70,000 names of three files, each 3.9 KB long.
TEST_F(FileCopyTest, ATreeThatIsTooLargeIsToldInTheFirstRound) {
  std::string deep = Upper();
  while (deep.size() < Upper().size() + 3800) absl::StrAppend(&deep, "/", std::string(200, 'd'));
  ASSERT_TRUE(MakeFolders(deep).ok());
  const UniqueFd folder = *OpenFile(deep, O_RDONLY | O_DIRECTORY);
  std::string first;
  for (int i = 0; i < 72'000; ++i) {
    const std::string name = absl::StrCat(i);
    if (i % 24'000 == 0) {
      first = name;
      ASSERT_TRUE(UniqueFd(openat(folder.get(), name.c_str(), O_WRONLY | O_CREAT, 0600)).ok());
    } else {
      ASSERT_EQ(linkat(folder.get(), first.c_str(), folder.get(), name.c_str(), 0), 0);
    }
  }
  const absl::Status round = copy_->CopyRound();
  EXPECT_TRUE(absl::IsFailedPrecondition(round)) << round;
  EXPECT_THAT(round.message(), HasSubstr("/upper"));
  EXPECT_THAT(round.message(), HasSubstr("more than 256 MiB in all"));
}

}  // namespace
}  // namespace godwit::checkpoint
