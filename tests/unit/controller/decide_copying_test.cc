// SPDX-License-Identifier: Apache-2.0
// Pre-copy: which strategy is used, and the way from Preflight through Copying to the order to freeze.
#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/observed.h"

namespace godwit::controller {
namespace {

using agent_api::SourceState;
using agent_api::SourceStatus;
using agent_api::TargetState;
using agent_api::TargetStatus;
using crds::MigrationPhase;
using crds::Strategy;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const MigrationSettings kSettings;

std::vector<std::string> ToldBy(const MigrationDecision& decision) {
  std::vector<std::string> reasons;
  for (const Tell& tell : decision.tells) reasons.push_back(tell.reason);
  return reasons;
}

const k8s::Condition& ConditionOf(const MigrationDecision& decision, const char* type) {
  static const k8s::Condition kNone;
  const k8s::Condition* found = k8s::FindCondition(decision.status.conditions, type);
  return found == nullptr ? kNone : *found;
}

// The decision when nothing is left to be written.
MigrationDecision Settled(MigrationObserved& seen, absl::Time now = kNow) {
  for (int i = 0; i < 10; ++i) {
    MigrationDecision decision = Decide(seen, kSettings, now);
    if (decision.status == seen.migration.status) return decision;
    seen.migration.status = decision.status;
  }
  ADD_FAILURE() << "the status never settles";
  return {};
}

struct StrategyCase {
  const char* name;
  Strategy wanted;
  const char* source_cannot;  // NodeInfo.no_pre_copy
  const char* target_cannot;
  MigrationPhase phase;
  std::optional<Strategy> used;
  const char* because;  // reason of PreCopyPossible
};

class StrategyTest : public ::testing::TestWithParam<StrategyCase> {};

TEST_P(StrategyTest, FollowsFromSpecAndNodes) {
  const StrategyCase& c = GetParam();
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight, c.wanted);
  seen.source_node.agent->no_pre_copy = c.source_cannot;
  seen.target_node.agent->no_pre_copy = c.target_cannot;
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, c.phase);
  EXPECT_EQ(decision.status.strategy, c.used);
  EXPECT_EQ(ConditionOf(decision, crds::kPreCopyPossible).reason, c.because);
  EXPECT_EQ(SourceWorksFirst(decision.status), c.phase == MigrationPhase::kCopying);
}

INSTANTIATE_TEST_SUITE_P(
    Table, StrategyTest,
    ::testing::Values(
        StrategyCase{"Auto", Strategy::kAuto, "", "", MigrationPhase::kCopying, Strategy::kPreCopy, ""},
        StrategyCase{"PreCopy", Strategy::kPreCopy, "", "", MigrationPhase::kCopying, Strategy::kPreCopy, ""},
        StrategyCase{"StopAndCopy", Strategy::kStopAndCopy, "", "", MigrationPhase::kPreparing,
                     Strategy::kStopAndCopy, ""},
        StrategyCase{"StopAndCopyAnyway", Strategy::kStopAndCopy, "kernel 6.1", "",
                     MigrationPhase::kPreparing, Strategy::kStopAndCopy, ""},
        StrategyCase{"AutoOldSource", Strategy::kAuto, "kernel 6.1", "", MigrationPhase::kPreparing,
                     Strategy::kStopAndCopy, "NodeCannotPreCopy"},
        StrategyCase{"AutoOldTarget", Strategy::kAuto, "", "kernel 6.1", MigrationPhase::kPreparing,
                     Strategy::kStopAndCopy, "NodeCannotPreCopy"},
        StrategyCase{"PreCopyOldSource", Strategy::kPreCopy, "kernel 6.1", "", MigrationPhase::kFailed,
                     std::nullopt, ""},
        StrategyCase{"PreCopyOldTarget", Strategy::kPreCopy, "", "kernel 6.1", MigrationPhase::kFailed,
                     std::nullopt, ""},
        StrategyCase{"PostCopy", Strategy::kPostCopy, "", "", MigrationPhase::kCopying, Strategy::kPostCopy,
                     ""},
        StrategyCase{"PostCopyOldSource", Strategy::kPostCopy, "kernel 6.1", "", MigrationPhase::kFailed,
                     std::nullopt, ""}),
    [](const auto& info) { return info.param.name; });

TEST(FallbackTest, TheFallbackIsToldWithTheNodeAndItsReason) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight, Strategy::kAuto);
  seen.target_node.agent->no_pre_copy = "kernel 6.1 has no PAGEMAP_SCAN";
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(ConditionOf(decision, crds::kPreCopyPossible).status, "False");
  EXPECT_THAT(ConditionOf(decision, crds::kPreCopyPossible).message,
              HasSubstr("node node-b cannot pre-copy: kernel 6.1 has no PAGEMAP_SCAN"));
  EXPECT_THAT(ToldBy(decision), ElementsAre("NodeCannotPreCopy", "Preparing"));
  EXPECT_TRUE(decision.tells[0].warning);
}

