// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/pagers.h"

#include <cstdlib>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

using ::testing::HasSubstr;

class PagersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/godwit-pagers-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  void Write(const std::string& container, const std::string& text) {
    ASSERT_TRUE(WriteFileDurably(folder_ + "/" + container + ".json", text).ok());
  }
  std::string folder_;
};

TEST_F(PagersTest, APagerIsAtWorkWhileItsFileIsThere) {
  EXPECT_TRUE(PagersAtWork(folder_).empty());
  EXPECT_TRUE(PagersAtWork(folder_ + "/none").empty());
  const agent_api::PagerStatus status{.migration_uid = "uid", .pager_pid = 7, .remaining_bytes = 4096};
  Write("3f2a", json::Encode(status));
  ASSERT_EQ(PagersAtWork(folder_).size(), 1u);
  EXPECT_EQ(PagersAtWork(folder_)[0].remaining_bytes, 4096);
  EXPECT_TRUE(StillFilled(folder_, {"77", "3f2a"}));
  EXPECT_FALSE(StillFilled(folder_, {"77"}));
}

TEST_F(PagersTest, AFileThatIsNoStatusCountsAsAtWorkAndIsNotListed) {
  Write("3f2a", "{}");
  EXPECT_TRUE(PagersAtWork(folder_).empty());
  EXPECT_TRUE(StillFilled(folder_, {"3f2a"}));
}

TEST_F(PagersTest, WaitingEndsWithASentence) {
  EXPECT_TRUE(AwaitFilled(folder_, {"3f2a"}, absl::ZeroDuration()).ok());
  Write("3f2a", "{}");
  const absl::Status status = AwaitFilled(folder_, {"3f2a"}, absl::ZeroDuration());
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("still being filled after its last move"));
}

}  // namespace
}  // namespace godwit::memory
