// SPDX-License-Identifier: Apache-2.0
// The guard and its acts against folders that look like a cgroup and like /proc. A kernel stands in: a thread
// that answers cgroup.freeze with events.
#include "runtime/guard/acts.h"

#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "agent/journal/journal.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/guard/guard.h"

namespace godwit::guard {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr pid_t kInit = 4242;

class FakeKernel {
 public:
  // Whether all tasks of the cgroup stand still that has been thawed so often and was told to freeze so long
  // ago.
  using Stand = std::function<bool(int thaws, absl::Duration told)>;
  FakeKernel(std::string cgroup, Stand stand)
      : cgroup_(std::move(cgroup)), stand_(std::move(stand)), thread_([this] { Run(); }) {}
  ~FakeKernel() {
    stop_ = true;
    thread_.join();
  }
  int thaws() {
    absl::MutexLock lock(&mutex_);
    return thaws_;
  }
  absl::Time first_thaw() {
    absl::MutexLock lock(&mutex_);
    return first_thaw_;
  }

 private:
  void Run() {
    bool told = false;
    absl::Time since;
    while (!stop_) {
      const absl::Time now = absl::Now();
      const bool was =
          std::exchange(told, absl::StartsWith(ReadFile(cgroup_ + "/cgroup.freeze").value_or("0"), "1"));
      if (told && !was) since = now;
      bool stand = false;
      {
        absl::MutexLock lock(&mutex_);
        if (was && !told && thaws_++ == 0) first_thaw_ = now;
        stand = told && stand_(thaws_, now - since);
      }
      std::ofstream(cgroup_ + "/cgroup.events") << "populated 1\nfrozen " << (stand ? 1 : 0) << "\n";
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  const std::string cgroup_;
  const Stand stand_;
  absl::Mutex mutex_;
  int thaws_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time first_thaw_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

class ActsTest : public testing::Test {
 protected:
  ActsTest() {
    std::string folder = absl::StrCat(testing::TempDir(), "guard-acts-XXXXXX");
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    cgroup_ = folder_ + "/cgroup";
    Write("/cgroup/cgroup.freeze", "0\n");
    Write("/cgroup/cgroup.events", "populated 1\nfrozen 0\n");
    Write("/cgroup/cgroup.procs", absl::StrCat(kInit, "\n"));
    const std::string process = absl::StrCat("/proc/", kInit);
    Write(process + "/status", "Name:\tdb\nState:\tS (sleeping)\nPPid:\t1\n");
    Write(absl::StrCat(process, "/task/", kInit, "/status"), "SigPnd:\t0000000000000000\n");
    Write(process + "/ns/user", "");
    Write(process + "/mountinfo", "");
    spec_.migration_uid = "0b9f5d1e";
    spec_.journal = folder_ + "/journal";
    spec_.runtime = "/bin/true";  // asked for its version, and not used
    spec_.criu_folder = "/nonexistent";
    spec_.freeze_limit = absl::Seconds(60);
    spec_.containers.push_back({.name = "app",
                                .id = "1",
                                .cgroup = cgroup_,
                                .runc_root = folder_ + "/runc",
                                .init_pid = kInit,
                                .images = folder_ + "/images",
                                .work = folder_ + "/work"});
    absl::StatusOr<std::unique_ptr<HostActs>> acts = HostActs::Make(spec_, folder_ + "/proc");
    EXPECT_TRUE(acts.ok()) << acts.status();
    acts_ = *std::move(acts);
    guard_ = std::make_unique<Guard>(spec_, *acts_, acts_->journaled());
  }
  ~ActsTest() override {
    guard_.reset();
    acts_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(folder_ + name).parent_path());
    std::ofstream(folder_ + name) << text;
  }
  GuardReply Do(GuardOp op) {
    const auto reply = guard_->Handle({.op = op, .container = "", .message = "why"}, Now());
    EXPECT_TRUE(reply.has_value());
    return reply.value_or(GuardReply{});
  }
  static absl::Duration Now() { return Clock::Real().Monotonic(); }
  bool ToldToFreeze() const { return absl::StartsWith(*ReadFile(cgroup_ + "/cgroup.freeze"), "1"); }
  std::vector<SourceState> Journaled() const {
    std::vector<SourceState> states;
    const auto records = journal::ReplayJournal<SourceState>(spec_.journal);
    EXPECT_TRUE(records.ok()) << records.status();
    if (!records.ok()) return states;
    for (const auto& record : *records) states.push_back(record.state);
    return states;
  }

  std::string folder_, cgroup_;
  GuardSpec spec_;
  std::unique_ptr<HostActs> acts_;
  std::unique_ptr<Guard> guard_;
};

TEST_F(ActsTest, APodDoesNotStandWhileOneOfItsTasksWaitsForADisk) {
  FakeKernel kernel(cgroup_, [](int thaws, absl::Duration) { return thaws >= 2; });
  const GuardReply reply = Do(GuardOp::kFreeze);
  EXPECT_TRUE(reply.ok) << reply.reason << ": " << reply.message;
  EXPECT_EQ(reply.state, SourceState::kFrozen);
  EXPECT_TRUE(ToldToFreeze());
  EXPECT_GE(kernel.thaws(), 2);
  EXPECT_GT(reply.frozen_at, kernel.first_thaw()) << "of the try that has held";
  EXPECT_THAT(Journaled(), ElementsAre(SourceState::kFrozen));
  EXPECT_TRUE(Do(GuardOp::kThaw).ok);
  EXPECT_FALSE(ToldToFreeze());
}

TEST_F(ActsTest, APodThatWaitsForADiskAllTheTimeIsCaughtByALongerTry) {
  FakeKernel kernel(cgroup_, [](int, absl::Duration told) { return told >= absl::Milliseconds(100); });
  const GuardReply reply = Do(GuardOp::kFreeze);
  EXPECT_TRUE(reply.ok) << reply.reason << ": " << reply.message;
  EXPECT_TRUE(ToldToFreeze());
  EXPECT_GE(kernel.thaws(), 1) << "not by the first";
  EXPECT_THAT(Journaled(), ElementsAre(SourceState::kFrozen));
}

TEST_F(ActsTest, APodThatDoesNotStandStillGoesOnAndSaysWhy) {
  FakeKernel kernel(cgroup_, [](int, absl::Duration) { return false; });
  const GuardReply reply = Do(GuardOp::kFreeze);
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.reason, "FreezeFailed");
  EXPECT_THAT(reply.message, HasSubstr("a task does not stand still"));
  EXPECT_EQ(reply.state, SourceState::kAborted);
  EXPECT_FALSE(ToldToFreeze());
  EXPECT_THAT(Journaled(), ElementsAre(SourceState::kFrozen, SourceState::kAborted));
}

}  // namespace
}  // namespace godwit::guard