TEST(FallbackTest, PreCopyOnANodeThatCannotFailsBeforeAnythingIsTouched) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight, Strategy::kPreCopy);
  seen.source_node.agent->no_pre_copy = "kernel 6.1 has no PAGEMAP_SCAN";
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(ReasonOf(decision), "NodeCannotPreCopy");
  EXPECT_THAT(MessageOf(decision), HasSubstr("node node-a cannot pre-copy: kernel 6.1 has no PAGEMAP_SCAN"));
  EXPECT_THAT(MessageOf(decision), HasSubstr("Use strategy Auto or StopAndCopy"));
  ASSERT_EQ(decision.status.findings.size(), 1u);
}

struct Case {
  const char* name;
  std::function<void(MigrationObserved&)> spoil;
  const char* reason;
  const char* says;
};

// In Copying and in Preparing after it: nothing stands still, the Migration fails and removes what it made.
class CopyingFailsTest : public ::testing::TestWithParam<Case> {};

TEST_P(CopyingFailsTest, WithTheReason) {
  for (const MigrationPhase phase : {MigrationPhase::kCopying, MigrationPhase::kPreparing}) {
    MigrationObserved seen = GoodObserved(phase, Strategy::kPreCopy);
    GetParam().spoil(seen);
    const MigrationDecision decision = Decide(seen, kSettings, kNow);
    EXPECT_TRUE(Failing(decision)) << json::Name(phase);
    EXPECT_EQ(ReasonOf(decision), GetParam().reason);
    EXPECT_THAT(MessageOf(decision), HasSubstr(GetParam().says));
    EXPECT_EQ(decision.status.phase, phase) << "first what was made is removed";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, CopyingFailsTest,
    ::testing::Values(
        Case{"Deleted", [](auto& s) { s.migration.metadata.deletion_timestamp = kNow; }, "Deleted",
             "before the pod had moved"},
        Case{"SourceGone", [](auto& s) { s.source.reset(); }, "PodGone", "deleted while"},
        Case{"SourceReplaced", [](auto& s) { s.source->view.metadata.uid = "other"; }, "PodReplaced",
             "another of that name"},
        Case{"SourceDying", [](auto& s) { s.source->view.metadata.deletion_timestamp = kNow; },
             "PodTerminating", "being deleted"},
        Case{"SourceEnded", [](auto& s) { s.source->view.status.phase = "Succeeded"; }, "PodNotRunning",
             "Succeeded"},
        Case{"Rival", [](auto& s) { s.rival = "first"; }, "AnotherMigration", "first"},
        Case{"TargetDeleted", [](auto& s) { s.target.reset(); }, "TargetPodDeleted", "deleted before"},
        Case{"NameTaken", [](auto& s) { s.target->metadata.labels.clear(); }, "TargetPodNameTaken",
             "not this Migration's"},
        Case{"TargetAborted",
             [](auto& s) {
               s.target_side = TargetStatus{
                   .state = TargetState::kAborted, .reason = "ResourceExhausted", .message = "no memory"};
             },
             "ResourceExhausted", "no memory"},
        Case{"SourceAborted",
             [](auto& s) {
               s.source_side->state = SourceState::kAborted;
               s.source_side->reason = "ConnectionLost";
               s.source_side->message = "the link broke";
             },
             "ConnectionLost", "the link broke"},
        Case{"SourceAbortedInSilence", [](auto& s) { s.source_side->state = SourceState::kAborted; },
             "Aborted", "the source's agent aborted"},
        Case{"Fallback", [](auto& s) { s.source_side->pre_copy.fallback = "process 12 uses O_DIRECT"; },
             "PodCannotPreCopy", "cannot be copied while it runs: process 12 uses O_DIRECT"},
        Case{"BadLimit", [](auto& s) { s.migration.spec.bandwidth_limit = "much"; }, "InvalidLimit",
             "spec.bandwidthLimit"},
        Case{"Timeout", [](auto& s) { s.migration.status.start_time = kNow - absl::Hours(1); }, "Timeout",
             "spec.timeout (10m) passed before the target pod could take over"}),
    [](const auto& info) { return info.param.name; });

TEST(CopyingTest, GoesStepByStepAndLeavesTheGateClosed) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kCopying, Strategy::kAuto);
  seen.source_side = SourceStatus{};
  seen.target_side = TargetStatus{};
  seen.migration.status.target_pod_uid = "";
  std::optional<k8s::Pod> target = std::exchange(seen.target, std::nullopt);
  EXPECT_EQ(Settled(seen).step, MigrationStep::kCreateTargetPod);
  seen.target = target;
  EXPECT_EQ(Settled(seen).step, MigrationStep::kPermit);
  EXPECT_EQ(seen.migration.status.target_pod_uid, "target-uid");
  seen.target_side = TargetStatus{.state = TargetState::kOpen};
  EXPECT_EQ(Settled(seen).step, MigrationStep::kStartSource) << "the target expects it";
  seen.source_side = CopyingSource(seen.migration.spec);
  seen.source_side->pre_copy = {};
  const MigrationDecision copies = Settled(seen);
  EXPECT_EQ(copies.step, MigrationStep::kNothing);
  EXPECT_EQ(ReasonOf(copies), "Copying");
  EXPECT_EQ(copies.again, absl::Milliseconds(500));
  EXPECT_TRUE(HasPermitGate(*seen.target));
}

