// SPDX-License-Identifier: Apache-2.0
#include "runtime/guard/guard.h"

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::guard {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kStart = absl::Seconds(100);

// A machine that does what it is told and remembers it; each thing can be made to fail.
class FakeActs final : public Acts {
 public:
  std::optional<Refusal> Freeze(const std::function<absl::Status()>& before_freeze,
                                FreezeMoment* moment) override {
    *moment = {kStart, absl::UnixEpoch(), kStart};
    if (refuse_before.has_value()) return refuse_before;
    if (!before_freeze().ok()) return Refusal{"JournalFailed", "disk"};
    if (refuse_after.has_value()) return refuse_after;
    did.push_back("freeze");
    return std::nullopt;
  }
  absl::Status Thaw() override {
    did.push_back("thaw");
    return thaw_result;
  }
  absl::Status StillFrozen() override { return still_frozen; }
  absl::Status HoldPod() override {
    if (hold_result.ok()) did.push_back("hold pod");
    return hold_result;
  }
  absl::Status Kill() override {
    did.push_back("kill");
    return kill_result;
  }
  absl::Status Journal(SourceState state, absl::string_view, absl::string_view, SourceState* now) override {
    if (!journal_result.ok()) {
      *now = journal_after_error;
      return journal_result;
    }
    did.push_back("journal " + std::string(json::Name(state)));
    *now = state;
    return absl::OkStatus();
  }
  absl::Status Arm() override {
    if (arm_result.ok()) did.push_back("arm");
    return arm_result;
  }
  void Disarm() override { did.push_back("disarm"); }
  absl::Status StartDump(const std::string& container) override {
    if (container == "stranger") return absl::NotFoundError("no such container");
    did.push_back("dump " + container);
    return absl::OkStatus();
  }
  void AbortDump() override { did.push_back("abort dump"); }

  std::vector<std::string> did;
  absl::Status still_frozen;
  std::optional<Refusal> refuse_before, refuse_after;
  absl::Status arm_result, hold_result, kill_result, journal_result, thaw_result;
  SourceState journal_after_error = SourceState::kNone;
};

class GuardTest : public testing::Test {
 protected:
  GuardTest() {
    spec_.freeze_limit = absl::Seconds(10);
    spec_.containers.push_back(
        {.name = "app", .id = "1", .cgroup = "/c", .runc_root = "", .init_pid = 5, .images = "", .work = ""});
  }
  GuardReply Do(GuardOp op, const std::string& container = "", absl::Duration at = kStart) {
    const auto reply = guard_->Handle({.op = op, .container = container, .message = "why"}, at);
    EXPECT_TRUE(reply.has_value());
    return reply.value_or(GuardReply{});
  }
  void StartDump() {
    ASSERT_FALSE(
        guard_->Handle({.op = GuardOp::kDump, .container = "app", .message = ""}, kStart).has_value());
  }
  void Frozen() { EXPECT_TRUE(Do(GuardOp::kFreeze).ok); }
  void Dumped() {
    Frozen();
    StartDump();
    EXPECT_TRUE(guard_->DumpEnded(absl::OkStatus(), kStart).ok);
  }
  void Ceded() {
    Dumped();
    EXPECT_TRUE(Do(GuardOp::kCede).ok);
    acts_.did.clear();
  }

  GuardSpec spec_;
  FakeActs acts_;
  std::optional<Guard> guard_{std::in_place, spec_, acts_, SourceState::kNone};
};

TEST_F(GuardTest, TheOrdinaryHandOverJournalsBeforeEachAct) {
  Dumped();
  EXPECT_TRUE(Do(GuardOp::kCede).ok);
  EXPECT_TRUE(Do(GuardOp::kKill).ok);
  EXPECT_THAT(acts_.did, ElementsAre("journal Frozen", "freeze", "dump app", "hold pod", "journal Ceded",
                                     "kill", "journal Done"));
  EXPECT_TRUE(guard_->finished());
}

TEST_F(GuardTest, ThawingComesBeforeItsRecord) {
  Frozen();
  const GuardReply reply = Do(GuardOp::kThaw);
  EXPECT_TRUE(reply.ok);
  EXPECT_EQ(reply.state, SourceState::kAborted);
  EXPECT_THAT(acts_.did, ElementsAre("journal Frozen", "freeze", "thaw", "journal Aborted"));
}

TEST_F(GuardTest, ARefusalBeforeTheFreezeLeavesEverythingAsItWas) {
  acts_.refuse_before = Refusal{"ExecInFlight", "an exec"};
  const GuardReply reply = Do(GuardOp::kFreeze);
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.reason, "ExecInFlight");
  EXPECT_EQ(reply.state, SourceState::kOpen);
  EXPECT_THAT(acts_.did, IsEmpty());
  acts_.refuse_before.reset();
  EXPECT_TRUE(Do(GuardOp::kFreeze).ok);
}

