// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/memory_copy.h"

#include <unistd.h>

#include <map>
#include <random>
#include <string>

#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/checkpoint/fake_memory.h"

namespace godwit::checkpoint {
namespace {

using memory::Range;
using memory::Ranges;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

class MemoryCopyTest : public ::testing::Test {
 protected:
  MemoryCopyTest() : folder_(::testing::TempDir() + "memory_copy_test." + std::to_string(getpid())) {
    EXPECT_TRUE(RemoveTree(folder_).ok());
    EXPECT_TRUE(MakeFolders(folder_).ok());
    node_.track = [this](const std::string&) -> absl::StatusOr<std::unique_ptr<migration::TrackedMemory>> {
      if (!cannot_track_.ok()) return cannot_track_;
      return std::make_unique<FakeTracked>(&world_);
    };
    node_.read = [this](auto... arguments) { return world_.Read(arguments...); };
    world_.processes[100] = {.container_pid = 1};
    Make(/*reserve=*/0);
  }
  void Make(int64_t reserve) {
    copy_ = std::make_unique<MemoryCopy>(std::vector<MemoryCopy::Container>{{"app", "/cgroup"}}, node_,
                                         folder_, reserve, stop_);
  }
  ~MemoryCopyTest() override {
    copy_.reset();
    EXPECT_EQ(world_.tracked, 0);
    EXPECT_THAT(*ListFolder(folder_), IsEmpty());
    EXPECT_TRUE(RemoveTree(folder_).ok());
  }

  // Every page, by what is in the archive or is not.
  void ExpectAllAsItWas() {
    const auto lacking = copy_->Lacking(0);
    ASSERT_TRUE(lacking.ok()) << lacking.status();
    for (const auto& [pid, process] : world_.processes) {
      std::map<uint64_t, char> found;
      const auto pages = lacking->find(process.container_pid);
      for (const Range& range : pages == lacking->end() ? Ranges() : pages->second) {
        std::string bytes(range.bytes(), 'x');
        const absl::Status taken =
            copy_->Take(0, process.container_pid, range.start, bytes.data(), bytes.size());
        ASSERT_TRUE(taken.ok()) << taken;
        for (size_t at = 0; at < bytes.size(); at += kPage) {
          ASSERT_EQ(bytes.substr(at, kPage), std::string(kPage, bytes[at]));
          found[(range.start + at - kBase) / kPage] = bytes[at];
        }
      }
      for (const auto& [page, byte] : process.pages) {
        const auto there = found.find(page);
        ASSERT_EQ(there == found.end() ? '\0' : there->second, byte) << "process " << pid << " page " << page;
      }
      for (const auto& [page, byte] : found)
        ASSERT_TRUE(process.pages.contains(page)) << "process " << pid << " had no page " << page;
    }
  }

