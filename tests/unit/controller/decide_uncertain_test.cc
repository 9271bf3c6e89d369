// SPDX-License-Identifier: Apache-2.0
// A Migration that is cancelled, one that is stuck, and one of which nobody can know how it went.
#include <algorithm>
#include <string>

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
using crds::ResolveUncertain;
using ::testing::HasSubstr;

const MigrationSettings kSettings;
const absl::Status kSilent = absl::UnavailableError("cannot connect");
const absl::Time kLater = kNow + absl::Minutes(1);

const k8s::Condition* Find(const MigrationDecision& decision, const char* type) {
  return k8s::FindCondition(decision.status.conditions, type);
}
bool Tells(const MigrationDecision& decision, absl::string_view reason) {
  return std::any_of(decision.tells.begin(), decision.tells.end(),
                     [reason](const Tell& tell) { return tell.reason == reason; });
}

// --- cancel

class CancelledInTest : public ::testing::TestWithParam<MigrationPhase> {};
INSTANTIATE_TEST_SUITE_P(Phases, CancelledInTest,
                         ::testing::Values(MigrationPhase::kPending, MigrationPhase::kPreflight,
                                           MigrationPhase::kCopying, MigrationPhase::kPreparing),
                         [](const auto& info) { return std::string(json::Name(info.param)); });

TEST_P(CancelledInTest, ItFailsAtOnceWithAReasonOfItsOwn) {
  MigrationObserved seen = GoodObserved(GetParam(), crds::Strategy::kAuto);
  seen.migration.spec.cancel = true;
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_TRUE(Failing(decision));
  EXPECT_EQ(ReasonOf(decision), "Cancelled");
}

TEST(CancelTest, TheEndIsNoWarningAndSaysThatItWasCancelled) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPending);
  seen.migration.spec.cancel = true;
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kFailed);
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kCancelled));
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kCleanedUp));
  ASSERT_EQ(decision.tells.size(), 1u);
  EXPECT_FALSE(decision.tells.front().warning);
}

TEST(CancelTest, WhileItSwitchesTheSourceHasTheLastWord) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kSwitching);
  seen.migration.spec.cancel = true;
  for (const SourceState state : {SourceState::kOpen, SourceState::kFrozen}) {
    seen.source_side = SourceStatus{.state = state};
    const MigrationDecision decision = Decide(seen, kSettings, kNow);
    EXPECT_EQ(decision.step, MigrationStep::kAbortSource);
    EXPECT_EQ(decision.why.reason, "Cancelled");
    EXPECT_FALSE(Failing(decision));
  }
}

TEST(CancelTest, AfterTheDecisionItIsTooLateAndThatIsToldOnce) {
  MigrationObserved ceded = GoodObserved(MigrationPhase::kSwitching);
  ceded.migration.spec.cancel = true;
  ceded.source_side = SourceStatus{.state = SourceState::kCeded};
  for (const MigrationObserved& seen : {ceded, [] {
                                          MigrationObserved finishing =
                                              GoodObserved(MigrationPhase::kFinishing);
                                          finishing.migration.spec.cancel = true;
                                          return finishing;
                                        }()}) {
    const MigrationDecision decision = Decide(seen, kSettings, kNow);
    ASSERT_NE(Find(decision, crds::kCancelled), nullptr);
    EXPECT_EQ(Find(decision, crds::kCancelled)->reason, "TooLate");
    EXPECT_TRUE(Tells(decision, "TooLateToCancel"));
    EXPECT_FALSE(Failing(decision));
    EXPECT_FALSE(Tells(Decide(After(seen, decision), kSettings, kNow), "TooLateToCancel"));
  }
}

TEST(CancelTest, WithASilentSourceAnOpenTargetEndsItAtOnce) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kSwitching);
  seen.migration.spec.cancel = true;
  seen.source_side = kSilent;
  MigrationDecision decision = Decide(seen, kSettings, kNow);
  decision = Decide(After(seen, decision), kSettings, kNow);
  EXPECT_EQ(decision.step, MigrationStep::kAbortTarget);
  EXPECT_EQ(decision.why.reason, "Cancelled");
  seen.target_side = TargetStatus{.state = TargetState::kAborted};
  decision = Decide(seen, kSettings, kNow);
  EXPECT_TRUE(Failing(decision));
  EXPECT_EQ(ReasonOf(decision), "Cancelled");
}

