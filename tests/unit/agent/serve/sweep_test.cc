// SPDX-License-Identifier: Apache-2.0
// A node in a folder: /proc's and the cgroup mount's place is taken by files.
#include "agent/serve/sweep.h"

#include <unistd.h>

#include <fstream>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "agent/api/host_protocol.h"
#include "agent/journal/journal.h"
#include "agent/permits/permit_store.h"
#include "base/file.h"
#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::serve {
namespace {

using agent_api::SourceState;

constexpr char kUid[] = "0b9f5d1e-1111-4222-8333-444455556666";
constexpr char kPod[] = "7c9f5d1e-1111-4222-8333-444455556666";

class SweepTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = absl::StrCat(::testing::TempDir(), "/sweep-XXXXXX");
    ASSERT_NE(mkdtemp(root_.data()), nullptr);
    sweep_.emplace(Sweep::Options{.host = {.root = root_},
                                  .state_folder = root_ + "/state",
                                  .run_folder = root_ + "/run",
                                  .knows = [this](const std::string& uid) { return known_.contains(uid); }});
    known_ = {kUid};
  }
  void Cgroup(const std::string& name, bool populated, bool frozen) {
    const std::string folder = absl::StrCat(root_, "/sys/fs/cgroup", name);
    ASSERT_TRUE(MakeFolders(folder).ok());
    std::ofstream(folder + "/cgroup.events") << "populated " << populated << "\nfrozen " << frozen << "\n";
  }
  void Guard(bool lives) { Cgroup(absl::StrCat("/godwit-guard/", kUid), lives, false); }
  // What a source leaves on the disk, in `folder`, its journal ending with `state`.
  void Source(const std::string& folder, SourceState state, absl::Time since) {
    ASSERT_TRUE(MakeFolders(folder).ok());
    agent_api::GuardSpec spec{.migration_uid = kUid,
                              .socket = folder + "/guard.sock",
                              .journal = folder + "/journal",
                              .log = folder + "/log",
                              .runtime = "runc",
                              .criu_folder = "/opt/godwit/criu",
                              .freeze_limit = absl::Seconds(20)};
    spec.containers.push_back({.name = "app", .id = "a", .cgroup = "/sys/fs/cgroup/pod/a"});
    ASSERT_TRUE(WriteFileDurably(folder + "/guard.json", json::Encode(spec)).ok());
    auto journal = journal::SourceJournal::Open(spec.journal);
    ASSERT_TRUE(journal.ok());
    for (const SourceState step : {SourceState::kOpen, SourceState::kFrozen, state}) {
      ASSERT_TRUE(journal->Append({.state = step, .time = since}).ok());
      if (step == state) break;
    }
  }
  std::string MigrationFolder() const { return absl::StrCat(root_, "/state/migrations/", kUid, "/source"); }
  std::string Look(absl::Duration later) {
    return absl::StrJoin(sweep_->Look(now_ + later), ",",
                         [](std::string* out, const BrokenPromise& one) { out->append(one.invariant); });
  }

  std::string root_;
  const absl::Time now_ = absl::Now();
  std::set<std::string> known_;
  std::optional<Sweep> sweep_;
};

TEST_F(SweepTest, ANodeInOrderIsQuiet) {
  EXPECT_EQ(Look(absl::ZeroDuration()), "") << "not even folders are there";
  Cgroup("/pod/a", true, true);
  Guard(true);
  Source(MigrationFolder(), SourceState::kFrozen, now_);
  EXPECT_EQ(Look(absl::ZeroDuration()), "");
  EXPECT_EQ(Look(absl::Seconds(20)), "") << "within its limit, and guarded";
}

TEST_F(SweepTest, AFrozenPodWithoutAGuardIsToldOnceAndNotBeforeItIsSure) {
  Cgroup("/pod/a", true, true);
  Guard(false);
  Source(MigrationFolder(), SourceState::kFrozen, now_);
  EXPECT_EQ(Look(absl::ZeroDuration()), "");
  EXPECT_EQ(Look(absl::Seconds(5)), "");
  EXPECT_EQ(Look(absl::Seconds(11)), "I6");
  EXPECT_EQ(Look(absl::Seconds(30)), "");
}

