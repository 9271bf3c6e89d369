// SPDX-License-Identifier: Apache-2.0
// A Migration that is cancelled, one that is stuck, and one of which nobody can know how it went.
#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "controller/migration/draft.h"
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

// A word of a person, after what was told.
MigrationObserved Says(MigrationObserved seen, ResolveUncertain word) {
  seen.migration.spec.resolve_uncertain = word;
  ++seen.migration.metadata.generation;
  return seen;
}

// First the source is asked, which asks the target once more; when it has taken back, the target pod's object
// goes.
void ExpectReclaims(MigrationObserved seen, absl::string_view why) {
  MigrationDecision decision = Decide(seen, kSettings, kLater);
  if (decision.step == MigrationStep::kNothing) decision = Decide(After(seen, decision), kSettings, kLater);
  EXPECT_EQ(decision.step, MigrationStep::kReclaimSource) << why;
  EXPECT_EQ(decision.why.reason, "TargetLost") << why;
  seen.source_side = SourceStatus{.state = SourceState::kAborted, .reason = kTargetLost, .message = "gone"};
  decision = Decide(seen, kSettings, kLater);
  EXPECT_TRUE(Failing(decision)) << why;
  seen = After(seen, decision);
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kRemoveTargetPod) << why;
  seen.target->metadata.deletion_timestamp = kLater;
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kRemoveTargetPod)
      << why << ": it must be gone";
  seen.target.reset();
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kForgetSource) << why;
}

TEST(UncertainTest, AFencedTargetNodeOrAPersonsWordGivesThePodBackToTheSource) {
  MigrationObserved tainted = WithoutTarget();
  tainted.target_node.out_of_service = true;
  ExpectReclaims(Told(tainted), "tainted");
  MigrationObserved deleted = WithoutTarget();
  deleted.target_node = NodeView{.name = "node-b"};
  ExpectReclaims(Told(deleted), "deleted");
  ExpectReclaims(Says(Told(WithoutTarget()), ResolveUncertain::kKeepSource), "a person's word");
}

// Its disk was lost, perhaps, and with it the journal.
TEST(UncertainTest, ATargetThatKnowsNothingAfterTheDecisionIsAsGoodAsSilent) {
  MigrationObserved seen = WithoutTarget();
  seen.target_side = TargetStatus{.state = TargetState::kNone};
  const MigrationDecision decision = Decide(seen, kSettings, kLater);
  EXPECT_EQ(decision.step, MigrationStep::kNothing);
  ASSERT_NE(Find(decision, crds::kSwitched), nullptr);
  EXPECT_EQ(Find(decision, crds::kSwitched)->reason, "OutcomeUncertain");
  EXPECT_THAT(Find(decision, crds::kSwitched)->message, HasSubstr("knows nothing of it any more"));
  // Its kubelet works: what runs there goes before the source goes on.
  seen = Says(Told(seen), ResolveUncertain::kKeepSource);
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kDeleteTargetPod);
  seen.target->metadata.deletion_timestamp = kLater;
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kNothing);
  seen.target.reset();
  const MigrationDecision reclaims = Decide(seen, kSettings, kLater);
  EXPECT_EQ(reclaims.step, MigrationStep::kReclaimSource);
  EXPECT_EQ(reclaims.why.reason, "TargetLost");
}

TEST(UncertainTest, APodOfASilentSourceIsNotSaidToGoOn) {
  MigrationObserved seen = WithoutSource();
  seen.target_side = TargetStatus{.state = TargetState::kAborted, .reason = "CopyDied", .message = "killed"};
  MigrationDecision decision = Decide(seen, kSettings, kLater);
  EXPECT_TRUE(Failing(decision));
  seen.target.reset();
  for (int i = 0; i < 5 && decision.status.phase != MigrationPhase::kFailed; ++i)
    decision = Decide(seen = After(seen, decision), kSettings, kLater + absl::Hours(1));
  ASSERT_EQ(decision.status.phase, MigrationPhase::kFailed);
  EXPECT_TRUE(std::any_of(decision.tells.begin(), decision.tells.end(), [](const Tell& tell) {
    return absl::StrContains(tell.message, "if it stands still, it goes on when the agent of node");
  }));
}

TEST(UncertainTest, AWordThatWasGivenBeforeItWasNeededCountsForNothing) {
  MigrationObserved seen = WithoutTarget();
  seen.migration.spec.resolve_uncertain = ResolveUncertain::kKeepSource;
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Seconds(5)).step, MigrationStep::kNothing);
  MigrationObserved answers = seen;
  answers.target_side = TargetStatus{.state = TargetState::kPrepared};
  EXPECT_EQ(Decide(Told(answers), kSettings, kLater).step, MigrationStep::kNothing);
  seen = Told(seen);
  EXPECT_EQ(ReasonOf(Decide(seen, kSettings, kLater)), "OutcomeUncertain");
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kNothing) << "nobody was asked before";
}