TEST_F(GuardTest, ARefusalAfterTheRecordIsJournaledAsAborted) {
  acts_.refuse_after = Refusal{"PendingSignal", "SIGTERM"};
  const GuardReply reply = Do(GuardOp::kFreeze);
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.state, SourceState::kAborted);
  EXPECT_THAT(acts_.did, ElementsAre("journal Frozen", "journal Aborted"));
}

TEST_F(GuardTest, NothingIsFrozenWhenTheRecordCannotBeWritten) {
  acts_.journal_result = absl::ResourceExhaustedError("disk full");
  EXPECT_EQ(Do(GuardOp::kFreeze).reason, "JournalFailed");
  EXPECT_THAT(acts_.did, IsEmpty());
}

TEST_F(GuardTest, AFailedDumpThawsAndTellsWhy) {
  Frozen();
  StartDump();
  const GuardReply reply = guard_->DumpEnded(absl::InternalError("io_uring"), kStart + absl::Seconds(1));
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.reason, "DumpFailed");
  EXPECT_THAT(reply.message, HasSubstr("cannot dump container app: io_uring"));
  EXPECT_EQ(reply.frozen_for, absl::Seconds(1));
  EXPECT_EQ(acts_.did.at(3), "thaw");
}

TEST_F(GuardTest, ALostAgentThawsOnlyAfterTheDumpHasEnded) {
  Frozen();
  StartDump();
  acts_.did.clear();
  guard_->AgentGone(kStart);
  EXPECT_THAT(acts_.did, ElementsAre("abort dump"));
  EXPECT_EQ(guard_->state(), SourceState::kFrozen);
  guard_->DumpEnded(absl::CancelledError("aborted"), kStart);
  EXPECT_THAT(acts_.did, ElementsAre("abort dump", "thaw", "journal Aborted"));
  EXPECT_EQ(guard_->Status(kStart).reason, "AgentGone");
}

// The dump may win the race against its end: its success does not change what was decided.
TEST_F(GuardTest, ALostAgentThawsAlsoWhenTheDumpStillSucceeds) {
  Frozen();
  StartDump();
  guard_->AgentGone(kStart);
  guard_->DumpEnded(absl::OkStatus(), kStart);
  EXPECT_EQ(guard_->state(), SourceState::kAborted);
}

TEST_F(GuardTest, ALostAgentBeforeTheFreezeEndsIt) {
  guard_->AgentGone(kStart);
  EXPECT_TRUE(guard_->finished());
  EXPECT_THAT(acts_.did, IsEmpty());
}

TEST_F(GuardTest, TheFreezeLimitThaws) {
  Frozen();
  EXPECT_EQ(guard_->deadline(), kStart + absl::Seconds(10));
  guard_->Tick(kStart + absl::Milliseconds(9999));
  EXPECT_EQ(guard_->state(), SourceState::kFrozen);
  guard_->Tick(kStart + absl::Seconds(10));
  EXPECT_EQ(guard_->state(), SourceState::kAborted);
  EXPECT_EQ(guard_->Status(kStart).reason, "FreezeLimit");
  for (const GuardOp late : {GuardOp::kDump, GuardOp::kCede, GuardOp::kFreeze, GuardOp::kArm}) {
    const GuardReply reply = Do(late, "app");
    EXPECT_FALSE(reply.ok);
    EXPECT_EQ(reply.reason, "FreezeLimit") << "an agent that was held up is told why";
    EXPECT_THAT(reply.message, HasSubstr("the pod was frozen for its limit"));
  }
}

TEST_F(GuardTest, ADumpIsAskedToEndBeforeTheLimit) {
  Frozen();
  StartDump();
  acts_.did.clear();
  EXPECT_EQ(guard_->deadline(), kStart + absl::Milliseconds(9500));
  guard_->Tick(kStart + absl::Milliseconds(9500));
  EXPECT_THAT(acts_.did, ElementsAre("abort dump"));
  EXPECT_EQ(guard_->deadline(), std::nullopt) << "it was asked; now its end is awaited";
}