// --- stuck

TEST(StuckTest, WhatDoesNotChangeForLongIsToldOnceAndNoMoreWhenItGoesOn) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kFinishing);
  const HandOver hand_over = HandOverOf(seen.source->view.metadata);
  seen.target->metadata.labels.insert(hand_over.labels.begin(), hand_over.labels.end());
  seen.target->metadata.owner_references = hand_over.owners;
  seen.source->view.metadata.deletion_timestamp = kNow;
  seen.source_side = SourceStatus{.state = SourceState::kNone};
  seen = After(seen, Decide(seen, kSettings, kNow));
  MigrationDecision decision = Decide(seen, kSettings, kNow + absl::Seconds(30));
  EXPECT_EQ(Find(decision, crds::kStuck), nullptr);
  EXPECT_LE(decision.again, kSettings.stuck_after);
  decision = Decide(seen, kSettings, kNow + kSettings.stuck_after + absl::Seconds(1));
  ASSERT_NE(Find(decision, crds::kStuck), nullptr);
  EXPECT_EQ(Find(decision, crds::kStuck)->status, "True");
  EXPECT_EQ(Find(decision, crds::kStuck)->reason, "RemovingSource");
  EXPECT_TRUE(Tells(decision, crds::kStuck));
  seen = After(seen, decision);
  EXPECT_TRUE(Decide(seen, kSettings, kNow + absl::Minutes(5)).tells.empty());
  seen.source.reset();
  decision = Decide(seen, kSettings, kNow + absl::Minutes(6));
  for (int i = 0; i < 5 && decision.status.phase == MigrationPhase::kFinishing; ++i) {
    if (decision.step == MigrationStep::kForgetTarget) seen.target_side = TargetStatus{};
    decision = Decide(seen = After(seen, decision), kSettings, kNow + absl::Minutes(6));
  }
  EXPECT_EQ(decision.status.phase, MigrationPhase::kSucceeded);
  EXPECT_EQ(Find(decision, crds::kStuck)->status, "False");
}

TEST(StuckTest, ATargetThatDoesNotStartSaysWhyWithinSeconds) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreparing);
  seen.target_side = TargetStatus{.state = TargetState::kOpen};
  seen = After(seen, Decide(seen, kSettings, kNow));
  seen.target_warning = "FailedCreatePodSandBox: mkdir /var/log/pods/...: file name too long";
  const absl::Time then = kNow + absl::Seconds(5);
  MigrationDecision decision = Decide(seen, kSettings, then);
  EXPECT_THAT(MessageOf(decision), HasSubstr("file name too long"));
  EXPECT_TRUE(Tells(decision, "TargetNotStarting"));
  EXPECT_TRUE(Decide(After(seen, decision), kSettings, then).tells.empty());
  seen.target->status.conditions.push_back(
      {.type = "PodScheduled", .status = "True", .last_transition_time = kNow});
  EXPECT_FALSE(Failing(Decide(seen, kSettings, then)));
  decision = Decide(seen, kSettings, kNow + kSettings.sandbox_limit);
  EXPECT_TRUE(Failing(decision));
  EXPECT_EQ(ReasonOf(decision), "FailedCreatePodSandBox");
}

// --- uncertain

// The source has ceded, the target's agent has been silent for a minute.
MigrationObserved WithoutTarget() {
  MigrationObserved seen = GoodObserved(MigrationPhase::kSwitching);
  seen.source_side = SourceStatus{.state = SourceState::kCeded, .frozen_at = kNow};
  seen.target_side = kSilent;
  return After(seen, Decide(seen, kSettings, kNow));
}
// The target is prepared, the source's agent has been silent for a minute.
MigrationObserved WithoutSource() {
  MigrationObserved seen = GoodObserved(MigrationPhase::kSwitching);
  seen.source_side = kSilent;
  seen.target_side = TargetStatus{.state = TargetState::kPrepared};
  return After(seen, Decide(seen, kSettings, kNow));
}
// As it is told.
MigrationObserved Told(const MigrationObserved& seen) { return After(seen, Decide(seen, kSettings, kLater)); }