// The same word means another risk then.
TEST(UncertainTest, AWordForTheOneSideCountsForNothingWhenItIsTheOtherThatIsSilent) {
  MigrationObserved seen = Says(Told(WithoutSource()), ResolveUncertain::kKeepSource);
  seen.source_side = SourceStatus{.state = SourceState::kCeded, .frozen_at = kNow};
  seen.target_side = kSilent;
  seen = After(seen, Decide(seen, kSettings, kLater));
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kNothing);
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
  const MigrationObserved seen = Says(Told(WithoutTarget()), ResolveUncertain::kAbandonSource);
  const MigrationDecision decision = Decide(seen, kSettings, kLater);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kFinishing);
  EXPECT_EQ(Find(decision, crds::kSwitched)->reason, kSourceAbandoned);
}

// The source was given up and is gone, and so is its pod; nobody has said that the target runs.
MigrationObserved Abandoned() {
  MigrationObserved seen = Says(Told(WithoutTarget()), ResolveUncertain::kAbandonSource);
  seen = After(seen, Decide(seen, kSettings, kLater));
  const HandOver hand_over = HandOverOf(seen.source->view.metadata);
  seen.target = GoodObserved(MigrationPhase::kFinishing).target;
  seen.target->metadata.labels.insert(hand_over.labels.begin(), hand_over.labels.end());
  seen.target->metadata.owner_references = hand_over.owners;
  seen.source.reset();
  seen.source_side = SourceStatus{};
  return seen;
}

// Its agent knows nothing of the migration any more, or says that the copy stands and waits.
TEST(UncertainTest, AnAbandonedSourceIsKilledThoughTheTargetsAgentAnswers) {
  for (const TargetState state : {TargetState::kNone, TargetState::kPrepared}) {
    MigrationObserved seen = Abandoned();
    seen.source_side = SourceStatus{.state = SourceState::kCeded};
    seen.target_side = TargetStatus{.state = state};
    MigrationDecision decision = Decide(seen, kSettings, kLater);
    for (int i = 0; i < 8 && decision.step == MigrationStep::kNothing; ++i)
      decision = Decide(seen = After(seen, decision), kSettings, kLater);
    EXPECT_EQ(decision.step, MigrationStep::kFinishSource) << json::Name(state);
    EXPECT_TRUE(decision.unconfirmed) << json::Name(state);
  }
}

TEST(UncertainTest, AnAbandonedSourceIsNoSuccessBeforeTheTargetRuns) {
  MigrationObserved seen = Abandoned();
  for (int i = 0; i < 8; ++i) seen = After(seen, Decide(seen, kSettings, kLater + absl::Hours(1)));
  EXPECT_EQ(seen.migration.status.phase, MigrationPhase::kFinishing) << "its agent is silent";
  seen.target_side = TargetStatus{.state = TargetState::kPrepared};
  MigrationDecision decision = Decide(seen, kSettings, kLater);
  for (int i = 0; i < 8 && decision.step == MigrationStep::kNothing; ++i)
    decision = Decide(seen = After(seen, decision), kSettings, kLater);
  EXPECT_EQ(decision.step, MigrationStep::kTakeOver) << "nobody else is left who could tell it to run";
  seen.target_side = TargetStatus{.state = TargetState::kRunning};
  decision = Decide(seen, kSettings, kLater);
  EXPECT_EQ(Find(decision, crds::kSwitched)->reason, "TargetRuns");
}

TEST(UncertainTest, ACopyThatNeverRanEndsWhatWasAbandonedAsAFailure) {
  MigrationObserved seen = Abandoned();
  seen.target_side = TargetStatus{.state = TargetState::kAborted};
  EXPECT_TRUE(Failing(Decide(seen, kSettings, kLater)));
  EXPECT_EQ(ReasonOf(Decide(seen, kSettings, kLater)), "StateLost");
  seen = Abandoned();
  seen.target_side = TargetStatus{.state = TargetState::kAborted};
  seen.source_side = SourceStatus{.state = SourceState::kAborted, .reason = "CopyDied"};
  EXPECT_EQ(ReasonOf(Decide(seen, kSettings, kLater)), "CopyDied") << "the source has taken back";
}

// What the target's agent knows is all that a source that has ceded can ever hear.
TEST(UncertainTest, AnAbortedTargetIsNotForgottenBeforeTheSourceHasHeardOfIt) {
  MigrationObserved seen = Says(Told(WithoutSource()), ResolveUncertain::kKeepSource);
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kAbortTarget);
  seen.target_side = TargetStatus{.state = TargetState::kAborted, .reason = "SourceKept"};
  MigrationDecision decision = Decide(seen, kSettings, kLater);
  EXPECT_EQ(ReasonOf(decision), "SourceKept");
  EXPECT_EQ(Find(decision, crds::kSwitched)->status, "False");
  seen = After(seen, decision);
  seen.target.reset();
  const absl::Time much_later = kLater + absl::Hours(1);
  for (int i = 0; i < 4; ++i) {
    decision = Decide(seen, kSettings, much_later);
    EXPECT_EQ(decision.step, MigrationStep::kNothing);
    seen = After(seen, decision);
  }
  EXPECT_EQ(seen.migration.status.phase, MigrationPhase::kFailed);
  seen.source_side = SourceStatus{.state = SourceState::kCeded};
  EXPECT_EQ(Decide(seen, kSettings, much_later).step, MigrationStep::kReclaimSource)
      << "which asks the target, or takes our word where it cannot";
  seen.source_side = SourceStatus{.state = SourceState::kAborted};
  EXPECT_EQ(Decide(seen, kSettings, much_later).step, MigrationStep::kForgetSource);
  seen.source_side = SourceStatus{};
  EXPECT_EQ(Decide(seen, kSettings, much_later).step, MigrationStep::kForgetTarget);
}