  const std::string folder_;
  World world_;
  absl::Status cannot_track_;
  migration::MemoryNode node_;
  std::atomic<bool> stop_ = false;
  std::unique_ptr<MemoryCopy> copy_;
};

TEST_F(MemoryCopyTest, EveryPageIsAsItWasAtTheFreezeWhateverTheProcessesDoMeanwhile) {
  std::mt19937 random(3);
  pid_t next = 101;
  // Also between a look and the reading of what it found.
  world_.while_reading = [&] {
    for (int i = 0; i < 20; ++i) {
      auto process = world_.processes.begin();
      std::advance(process, random() % world_.processes.size());
      const uint64_t page = random() % kMapped;
      if (random() % 5 == 0) {
        world_.Drop(process->first, page);
      } else {
        world_.Write(process->first, page, static_cast<char>(random() % 4));
      }
    }
    if (random() % 50 == 0 && world_.processes.size() < 4) {
      world_.processes[next] = {.container_pid = next - 99, .pages = world_.processes[100].pages};
      for (const auto& [page, byte] : world_.processes[next].pages) world_.processes[next].dirty.insert(page);
      ++next;
    }
    if (random() % 100 == 0 && world_.processes.size() > 1)
      world_.processes.erase(std::prev(world_.processes.end()));
  };
  for (uint64_t page = 0; page < kMapped; page += 2) world_.Write(100, page, 'f');
  ASSERT_TRUE(copy_->Attach().ok());
  for (int round = 0; round < 5; ++round) ASSERT_TRUE(copy_->CopyRound().ok());
  world_.while_reading = nullptr;  // frozen
  copy_->ReserveMemory(uint64_t{1} << 30);
  ASSERT_TRUE(copy_->LookOwned(0).ok());
  ASSERT_TRUE(copy_->CopyLast(0).ok());
  copy_->Detach();
  EXPECT_EQ(world_.tracked, 0);
  ExpectAllAsItWas();
}

TEST_F(MemoryCopyTest, WhatTheNodesMemoryCannotTakeGoesToTheDisk) {
  ASSERT_TRUE(copy_->Attach().ok());
  for (uint64_t page = 0; page < 1000; ++page) world_.Write(100, page, 'a');
  ASSERT_EQ(*copy_->CopyRound(), static_cast<int64_t>(1000 * kPage));
  for (uint64_t page = 500; page < 1500; ++page) world_.Write(100, page, 'b');
  copy_->ReserveMemory(300 * kPage);
  ASSERT_TRUE(copy_->LookOwned(0).ok());
  const absl::Status last = copy_->CopyLast(0);
  ASSERT_TRUE(last.ok()) << last;
  ExpectAllAsItWas();
}

TEST_F(MemoryCopyTest, WhatTheNodeNeedsOfTheDiskStaysFree) {
  world_.Write(100, 1, 'a');
  Make(/*reserve=*/*FreeBytes(folder_) + (int64_t{1} << 30));
  ASSERT_TRUE(copy_->Attach().ok());
  const absl::Status full = copy_->CopyRound().status();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  copy_->Detach();
}

TEST_F(MemoryCopyTest, CriuIsToldToLeaveOutWhatIsOwned) {
  ASSERT_TRUE(copy_->Attach().ok());
  ASSERT_TRUE(copy_->CopyRound().ok());
  EXPECT_EQ(*copy_->LookOwned(0), "100 7f0000000000-7f0000fa0000\n");
}

TEST_F(MemoryCopyTest, WhatCannotBeTrackedChangesNothingAndSaysWhy) {
  cannot_track_ = absl::FailedPreconditionError("kernel 6.1 has no PAGEMAP_SCAN");
  EXPECT_EQ(copy_->Attach(), absl::FailedPreconditionError("container app: kernel 6.1 has no PAGEMAP_SCAN"));
  cannot_track_ = absl::OkStatus();
  world_.pinned = {{"process 12 (postgres) has a file open with O_DIRECT"}};
  const absl::Status pinned = copy_->Attach();
  EXPECT_TRUE(absl::IsFailedPrecondition(pinned));
  EXPECT_THAT(std::string(pinned.message()), HasSubstr("O_DIRECT"));
  EXPECT_EQ(world_.tracked, 0);
}

TEST_F(MemoryCopyTest, AStopIsHeardInTheMiddleOfARound) {
  ASSERT_TRUE(copy_->Attach().ok());
  for (uint64_t page = 0; page < kMapped; ++page) world_.Write(100, page, 'a');
  int reads = 0;
  world_.while_reading = [&] { stop_ = ++reads == 3; };
  EXPECT_TRUE(absl::IsCancelled(copy_->CopyRound().status()));
  EXPECT_EQ(reads, 3);
}

TEST_F(MemoryCopyTest, APageThatCannotBeReadInTheFreezeFailsInsteadOfBecomingZeros) {
  ASSERT_TRUE(copy_->Attach().ok());
  for (uint64_t page = 0; page < 10; ++page) world_.Write(100, page, 'a');
  ASSERT_TRUE(copy_->CopyRound().ok());
  world_.Write(100, 5, 'b');
  world_.unreadable = {5};
  copy_->ReserveMemory(uint64_t{1} << 20);
  ASSERT_TRUE(copy_->LookOwned(0).ok());
  EXPECT_TRUE(absl::IsDataLoss(copy_->CopyLast(0)));
}

TEST_F(MemoryCopyTest, APageThatCouldNotBeReadInARoundAndWasNotWrittenSinceFailsToo) {
  ASSERT_TRUE(copy_->Attach().ok());
  for (uint64_t page = 0; page < 10; ++page) world_.Write(100, page, 'a');
  world_.unreadable = {5};
  ASSERT_TRUE(copy_->CopyRound().ok()) << "it may have been unmapped";
  copy_->ReserveMemory(uint64_t{1} << 20);
  ASSERT_TRUE(copy_->LookOwned(0).ok());
  ASSERT_TRUE(copy_->CopyLast(0).ok());
  EXPECT_TRUE(absl::IsDataLoss(copy_->Lacking(0).status())) << copy_->Lacking(0).status();
}

TEST_F(MemoryCopyTest, WhatIsOutsideOfWhatCriuLeavesOutIsCrius) {
  ASSERT_TRUE(copy_->Attach().ok());
  world_.Write(100, 1, 'a');
  ASSERT_TRUE(copy_->CopyRound().ok());
  copy_->ReserveMemory(uint64_t{1} << 20);
  ASSERT_TRUE(copy_->LookOwned(0).ok());
  world_.Write(100, kMapped + 7, 'p');  // CRIU's own, mapped into the task meanwhile
  ASSERT_TRUE(copy_->CopyLast(0).ok());
  EXPECT_THAT(*copy_->Lacking(0), ElementsAre(Pair(1, ElementsAre(Pages(1, 2)))));
}

}  // namespace
}  // namespace godwit::checkpoint
