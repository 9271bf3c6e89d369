// SPDX-License-Identifier: Apache-2.0
// The memory of several tasks over a connection that is cut, and of tasks that are killed in the freeze.
#include "agent/migration/pre_copy.h"

#include <unistd.h>

#include <map>
#include <optional>
#include <set>
#include <thread>

#include "agent/memory/page_store.h"
#include "agent/memory/shared_key.h"
#include "agent/transfer/page_receiver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/transfer/stream_pair.h"

namespace godwit::migration {
namespace {

using memory::Ranges;
using testing::HasSubstr;
using transfer::Soon;
using transfer::StreamPair;

const uint64_t kPage = memory::PageBytes();
constexpr uint64_t kPages = 16;  // of each task
const Ranges kAll = {{0, kPages* kPage}};
constexpr int64_t kMiB = int64_t{1} << 20;

// Tasks 1, 2, ... of a container, with host pids 101, 102, ...: what was written is dirty in one look.
class FakeTasks final : public TrackedMemory {
 public:
  struct Task {
    std::map<uint64_t, char> pages;  // by number, all bytes the same
    Ranges dirty = kAll;
    bool killed = false;
  };

  absl::StatusOr<memory::Look> Round() override { return Looked(); }
  absl::StatusOr<memory::Look> Last() override { return Looked(); }
  absl::StatusOr<memory::Look> Owned() override {
    memory::Look look;
    for (const auto& [id, task] : tasks)
      look.tasks.push_back({.pid = 100 + id, .container_pid = id, .owned = kAll});
    return look;
  }
  const char* SharedMemory(pid_t) const override { return nullptr; }
  std::vector<memory::Pinned> FindPinned() const override { return {}; }
  absl::StatusOr<size_t> Read(pid_t pid, uint64_t address, char* to, size_t size) {
    if (tasks.at(pid - 100).killed) return absl::NotFoundError("gone");
    for (size_t at = 0; at < size; at += kPage)
      memset(to + at, tasks.at(pid - 100).pages[(address + at) / kPage], kPage);
    return size;
  }

  std::map<pid_t, Task> tasks;
  bool hide_killed = false;                // looks do not tell of them any more
  uint64_t reserved = 0;                   // pages that each has mapped beyond kAll, and never touched
  std::vector<memory::TaskPages> objects;  // of shared memory

 private:
  memory::Look Looked() {
    memory::Look look;
    look.shared = objects;
    for (auto& [id, task] : tasks) {
      if (task.killed && hide_killed) continue;
      look.tasks.push_back({.pid = 100 + id,
                            .container_pid = id,
                            .owned = {{0, (kPages + reserved) * kPage}},
                            .dirty = task.dirty,
                            .populated = kAll});
      task.dirty.clear();
    }
    return look;
  }
};

class PreCopyTest : public testing::Test {
 protected:
  PreCopyTest() {
    for (pid_t id = 1; id <= 3; ++id) {
      for (uint64_t page = 0; page < kPages; ++page)
        tasks_->tasks[id].pages[page] = static_cast<char>(16 * id + page);
    }
    EXPECT_TRUE(pre_copy_.Attach().ok());
    pre_copy_.SetStream(pair_->a.get());
  }

  // What `send` returns; what arrived of it is in the store then.
  absl::Status Carry(const std::function<absl::Status()>& send) {
    std::thread receiving([this] {
      for (transfer::Frame frame;
           pair_->b->Receive(frame, Soon()).ok() && frame.type != transfer::FrameType::kRoundEnd;) {
        const absl::Status status = receiver_.Take(frame);
        EXPECT_TRUE(status.ok()) << status;
      }
    });
    const absl::Status status = send();
    if (!status.ok()) pair_->a->Shutdown();
    (void)pair_->a->Send(transfer::FrameType::kRoundEnd, {}, Soon());
    receiving.join();
    return status;
  }
  absl::Status Round() {
    return Carry([this] {
      absl::StatusOr<RoundFigures> round = pre_copy_.Round(/*nice=*/true, Soon());
      if (round.ok()) figures_ = *round;
      return round.status();
    });
  }
  // Task 1, 2 or 3 has so much private memory, as the kernel counts it.
  void SetPrivate(pid_t id, int64_t bytes) { contents_.processes[100 + id].bytes = bytes; }
  void Cut() {
    pair_->b->Shutdown();
    pair_->a->Shutdown();
  }
  void Reconnect() {
    pair_ = std::make_unique<StreamPair>();
    pre_copy_.SetStream(pair_->a.get());
  }
  void ExpectAllArrived() {
    for (auto& [id, task] : tasks_->tasks) {
      const absl::StatusOr<UniqueFd> file = store_.FileOf(id);
      ASSERT_TRUE(file.ok()) << file.status();
      for (const auto& [page, value] : task.pages) {
        std::string stored(kPage, '?');
        ASSERT_EQ(pread(file->get(), stored.data(), kPage, static_cast<off_t>(page * kPage)),
                  static_cast<ssize_t>(kPage));
        ASSERT_EQ(stored, std::string(kPage, value)) << "task " << id << ", page " << page;
      }
    }
  }