TEST(CopyingTest, ProgressIsWrittenAtMostOnceASecond) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kCopying, Strategy::kAuto);
  EXPECT_THAT(MessageOf(Settled(seen)), HasSubstr("2 rounds, 600 MiB sent, 30 MiB written during the last; "
                                                  "the predicted freeze is 340ms"));
  EXPECT_EQ(seen.migration.status.pre_copy.dirty_rate, int64_t{10} << 20);
  EXPECT_EQ(seen.migration.status.pre_copy.observed_time, kNow);
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Minutes(1)).status, seen.migration.status)
      << "nothing has changed";
  seen.source_side->pre_copy.rounds = 3;
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Milliseconds(900)).status, seen.migration.status);
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Seconds(1)).status.pre_copy.rounds, 3);
}

TEST(CopyingTest, ConvergedItStartsTheTargetPodAndSaysAtOnceHowFarItCame) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kCopying, Strategy::kAuto);
  Settled(seen);
  seen.source_side->pre_copy.rounds = 4;
  seen.source_side->pre_copy.predicted_freeze = absl::Milliseconds(43);
  seen.source_side->pre_copy.converged = true;
  const MigrationDecision decision = Decide(seen, kSettings, kNow + absl::Milliseconds(1));
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPreparing);
  EXPECT_EQ(decision.status.pre_copy.rounds, 4);
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kConverged));
  EXPECT_THAT(ConditionOf(decision, crds::kConverged).message,
              HasSubstr("the predicted freeze is 43ms, within spec.freezeBudget (100ms)"));
  EXPECT_THAT(ToldBy(decision), ElementsAre("Preparing"));
}

TEST(CopyingTest, AGivenUpPreCopyThatIsToFreezeGoesOnWithAWarning) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kCopying, Strategy::kAuto);
  seen.source_side->pre_copy.gave_up = true;
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPreparing);
  EXPECT_EQ(ConditionOf(decision, crds::kConverged).status, "False");
  EXPECT_EQ(ConditionOf(decision, crds::kConverged).reason, "NotConverging");
  EXPECT_THAT(ToldBy(decision), ElementsAre("NotConverging", "Preparing"));
  EXPECT_THAT(decision.tells[0].message, HasSubstr("340ms, above spec.freezeBudget (100ms)"));
}

TEST(CopyingTest, AGivenUpPreCopyThatIsToFailTellsItsLastFigures) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kCopying, Strategy::kAuto);
  seen.source_side->state = SourceState::kAborted;
  seen.source_side->reason = "NotConverging";
  seen.source_side->message = "the pod writes faster";
  seen.source_side->pre_copy.gave_up = true;
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(ReasonOf(decision), "NotConverging");
  EXPECT_EQ(ConditionOf(decision, crds::kConverged).status, "False");
  EXPECT_EQ(decision.status.pre_copy.rounds, 2);
}

TEST(CopyingTest, ThePodsOwnObstacleMakesAutoStopAndCopyInTheSameProtocol) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kCopying, Strategy::kAuto);
  seen.source_side->pre_copy = {.converged = true, .fallback = "process 12 (postgres) uses O_DIRECT"};
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPreparing);
  EXPECT_EQ(decision.status.strategy, Strategy::kStopAndCopy);
  EXPECT_EQ(ConditionOf(decision, crds::kPreCopyPossible).reason, "PodCannotPreCopy");
  EXPECT_THAT(ConditionOf(decision, crds::kPreCopyPossible).message,
              HasSubstr("process 12 (postgres) uses O_DIRECT"));
  EXPECT_EQ(ConditionOf(decision, crds::kConverged).status, "False");
  EXPECT_THAT(ToldBy(decision), ElementsAre("PodCannotPreCopy", "Preparing"));
  // The source waits for the order to switch all the same, and it is told no second time why.
  MigrationObserved later = After(seen, decision);
  later.target->spec.scheduling_gates.clear();
  later.target_side->waiting = {"app"};
  const MigrationDecision next = Decide(later, kSettings, kNow);
  EXPECT_THAT(ToldBy(next), ElementsAre("Switching"));
  EXPECT_EQ(Settled(later).step, MigrationStep::kSwitchSource);
}