TEST(UncertainTest, ASilentTargetAfterTheDecisionIsSaidToBeUncertainAndNothingIsDone) {
  const MigrationObserved seen = WithoutTarget();
  EXPECT_EQ(Find(Decide(seen, kSettings, kNow + absl::Seconds(5)), crds::kSwitched), nullptr) << "not yet";
  const MigrationDecision decision = Decide(seen, kSettings, kLater);
  ASSERT_NE(Find(decision, crds::kSwitched), nullptr);
  EXPECT_EQ(Find(decision, crds::kSwitched)->status, "Unknown");
  EXPECT_EQ(Find(decision, crds::kSwitched)->reason, "OutcomeUncertain");
  EXPECT_THAT(Find(decision, crds::kSwitched)->message, HasSubstr("resolveUncertain"));
  EXPECT_EQ(ReasonOf(decision), "OutcomeUncertain");
  EXPECT_TRUE(Tells(decision, "OutcomeUncertain"));
  const MigrationDecision again = Decide(Told(seen), kSettings, kLater + absl::Seconds(1));
  EXPECT_EQ(again.step, MigrationStep::kNothing);
  EXPECT_TRUE(again.tells.empty());
}

TEST(UncertainTest, ATargetThatAnswersAgainResolvesIt) {
  MigrationObserved seen = Told(WithoutTarget());
  seen.target_side = TargetStatus{.state = TargetState::kPrepared};
  const MigrationDecision waits = Decide(seen, kSettings, kLater);
  EXPECT_NE(Find(waits, crds::kSwitched)->reason, "OutcomeUncertain");
  EXPECT_EQ(ReasonOf(waits), "Committed");
  seen.target_side = TargetStatus{.state = TargetState::kRunning};
  EXPECT_EQ(Decide(seen, kSettings, kLater).status.phase, MigrationPhase::kFinishing);
}

// First the pod's object goes, so that no kubelet starts it there again; then the other copy goes on.
void ExpectReclaims(MigrationObserved seen, absl::string_view why) {
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kRemoveTargetPod) << why;
  seen.target->metadata.deletion_timestamp = kLater;
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kRemoveTargetPod)
      << why << ": it must be gone";
  seen.target.reset();
  const MigrationDecision decision = Decide(seen, kSettings, kLater);
  EXPECT_EQ(decision.step, MigrationStep::kReclaimSource) << why;
  EXPECT_EQ(decision.why.reason, "TargetLost") << why;
}

TEST(UncertainTest, AFencedTargetNodeOrAPersonsWordGivesThePodBackToTheSource) {
  MigrationObserved tainted = WithoutTarget();
  tainted.target_node.out_of_service = true;
  ExpectReclaims(Told(tainted), "tainted");
  MigrationObserved deleted = WithoutTarget();
  deleted.target_node = NodeView{.name = "node-b"};
  ExpectReclaims(Told(deleted), "deleted");
  MigrationObserved kept = Told(WithoutTarget());
  kept.migration.spec.resolve_uncertain = ResolveUncertain::kKeepSource;
  ExpectReclaims(kept, "a person's word");
}

TEST(UncertainTest, AWordThatWasGivenBeforeItWasNeededCountsForNothing) {
  MigrationObserved seen = WithoutTarget();
  seen.migration.spec.resolve_uncertain = ResolveUncertain::kKeepSource;
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Seconds(5)).step, MigrationStep::kNothing);
  MigrationObserved answers = seen;
  answers.target_side = TargetStatus{.state = TargetState::kPrepared};
  EXPECT_EQ(Decide(Told(answers), kSettings, kLater).step, MigrationStep::kNothing);
}