  FakeTasks* const tasks_ = new FakeTasks;  // pre_copy_'s
  RoundFigures figures_;                    // of the last round
  runtime::Contents contents_;
  std::map<pid_t, runtime::Contents::Private> unseen_;
  std::map<pid_t, runtime::Contents::Private> after_look_;  // where it is not as before
  std::set<pid_t> seen_;                                    // as unseen_ was asked for
  memory::PageStore store_{64 << 20};
  transfer::PageReceiver receiver_{{{"app", &store_}}};
  transfer::TokenBucket bucket_{0};
  PreCopy pre_copy_{{{.name = "app", .cgroup = "/app"}},
                    {.track = [this](const std::string&) -> absl::StatusOr<std::unique_ptr<TrackedMemory>> {
                       return std::unique_ptr<TrackedMemory>(tasks_);
                     },
                     .read = [this](pid_t pid, uint64_t address, char* to,
                                    size_t size) { return tasks_->Read(pid, address, to, size); },
                     .contents = [this](const std::string&, absl::Duration) { return contents_; },
                     .private_memory =
                         [this](const std::string&, const std::set<pid_t>& but) {
                           if (but.empty()) return after_look_.empty() ? contents_.processes : after_look_;
                           seen_ = but;
                           return unseen_;
                         }},
                    &bucket_};
  std::unique_ptr<StreamPair> pair_ = std::make_unique<StreamPair>();
};

// The tracker tells of what was written in one look; the first task's cut must not lose the others'.
TEST_F(PreCopyTest, ACutLosesNothingOfTheTasksThatWereNotSentYet) {
  Cut();
  EXPECT_FALSE(Round().ok());
  Reconnect();
  ASSERT_TRUE(Round().ok());
  ExpectAllArrived();
}

TEST_F(PreCopyTest, ASecondCutWhileTheFirstIsMendedLosesNothingEither) {
  ASSERT_TRUE(Round().ok());
  pre_copy_.Acknowledge();
  for (auto& [id, task] : tasks_->tasks) {
    task.pages[3] = 'x';
    task.dirty = {{3 * kPage, 4 * kPage}};
  }
  Cut();
  EXPECT_FALSE(Round().ok());
  for (auto& [id, task] : tasks_->tasks) {
    task.pages[7] = 'y';
    task.dirty = {{7 * kPage, 8 * kPage}};
  }
  Reconnect();
  Cut();
  EXPECT_FALSE(Round().ok());
  Reconnect();
  const int64_t before = pre_copy_.totals().sent;
  ASSERT_TRUE(Round().ok());
  ExpectAllArrived();
  EXPECT_EQ(pre_copy_.totals().sent - before, static_cast<int64_t>(3 * 2 * kPage))
      << "and no page that was there";
}

TEST_F(PreCopyTest, ATaskThatEndsWhileThePodRunsIsNoError) {
  tasks_->tasks[2].killed = true;
  EXPECT_TRUE(Round().ok());
}

// CRIU has been told to leave its memory out, and has perhaps dumped it already: what would be restored are
// zeros.
TEST_F(PreCopyTest, ATaskThatIsKilledInTheFreezeIsAnError) {
  ASSERT_TRUE(Round().ok());
  pre_copy_.Acknowledge();
  ASSERT_TRUE(pre_copy_.LookOwned(0).ok());
  tasks_->tasks[2].killed = true;
  tasks_->tasks[2].dirty = {{0, kPage}};
  const absl::Status status =
      Carry([this] { return pre_copy_.SendLast(0, /*leave=*/false, Soon()).status(); });
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("task 2 of container app ended while the pod stood still"));
}

// A reservation (PROT_NONE, a thread's stack) is as long as whoever maps it likes, and holds nothing.
TEST_F(PreCopyTest, WhatIsOnlyReservedHidesNothingOfWhatCriuHasToCopy) {
  tasks_->reserved = uint64_t{2} << 20;  // 8 GiB
  const auto carried = static_cast<int64_t>(kPages * kPage);
  SetPrivate(1, carried + 64 * kMiB);
  SetPrivate(2, carried);
  SetPrivate(3, carried);
  contents_.files = 16 * kMiB;
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.criu_bytes(), 80 * kMiB);
  EXPECT_EQ(figures_.criu_bytes, BeyondSmall(80 * kMiB, 1, 3));
  EXPECT_EQ(figures_.memory_bytes, static_cast<int64_t>(3 * (kPages + tasks_->reserved) * kPage));
}

