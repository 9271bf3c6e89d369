// SPDX-License-Identifier: Apache-2.0
#include "k8s/workqueue.h"

#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::k8s {
namespace {

using ::testing::ElementsAre;
using ::testing::Optional;

class WorkQueueTest : public ::testing::Test {
 protected:
  std::vector<std::string> Ready() {
    std::vector<std::string> keys;
    while (std::optional<std::string> key = queue_.TryGet()) keys.push_back(*key);
    for (const std::string& key : keys) queue_.Done(key);
    return keys;
  }
  FakeClock clock_;
  WorkQueue queue_{WorkQueue::Options{
      .base_delay = absl::Milliseconds(10), .max_delay = absl::Seconds(1), .clock = &clock_}};
};

TEST_F(WorkQueueTest, AKeyIsQueuedOnceAndInOrder) {
  queue_.Add("b");
  queue_.Add("a");
  queue_.Add("b");
  EXPECT_EQ(queue_.depth(), 2u);
  EXPECT_THAT(Ready(), ElementsAre("b", "a"));
}

TEST_F(WorkQueueTest, AKeyInWorkComesAgainOnlyWhenItIsDone) {
  queue_.Add("a");
  ASSERT_THAT(queue_.TryGet(), Optional(std::string("a")));
  queue_.Add("a");
  queue_.Add("a");
  EXPECT_EQ(queue_.TryGet(), std::nullopt);
  EXPECT_EQ(queue_.in_work(), 1u);
  queue_.Done("a");
  EXPECT_THAT(Ready(), ElementsAre("a"));
}

TEST_F(WorkQueueTest, DelayedKeysComeWhenTheyAreDue) {
  queue_.AddAfter("late", absl::Seconds(10));
  queue_.AddAfter("soon", absl::Seconds(1));
  queue_.AddAfter("now", absl::ZeroDuration());
  EXPECT_THAT(Ready(), ElementsAre("now"));
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(Ready(), ElementsAre("soon"));
  EXPECT_EQ(queue_.delayed(), 1u);
  clock_.Advance(absl::Seconds(9));
  EXPECT_THAT(Ready(), ElementsAre("late"));
}

TEST_F(WorkQueueTest, TheEarlierOfTwoDelaysCounts) {
  queue_.AddAfter("a", absl::Seconds(10));
  queue_.AddAfter("a", absl::Seconds(1));
  queue_.AddAfter("a", absl::Seconds(5));
  EXPECT_EQ(queue_.delayed(), 1u);
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(Ready(), ElementsAre("a"));
  clock_.Advance(absl::Seconds(60));
  EXPECT_THAT(Ready(), ElementsAre());
}

TEST_F(WorkQueueTest, FailuresWaitLongerAndLongerUntilForgotten) {
  std::vector<int64_t> waits;
  for (int i = 0; i < 9; ++i) {
    queue_.AddRateLimited("a");
    int64_t waited = 0;
    while (Ready().empty()) {
      clock_.Advance(absl::Milliseconds(10));
      waited += 10;
    }
    waits.push_back(waited);
  }
  EXPECT_THAT(waits, ElementsAre(10, 20, 40, 80, 160, 320, 640, 1000, 1000));
  EXPECT_EQ(queue_.Failures("a"), 9);
  queue_.Forget("a");
  EXPECT_EQ(queue_.Failures("a"), 0);
  queue_.AddRateLimited("a");
  clock_.Advance(absl::Milliseconds(10));
  EXPECT_THAT(Ready(), ElementsAre("a"));
}

TEST_F(WorkQueueTest, AllFailuresTogetherKeepToTheRate) {
  WorkQueue queue({.base_delay = absl::Milliseconds(1), .per_second = 10, .burst = 5, .clock = &clock_});
  for (int i = 0; i < 20; ++i) queue.AddRateLimited(absl::StrCat("k", i));
  const auto ready = [&queue] {
    int count = 0;
    while (std::optional<std::string> key = queue.TryGet()) {
      queue.Done(*key);
      ++count;
    }
    return count;
  };
  clock_.Advance(absl::Milliseconds(1));
  EXPECT_EQ(ready(), 5);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(ready(), 10);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(ready(), 5);
}

TEST_F(WorkQueueTest, SaysHowLongTheFirstKeyWaits) {
  EXPECT_EQ(queue_.oldest(), absl::ZeroDuration());
  queue_.Add("a");
  clock_.Advance(absl::Seconds(3));
  queue_.Add("b");
  EXPECT_EQ(queue_.oldest(), absl::Seconds(3));
}

TEST_F(WorkQueueTest, ShutDownWorksOffWhatIsReadyAndDropsTheRest) {
  queue_.Add("a");
  queue_.AddAfter("later", absl::Seconds(1));
  queue_.ShutDown();
  queue_.Add("b");
  EXPECT_TRUE(queue_.shutting_down());
  EXPECT_THAT(queue_.Get(), Optional(std::string("a")));
  EXPECT_EQ(queue_.Get(), std::nullopt);
  EXPECT_EQ(queue_.delayed(), 0u);
}

TEST_F(WorkQueueTest, ShutDownWakesWhoWaits) {
  std::thread worker([this] { EXPECT_EQ(queue_.Get(), std::nullopt); });
  queue_.ShutDown();
  worker.join();
}

TEST_F(WorkQueueTest, WhoWaitsIsWokenWhenTimeMoves) {
  queue_.AddAfter("a", absl::Hours(1));
  std::thread worker([this] { EXPECT_THAT(queue_.Get(), Optional(std::string("a"))); });
  clock_.Advance(absl::Hours(1));
  queue_.Wake();
  worker.join();
}

TEST(WorkQueueThreadsTest, NoKeyIsEverInTwoHandsAndNoneIsLost) {
  WorkQueue queue;
  absl::Mutex mutex;
  std::map<std::string, int> hands, seen;
  std::atomic<bool> twice = false;
  std::vector<std::thread> workers;
  for (int i = 0; i < 4; ++i) {
    workers.emplace_back([&] {
      while (std::optional<std::string> key = queue.Get()) {
        {
          absl::MutexLock lock(&mutex);
          if (++hands[*key] > 1) twice = true;
          ++seen[*key];
        }
        if (key->back() == '7') queue.AddAfter(*key, absl::Microseconds(50));
        {
          absl::MutexLock lock(&mutex);
          --hands[*key];
        }
        queue.Done(*key);
      }
    });
  }
  for (int i = 0; i < 5000; ++i) queue.Add(absl::StrCat("k", i % 10));
  queue.ShutDown();
  for (std::thread& worker : workers) worker.join();
  EXPECT_FALSE(twice);
  EXPECT_EQ(seen.size(), 10u);
}

}  // namespace
}  // namespace godwit::k8s