TEST(CopyingTest, ChangedLimitsAreSentToTheSource) {
  const std::vector<std::function<void(crds::MigrationSpec&)>> changes = {
      [](auto& spec) { spec.freeze_budget = absl::Seconds(1); },
      [](auto& spec) { spec.pre_copy_timeout = absl::Minutes(1); },
      [](auto& spec) { spec.when_not_converging = crds::WhenNotConverging::kFail; },
      [](auto& spec) { spec.bandwidth_limit = "50Mi"; }};
  for (const MigrationPhase phase : {MigrationPhase::kCopying, MigrationPhase::kPreparing}) {
    for (const auto& change : changes) {
      MigrationObserved seen = GoodObserved(phase, Strategy::kAuto);
      change(seen.migration.spec);
      EXPECT_EQ(Settled(seen).step, MigrationStep::kSetLimits);
      seen.source_side->limits = *LimitsOf(seen.migration.spec);
      EXPECT_NE(Settled(seen).step, MigrationStep::kSetLimits) << "it has them";
    }
  }
}

TEST(CopyingTest, BandwidthIsAQuantityAndWithoutOneThereIsNoLimit) {
  crds::MigrationSpec spec;
  EXPECT_EQ(LimitsOf(spec)->bandwidth_limit, 0);
  spec.bandwidth_limit = "1.5Mi";
  EXPECT_EQ(LimitsOf(spec)->bandwidth_limit, 3 << 19);
  spec.bandwidth_limit = "much";
  EXPECT_EQ(LimitsOf(spec).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CopyingTest, ASilentAgentOnEitherSideIsGivenTimeAndThenGivenUp) {
  for (const bool source : {true, false}) {
    MigrationObserved seen = GoodObserved(MigrationPhase::kCopying, Strategy::kAuto);
    if (source) {
      seen.source_side = absl::UnavailableError("cannot connect");
    } else {
      seen.target_side = absl::UnavailableError("cannot connect");
    }
    const MigrationDecision first = Decide(seen, kSettings, kNow);
    EXPECT_FALSE(Failing(first));
    EXPECT_EQ(ReasonOf(first), "AgentUnreachable");
    EXPECT_THAT(MessageOf(first), HasSubstr(source ? "node node-a" : "node node-b"));
    EXPECT_EQ(Decide(After(seen, first), kSettings, kNow + absl::Seconds(29)).status, first.status)
        << "nothing to write while it lasts";
    EXPECT_TRUE(Failing(Decide(After(seen, first), kSettings, kNow + absl::Seconds(31))));
  }
}

TEST(CopyingTest, PreparingAfterItOpensTheGateAndKeepsTellingTheProgress) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreparing, Strategy::kAuto);
  seen.target->spec.scheduling_gates = {{kPermitGate}};
  seen.target_side->waiting.clear();
  EXPECT_EQ(Settled(seen).step, MigrationStep::kOpenGate);
  EXPECT_EQ(seen.migration.status.pre_copy.rounds, 2);
  seen.target->spec.scheduling_gates.clear();
  EXPECT_EQ(ReasonOf(Settled(seen)), "WaitingForTarget");
  seen.target_side->waiting = {"app"};
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.phase, MigrationPhase::kSwitching);
}

TEST(CopyingTest, ASourceThatIsFurtherIsFollowedAndNotFailed) {
  for (const MigrationPhase phase : {MigrationPhase::kCopying, MigrationPhase::kPreparing}) {
    for (const SourceState state : {SourceState::kFrozen, SourceState::kCeded, SourceState::kDone}) {
      MigrationObserved seen = GoodObserved(phase, Strategy::kAuto);
      seen.source_side->state = state;
      seen.migration.metadata.deletion_timestamp = kNow;
      const MigrationDecision decision = Decide(seen, kSettings, kNow);
      EXPECT_EQ(decision.status.phase, MigrationPhase::kSwitching);
      EXPECT_FALSE(Failing(decision));
    }
  }
}

TEST(CopyingTest, FailingInItAbortsTheSourceFirst) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kCopying, Strategy::kAuto);
  seen.migration.metadata.deletion_timestamp = kNow;
  EXPECT_EQ(Settled(seen).step, MigrationStep::kAbortSource);
  seen.source_side->state = SourceState::kAborted;
  EXPECT_EQ(Settled(seen).step, MigrationStep::kAbortTarget);
  EXPECT_THAT(Settled(seen).tells, IsEmpty());
}

}  // namespace
}  // namespace godwit::controller
