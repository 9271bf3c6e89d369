// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/pagers.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "agent/memory/pager_watch.h"
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

// A container's memory that nobody fills.
class PagerWatchTest : public PagersTest {
 protected:
  void SetUp() override {
    PagersTest::SetUp();
    ASSERT_TRUE(MakeFolders(folder_ + "/cgroups/3f2a").ok());
    Say("populated 1\nfrozen 0\n");
  }
  void Say(const std::string& events) {
    ASSERT_TRUE(WriteFileDurably(folder_ + "/cgroups/3f2a/events", events).ok());
    ASSERT_EQ(
        rename((folder_ + "/cgroups/3f2a/events").c_str(), (folder_ + "/cgroups/3f2a/cgroup.events").c_str()),
        0);
  }
  void Work(const agent_api::PagerStatus& status) { Write("3f2a", json::Encode(status)); }
  void Start() {
    watch_ = std::make_unique<PagerWatch>(
        PagerWatch::Options{.folder = folder_,
                            .pagers_cgroup = folder_ + "/cgroups",
                            .cgroup_here = [this](const std::string& cgroup) { return folder_ + cgroup; },
                            .lost =
                                [this](const agent_api::PagerStatus& status) {
                                  absl::MutexLock lock(&mutex_);
                                  lost_.push_back(status);
                                }});
  }
  std::vector<agent_api::PagerStatus> Lost() {
    absl::MutexLock lock(&mutex_);
    return lost_;
  }
  bool FileGoes() const {
    for (int i = 0; i < 1000 && StillFilled(folder_, {"3f2a"}); ++i) absl::SleepFor(absl::Milliseconds(10));
    return !StillFilled(folder_, {"3f2a"});
  }

 private:
  absl::Mutex mutex_;
  std::vector<agent_api::PagerStatus> lost_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<PagerWatch> watch_;
};

TEST_F(PagerWatchTest, AContainerWhosePagerIsAtWorkIsLeftAlone) {
  Work({.migration_uid = "uid", .cgroup = "/none", .pager_pid = 7});
  Start();
  absl::SleepFor(absl::Milliseconds(400));
  EXPECT_TRUE(Lost().empty());
  EXPECT_TRUE(StillFilled(folder_, {"3f2a"}));
}

TEST_F(PagerWatchTest, AContainerThatNobodyFillsAnyMoreIsKilledAndTold) {
  Say("populated 0\nfrozen 0\n");
  Work({.migration_uid = "uid", .container = "app", .cgroup = "/none", .pager_pid = 7});
  Start();
  EXPECT_TRUE(FileGoes());
  ASSERT_EQ(Lost().size(), 1u);
  EXPECT_EQ(Lost()[0].container, "app");
  EXPECT_THAT(Lost()[0].message, HasSubstr("were killed before its memory was filled"));
}

TEST_F(PagerWatchTest, WhatThePagerItselfKilledIsToldWithItsReason) {
  ASSERT_TRUE(RemoveTree(folder_ + "/cgroups/3f2a").ok());
  Work({.migration_uid = "uid", .cgroup = "/none", .pager_pid = 7, .failed = true, .message = "no place"});
  Start();
  EXPECT_TRUE(FileGoes());
  ASSERT_EQ(Lost().size(), 1u);
  EXPECT_EQ(Lost()[0].message, "no place");
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