TEST(UncertainTest, AGivenUpSourceThatComesBackIsRemovedAfterAll) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kSucceeded);
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kSwitched, .status = "True", .reason = "TargetRuns"}, kNow);
  seen.source_side = SourceStatus{.state = SourceState::kCeded};
  seen.target_side = TargetStatus{.state = TargetState::kRunning};
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kFinishSource);
}

TEST(UncertainTest, APodThatAFinalizerHoldsIsNotDeletedAgainAndAgain) {
  MigrationObserved seen = Says(Told(WithoutSource()), ResolveUncertain::kAbandonSource);
  seen.source->view.metadata.deletion_timestamp = kLater;
  seen.source->view.metadata.finalizers = {"kueue.x-k8s.io/managed"};
  const MigrationDecision waits = Decide(seen, kSettings, kLater);
  EXPECT_EQ(waits.step, MigrationStep::kNothing);
  EXPECT_THAT(MessageOf(waits), HasSubstr("kueue.x-k8s.io/managed"));
  seen.source_node.out_of_service = true;
  EXPECT_EQ(Decide(seen, kSettings, kLater).step, MigrationStep::kTakeOver) << "no kubelet starts it there";
}

TEST(UncertainTest, NoClockThatIsWrongMakesAProbeWaitLongerOrNotAtAll) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kSwitching);
  SourceStatus source{.freeze = absl::Seconds(3)};
  for (const absl::Duration off : {absl::Hours(1), absl::Minutes(-1), absl::ZeroDuration()}) {
    source.frozen_at = kNow - source.freeze + off;
    EXPECT_EQ(FrozenAt(Draft(seen, kSettings, kNow), source), kNow - source.freeze) << off;
  }
  // Its length grows no more: for how long it has run there its node alone can say.
  seen.migration.status.waiting_since = kNow - absl::Seconds(8);
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kComplete, .status = "Unknown", .reason = "Switching", .message = "x"},
                    kStart);
  source.target_running = true;
  const auto frozen_at = [&](absl::Duration ago) {
    source.frozen_at = kNow - ago;
    return FrozenAt(Draft(seen, kSettings, kNow), source);
  };
  EXPECT_EQ(frozen_at(absl::Seconds(5)), kNow - absl::Seconds(5));
  EXPECT_EQ(frozen_at(absl::Hours(1)), kNow - absl::Seconds(8)) << "it was not told to switch before";
  EXPECT_EQ(frozen_at(absl::Hours(-1)), kNow - absl::Seconds(3)) << "it has lasted for that long";
}

TEST(UncertainTest, ASourceWhoseCopyIsDestroyedIsTakenBackThoughTheMigrationFailsAlready) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kSwitching);
  seen.source_side = kSilent;
  seen.target_side = TargetStatus{.state = TargetState::kAborted, .reason = "LinkLost", .message = "cut"};
  seen.migration.spec.cancel = true;
  seen = After(seen, Decide(seen, kSettings, kNow));
  seen.source_side = SourceStatus{.state = SourceState::kCeded};
  MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.step, MigrationStep::kReclaimSource);
  EXPECT_EQ(decision.why.reason, "LinkLost");
  seen.source_side->reason = "LinkLost";
  EXPECT_NE(Decide(seen, kSettings, kNow).step, MigrationStep::kReclaimSource) << "it is being taken back";
}

// A status that changes at every look is written at every look, and nothing else is done.
TEST(UncertainTest, ASourceWhoseClockIsAheadHoldsNothingUp) {
  MigrationObserved seen = Told(WithoutTarget());
  seen.target_node.out_of_service = true;
  seen.source_side->frozen_at = kLater + absl::Hours(1);
  seen.source_side->freeze = absl::Seconds(70);
  seen = After(seen, Decide(seen, kSettings, kLater));
  seen.source_side->freeze += absl::Milliseconds(501);
  const MigrationDecision next = Decide(seen, kSettings, kLater + absl::Milliseconds(503));
  EXPECT_EQ(next.status, seen.migration.status);
  EXPECT_EQ(next.step, MigrationStep::kReclaimSource);
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
  const MigrationObserved kept = Says(Told(WithoutSource()), ResolveUncertain::kKeepSource);
  EXPECT_EQ(Decide(kept, kSettings, kLater).step, MigrationStep::kAbortTarget);
  MigrationObserved abandoned = Says(Told(WithoutSource()), ResolveUncertain::kAbandonSource);
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