TEST_F(PreCopyTest, WhatOneProcessGaveBackIsNoOthers) {
  SetPrivate(1, 64 * kMiB);  // with all that is carried
  SetPrivate(2, 0);
  SetPrivate(3, 0);
  ASSERT_TRUE(Round().ok());
  const int64_t locked = 64 * kMiB - static_cast<int64_t>(kPages * kPage);
  EXPECT_EQ(pre_copy_.criu_bytes(), locked);
  // It gives back half of what is carried, of which no look tells.
  SetPrivate(1, 64 * kMiB - static_cast<int64_t>(kPages / 2 * kPage));
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.criu_bytes(), locked);
  // And then what was locked: no more is left than it has.
  SetPrivate(1, kMiB);
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.criu_bytes(), kMiB);
}

// A process that frees memory while it is looked at, and the child that was forked from a large one and has
// called exec: no look finds that memory, and nobody copies it.
TEST_F(PreCopyTest, WhatGoesWhileItIsLookedAtIsNotCrius) {
  const auto carried = static_cast<int64_t>(kPages * kPage);
  SetPrivate(1, carried + 200 * kMiB);
  SetPrivate(2, carried + 2048 * kMiB);
  SetPrivate(3, carried);
  after_look_ = contents_.processes;
  after_look_[101].bytes = carried + 8 * kMiB;
  after_look_[102].bytes = carried / 2;
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.criu_bytes(), 8 * kMiB);
}

TEST_F(PreCopyTest, WhatWasNotSeenInTimeIsNotKnown) {
  contents_.complete = false;
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.criu_bytes(), std::nullopt);
}

TEST_F(PreCopyTest, SharedMemoryThatIsCarriedIsNotCrius) {
  contents_.anonymous = {{7, 32 * kMiB}, {8, 16 * kMiB}};
  const pid_t key = memory::SharedKey(7);
  tasks_->objects.push_back({.pid = key, .container_pid = key, .owned = {{0, 32 << 20}}});
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.criu_bytes(), 16 * kMiB);
}

TEST_F(PreCopyTest, ProcessesThatNoRoundHasSeenAreFound) {
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.FindUnseen().bytes, 0);
  EXPECT_THAT(seen_, testing::ElementsAre(101, 102, 103));
  unseen_ = {{104, {"sh", kMiB}}, {105, {"redis-server", 512 * kMiB}}};
  EXPECT_EQ(pre_copy_.FindUnseen().bytes, 513 * kMiB);
  EXPECT_EQ(pre_copy_.FindUnseen().which, "process 105 (redis-server) of container app");
}

// It is likely to be as it was.
TEST_F(PreCopyTest, SharedMemoryThatThereWasNoTimeForCountsAsBefore) {
  contents_.anonymous = {{8, 16 * kMiB}};
  contents_.files = 8 * kMiB;
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.criu_bytes(), 24 * kMiB);
  contents_ = {.complete = false};
  ASSERT_TRUE(Round().ok());
  EXPECT_EQ(pre_copy_.criu_bytes(), std::nullopt);
  EXPECT_EQ(figures_.criu_bytes, BeyondSmall(24 * kMiB, 1, 3));
}

TEST_F(PreCopyTest, ATaskThatTheLastLookDoesNotFindIsAnError) {
  for (const bool leave : {false, true}) {
    ASSERT_TRUE(pre_copy_.LookOwned(0).ok());
    tasks_->tasks[3].killed = tasks_->hide_killed = true;
    const absl::Status status = Carry([&] { return pre_copy_.SendLast(0, leave, Soon()).status(); });
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  }
}

}  // namespace
}  // namespace godwit::migration