TEST_F(SweepTest, ANewGuardInTimeIsInOrder) {
  Cgroup("/pod/a", true, true);
  Guard(false);
  Source(MigrationFolder(), SourceState::kFrozen, now_);
  EXPECT_EQ(Look(absl::ZeroDuration()), "");
  Guard(true);
  EXPECT_EQ(Look(absl::Seconds(5)), "");
  Guard(false);
  EXPECT_EQ(Look(absl::Seconds(12)), "") << "a suspicion begins anew";
}

TEST_F(SweepTest, ACheckpointsGuardIsLookedAtToo) {
  Cgroup("/pod/a", true, true);
  Source(absl::StrCat(root_, "/run/guards/", kUid), SourceState::kFrozen, now_);
  Look(absl::ZeroDuration());
  EXPECT_EQ(Look(absl::Seconds(11)), "I6");
}

TEST_F(SweepTest, WhatIsHandedOverMayStandStill) {
  Cgroup("/pod/a", true, true);
  Source(MigrationFolder(), SourceState::kCeded, now_ - absl::Hours(1));
  Look(absl::ZeroDuration());
  EXPECT_EQ(Look(absl::Seconds(60)), "");
}

TEST_F(SweepTest, WhatSomebodyElseFrozeIsTheirs) {
  Cgroup("/pod/a", true, true);
  Source(MigrationFolder(), SourceState::kOpen, now_ - absl::Hours(1));
  Look(absl::ZeroDuration());
  EXPECT_EQ(Look(absl::Seconds(60)), "");
}

TEST_F(SweepTest, AFreezeBeyondItsLimitIsTold) {
  Cgroup("/pod/a", true, true);
  Guard(true);
  Source(MigrationFolder(), SourceState::kFrozen, now_);
  EXPECT_EQ(Look(absl::Seconds(45)), "");
  EXPECT_EQ(Look(absl::Seconds(55)), "");
  EXPECT_EQ(Look(absl::Seconds(66)), "I2");
}

TEST_F(SweepTest, AnAbortThatDidNotThawIsTold) {
  Cgroup("/pod/a", true, true);
  Guard(true);
  Source(MigrationFolder(), SourceState::kAborted, now_);
  Look(absl::ZeroDuration());
  EXPECT_EQ(Look(absl::Seconds(11)), "I2");
  Cgroup("/pod/a", true, false);
  EXPECT_EQ(Look(absl::Seconds(30)), "");
}

TEST_F(SweepTest, AGuardOfNoOperationIsLeftBehind) {
  Guard(true);
  Look(absl::ZeroDuration());
  EXPECT_EQ(Look(absl::Seconds(11)), "");
  known_.clear();
  Look(absl::Seconds(20));
  EXPECT_EQ(Look(absl::Seconds(31)), "I5");
}

TEST_F(SweepTest, AnAbortedCopyThatLivesIsLeftBehind) {
  ASSERT_TRUE(
      permits::PermitStore(root_ + "/state/permits")
          .Write(kPod, "app",
                 {.state = agent_api::PermitState::kAborted, .migration_uid = kUid, .copy_cgroup = "/pod/b"})
          .ok());
  Cgroup("/pod/b", true, true);
  Look(absl::ZeroDuration());
  EXPECT_EQ(Look(absl::Seconds(11)), "") << "the operation is still at it";
  known_.clear();
  Look(absl::Seconds(20));
  EXPECT_EQ(Look(absl::Seconds(31)), "I5");
}

TEST_F(SweepTest, DamagedFilesAccuseNobody) {
  Cgroup("/pod/a", true, true);
  Source(MigrationFolder(), SourceState::kFrozen, now_);
  std::ofstream(MigrationFolder() + "/guard.json") << "{";
  Look(absl::ZeroDuration());
  EXPECT_EQ(Look(absl::Seconds(60)), "");
}

}  // namespace
}  // namespace godwit::serve