TEST_F(GuardTest, APodThatSomebodyElseHasThawedIsNotCeded) {
  Dumped();
  acts_.did.clear();
  acts_.still_frozen = absl::DeadlineExceededError("app does not stand still");
  const GuardReply reply = Do(GuardOp::kCede);
  EXPECT_EQ(reply.state, SourceState::kAborted);
  EXPECT_EQ(reply.reason, "Thawed");
  EXPECT_THAT(acts_.did, ElementsAre("thaw", "journal Aborted"));
}

TEST_F(GuardTest, APodOfWhichAProcessWasKilledIsNotCeded) {
  Dumped();
  acts_.still_frozen = absl::NotFoundError("a process of it was killed");
  const GuardReply reply = Do(GuardOp::kCede);
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.reason, "ContainerGone");
}

TEST_F(GuardTest, APodThatCannotBeHeldIsNotCeded) {
  Dumped();
  acts_.did.clear();
  acts_.hold_result = absl::UnavailableError("read-only");
  const GuardReply reply = Do(GuardOp::kCede);
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.reason, "HoldFailed");
  EXPECT_THAT(reply.message, HasSubstr("read-only"));
  EXPECT_THAT(acts_.did, ElementsAre("thaw", "journal Aborted"));
}

TEST_F(GuardTest, OnceCededNothingThawsButTheTargetsAbort) {
  Ceded();
  guard_->AgentGone(kStart);
  guard_->Tick(kStart + absl::Hours(1));
  EXPECT_EQ(Do(GuardOp::kThaw).reason, "Ceded");
  EXPECT_EQ(guard_->deadline(), std::nullopt);
  EXPECT_THAT(acts_.did, IsEmpty());
  EXPECT_TRUE(Do(GuardOp::kTargetAborted).ok);
  EXPECT_THAT(acts_.did, ElementsAre("journal Aborted", "thaw"))
      << "the record first: CEDED stands in the journal";
}

TEST_F(GuardTest, AThawThatFailsIsSaidAndTriedAgain) {
  Ceded();
  acts_.thaw_result = absl::UnavailableError("cgroup.freeze");
  EXPECT_EQ(Do(GuardOp::kTargetAborted).reason, "ThawFailed");
  EXPECT_EQ(Do(GuardOp::kTargetAborted).reason, "ThawFailed") << "it stands still";
  acts_.thaw_result = absl::OkStatus();
  EXPECT_TRUE(Do(GuardOp::kTargetAborted).ok);
  EXPECT_THAT(acts_.did, ElementsAre("journal Aborted", "thaw", "thaw", "thaw"));
}

TEST_F(GuardTest, ThePodStaysFrozenWhenTheTargetsAbortCannotBeWritten) {
  Ceded();
  acts_.journal_result = absl::DataLossError("disk");
  acts_.journal_after_error = SourceState::kCeded;
  EXPECT_EQ(Do(GuardOp::kTargetAborted).reason, "JournalFailed");
  EXPECT_THAT(acts_.did, IsEmpty());
}

TEST_F(GuardTest, CedingNeedsADumpOfEveryContainer) {
  Frozen();
  EXPECT_EQ(Do(GuardOp::kCede).reason, "NotDumped");
  EXPECT_EQ(guard_->state(), SourceState::kFrozen);
}

TEST_F(GuardTest, CedingThatSurelyWasNotWrittenThaws) {
  Dumped();
  acts_.journal_result = absl::ResourceExhaustedError("disk full");
  acts_.journal_after_error = SourceState::kFrozen;
  const GuardReply reply = Do(GuardOp::kCede);
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.state, SourceState::kAborted);
  EXPECT_EQ(acts_.did.back(), "thaw");
}

TEST_F(GuardTest, CedingOfWhichNobodyKnowsStaysFrozen) {
  Dumped();
  acts_.did.clear();
  acts_.journal_result = absl::DataLossError("disk");
  const GuardReply reply = Do(GuardOp::kCede);
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.reason, "JournalFailed");
  guard_->AgentGone(kStart);
  EXPECT_THAT(acts_.did, ElementsAre("hold pod"));
}