TEST(UncertainTest, AReclaimedSourceEndsTheMigrationAndWhatTheTargetSaysLaterChangesNothing) {
  MigrationObserved seen = Told(WithoutTarget());
  seen.target.reset();
  seen.source_side = SourceStatus{.state = SourceState::kAborted, .reason = kTargetLost, .message = "gone"};
  MigrationDecision decision = Decide(seen, kSettings, kLater);
  EXPECT_TRUE(Failing(decision));
  EXPECT_EQ(ReasonOf(decision), "TargetLost");
  seen = After(seen, decision);
  seen.source_side = SourceStatus{};
  seen.target_side = TargetStatus{.state = TargetState::kRunning};
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kForgetTarget) << "the pod's object is gone";
}

TEST(UncertainTest, AnAbandonedSourceGoesTheWayOfOneWhoseTargetRuns) {
  MigrationObserved seen = Told(WithoutTarget());
  seen.migration.spec.resolve_uncertain = ResolveUncertain::kAbandonSource;
  const MigrationDecision decision = Decide(seen, kSettings, kLater);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kFinishing);
  EXPECT_EQ(Find(decision, crds::kSwitched)->reason, "SourceAbandoned");
}

TEST(UncertainTest, BeforeAProbeKillsTheFrozenSourceItsPodIsRetired) {
  MigrationObserved seen = Told(WithoutTarget());
  seen.source =
      PodWith({{"/spec/containers/0/livenessProbe", R"({"periodSeconds":10,"failureThreshold":4})"}});
  seen.migration.status.source_pod_uid = seen.source->view.metadata.uid;
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Seconds(35)).step, MigrationStep::kRetireSourcePod);
  MigrationObserved answers = seen;
  answers.target_side = TargetStatus{.state = TargetState::kPrepared};
  answers = After(answers, Decide(answers, kSettings, kNow + absl::Seconds(35)));
  EXPECT_EQ(Decide(answers, kSettings, kNow + absl::Seconds(35)).step, MigrationStep::kRetireSourcePod);
}

TEST(UncertainTest, APreparedTargetTakesOverFromAFencedSourceAndFromNoOther) {
  MigrationObserved seen = Told(WithoutSource());
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kNothing);
  EXPECT_EQ(Find(Decide(seen, kSettings, kLater), crds::kSwitched)->reason, "OutcomeUncertain");
  MigrationObserved fenced = WithoutSource();
  fenced.source_node.out_of_service = true;
  fenced = Told(fenced);
  EXPECT_EQ(Decide(fenced, kSettings, kLater).step, MigrationStep::kRemoveSourcePod);
  fenced.source.reset();
  EXPECT_EQ(Decide(fenced, kSettings, kLater).step, MigrationStep::kTakeOver);
}

TEST(UncertainTest, WithASilentSourceAPersonMayKeepOrAbandonIt) {
  MigrationObserved kept = Told(WithoutSource());
  kept.migration.spec.resolve_uncertain = ResolveUncertain::kKeepSource;
  EXPECT_EQ(Decide(kept, kSettings, kLater).step, MigrationStep::kAbortTarget);
  MigrationObserved abandoned = Told(WithoutSource());
  abandoned.migration.spec.resolve_uncertain = ResolveUncertain::kAbandonSource;
  EXPECT_EQ(Decide(abandoned, kSettings, kLater).step, MigrationStep::kRemoveSourcePod);
  abandoned.source.reset();
  EXPECT_EQ(Decide(abandoned, kSettings, kLater).step, MigrationStep::kTakeOver);
}

TEST(UncertainTest, WhenBothNodesAreGoneItHasFailed) {
  MigrationObserved seen = WithoutTarget();
  seen.source_side = kSilent;
  EXPECT_EQ(Decide(Told(seen), kSettings, kLater).step, MigrationStep::kNothing);
  EXPECT_FALSE(Failing(Decide(Told(seen), kSettings, kLater)));
  seen.source_node.out_of_service = seen.target_node.out_of_service = true;
  EXPECT_EQ(ReasonOf(Decide(seen, kSettings, kLater)), "NodesLost");
}

}  // namespace
}  // namespace godwit::controller