TEST_F(GuardTest, CedingOfWhichNobodyKnewIsLookedAtAgain) {
  for (const SourceState found : {SourceState::kCeded, SourceState::kFrozen}) {
    guard_.emplace(spec_, acts_, SourceState::kNone);
    acts_.journal_result = absl::OkStatus();
    Dumped();
    acts_.journal_result = absl::DataLossError("disk");
    acts_.journal_after_error = SourceState::kNone;
    EXPECT_FALSE(Do(GuardOp::kCede).ok);
    ASSERT_TRUE(guard_->deadline().has_value());
    acts_.journal_after_error = found;
    guard_->Tick(*guard_->deadline());
    EXPECT_EQ(guard_->state(), found == SourceState::kCeded ? SourceState::kCeded : SourceState::kAborted);
    EXPECT_EQ(acts_.did.back() == "thaw", found == SourceState::kFrozen);
    EXPECT_FALSE(guard_->deadline().has_value());
  }
}

TEST_F(GuardTest, CedingThatWasWrittenInSpiteOfAnErrorCounts) {
  Dumped();
  acts_.journal_result = absl::DataLossError("disk");
  acts_.journal_after_error = SourceState::kCeded;
  EXPECT_TRUE(Do(GuardOp::kCede).ok);
  EXPECT_EQ(guard_->state(), SourceState::kCeded);
}

TEST_F(GuardTest, KillingNeedsTheDecision) {
  EXPECT_EQ(Do(GuardOp::kKill).reason, "WrongState");
  Frozen();
  EXPECT_EQ(Do(GuardOp::kKill).reason, "WrongState");
}

TEST_F(GuardTest, AFailedKillIsNotDone) {
  Ceded();
  acts_.kill_result = absl::DeadlineExceededError("a task is left");
  EXPECT_EQ(Do(GuardOp::kKill).reason, "KillFailed");
  EXPECT_EQ(guard_->state(), SourceState::kCeded);
  acts_.kill_result = absl::OkStatus();
  EXPECT_TRUE(Do(GuardOp::kKill).ok);
}

TEST_F(GuardTest, CommandsCanBeRepeated) {
  Frozen();
  EXPECT_TRUE(Do(GuardOp::kFreeze).ok);
  StartDump();
  guard_->DumpEnded(absl::OkStatus(), kStart);
  EXPECT_TRUE(Do(GuardOp::kCede).ok);
  EXPECT_TRUE(Do(GuardOp::kCede).ok);
  EXPECT_TRUE(Do(GuardOp::kKill).ok);
  EXPECT_TRUE(Do(GuardOp::kKill).ok);
  EXPECT_EQ(Do(GuardOp::kDump, "app").reason, "WrongState");
}

TEST_F(GuardTest, ArmedDumpsAreBegunInTheFreeze) {
  EXPECT_TRUE(Do(GuardOp::kArm).ok);
  EXPECT_EQ(guard_->state(), SourceState::kOpen);
  Dumped();
  EXPECT_TRUE(Do(GuardOp::kCede).ok);
  EXPECT_TRUE(Do(GuardOp::kKill).ok);
  EXPECT_THAT(acts_.did, ElementsAre("arm", "journal Frozen", "freeze", "dump app", "hold pod",
                                     "journal Ceded", "kill", "journal Done"));
}

TEST_F(GuardTest, WhatWasArmedIsDisarmedWhenThePodIsNotDumped) {
  const struct {
    const char* name;
    std::function<void()> end;
    std::vector<std::string> did;
  } cases[] = {
      {"thawed while open", [&] { Do(GuardOp::kThaw); }, {"arm", "journal Aborted", "disarm"}},
      {"agent gone while open", [&] { guard_->AgentGone(kStart); }, {"arm", "disarm"}},
      {"thawed",
       [&] {
         Frozen();
         Do(GuardOp::kThaw);
       },
       {"arm", "journal Frozen", "freeze", "thaw", "journal Aborted", "disarm"}},
      {"refused after the record",
       [&] {
         acts_.refuse_after = Refusal{"PendingSignal", "SIGTERM"};
         Do(GuardOp::kFreeze);
       },
       {"arm", "journal Frozen", "journal Aborted", "disarm"}},
      {"freeze limit",
       [&] {
         Frozen();
         guard_->Tick(kStart + absl::Seconds(10));
       },
       {"arm", "journal Frozen", "freeze", "thaw", "journal Aborted", "disarm"}},
  };
  for (const auto& c : cases) {
    acts_ = FakeActs();
    guard_.emplace(spec_, acts_, SourceState::kNone);
    EXPECT_TRUE(Do(GuardOp::kArm).ok);
    c.end();
    EXPECT_EQ(acts_.did, c.did) << c.name;
    EXPECT_TRUE(guard_->finished()) << c.name;
  }
}

TEST_F(GuardTest, AFailedArmingChangesNothing) {
  acts_.arm_result = absl::DeadlineExceededError("CRIU did not come");
  const GuardReply reply = Do(GuardOp::kArm);
  EXPECT_FALSE(reply.ok);
  EXPECT_EQ(reply.reason, "ArmFailed");
  EXPECT_EQ(reply.state, SourceState::kOpen);
  Dumped();
  EXPECT_EQ(guard_->state(), SourceState::kFrozen);
}

TEST_F(GuardTest, ArmingIsForAPodThatRuns) {
  Frozen();
  EXPECT_EQ(Do(GuardOp::kArm).reason, "WrongState");
  EXPECT_EQ(guard_->state(), SourceState::kFrozen);
}

TEST_F(GuardTest, ARefusedFreezeLeavesDumpsArmed) {
  EXPECT_TRUE(Do(GuardOp::kArm).ok);
  acts_.refuse_before = Refusal{"ExecInFlight", "an exec"};
  Do(GuardOp::kFreeze);
  EXPECT_THAT(acts_.did, ElementsAre("arm")) << "it may be tried again";
}

TEST_F(GuardTest, AnUnknownContainerIsRefusedAndChangesNothing) {
  Frozen();
  EXPECT_EQ(Do(GuardOp::kDump, "stranger").reason, "UnknownContainer");
  EXPECT_EQ(guard_->state(), SourceState::kFrozen);
}

TEST_F(GuardTest, ANewGuardThawsWhatADeadOneLeftFrozen) {
  Guard second(spec_, acts_, SourceState::kFrozen);
  second.Recover(kStart);
  EXPECT_EQ(second.state(), SourceState::kAborted);
  EXPECT_THAT(acts_.did, ElementsAre("thaw", "journal Aborted"));
}

TEST_F(GuardTest, ANewGuardThawsWhatADeadOneHadAbortedAndPerhapsNotThawed) {
  Guard second(spec_, acts_, SourceState::kAborted);
  second.Recover(kStart);
  EXPECT_THAT(acts_.did, ElementsAre("thaw"));
}

TEST_F(GuardTest, WhatWasToldToEndFreezesNothing) {
  guard_->AgentGone(kStart);
  EXPECT_EQ(Do(GuardOp::kFreeze).reason, "WrongState");
  EXPECT_THAT(acts_.did, IsEmpty());
}

TEST_F(GuardTest, TheEndOfTheProcessThawsOnlyWhatSurelyWasNotCeded) {
  EXPECT_TRUE(ThawsAsItEnds(SourceState::kFrozen));
  EXPECT_TRUE(ThawsAsItEnds(SourceState::kAborted));
  EXPECT_FALSE(ThawsAsItEnds(SourceState::kCeded));
  EXPECT_FALSE(ThawsAsItEnds(std::nullopt));
}

TEST_F(GuardTest, AGuardStaysWhileItHasSomethingToAnswerFor) {
  const auto ends = [this](bool had_agent, bool has_agent, absl::Duration idle) {
    return MayEnd(*guard_, had_agent, has_agent, idle);
  };
  EXPECT_FALSE(ends(false, false, absl::Seconds(29)));
  EXPECT_TRUE(ends(false, false, absl::Seconds(31))) << "nobody came";
  EXPECT_FALSE(ends(true, true, absl::Hours(1)));
  Frozen();
  EXPECT_FALSE(ends(true, false, absl::Hours(1)));
  Do(GuardOp::kThaw);
  EXPECT_FALSE(ends(true, true, absl::Seconds(29))) << "its agent may ask how it ended";
  EXPECT_TRUE(ends(true, true, absl::Seconds(31)));
  EXPECT_TRUE(ends(true, false, absl::ZeroDuration()));
}

TEST_F(GuardTest, ANewGuardKeepsWhatWasCededFrozen) {
  Guard second(spec_, acts_, SourceState::kCeded);
  second.Recover(kStart);
  second.AgentGone(kStart);
  EXPECT_EQ(second.state(), SourceState::kCeded);
  EXPECT_THAT(acts_.did, IsEmpty());
}

}  // namespace
}  // namespace godwit::guard
