// SPDX-License-Identifier: Apache-2.0
// Switching: the controller follows the source's word, and never says Failed while the target might run.
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
using ::testing::HasSubstr;

const MigrationSettings kSettings;

MigrationObserved Switching() { return GoodObserved(MigrationPhase::kSwitching); }
SourceStatus InState(SourceState state) { return {.state = state, .reason = "", .message = ""}; }

TEST(SwitchingTest, TheOrderToFreezeIsGivenOnceTheTargetWaits) {
  EXPECT_EQ(Decide(Switching(), kSettings, kNow).step, MigrationStep::kStartSource);
}

TEST(SwitchingTest, NothingIsStartedForATargetThatCannotTakeOver) {
  MigrationObserved aborted = Switching();
  aborted.target_side =
      TargetStatus{.state = TargetState::kAborted, .reason = "CreateLimit", .message = "waited too long"};
  EXPECT_EQ(ReasonOf(Decide(aborted, kSettings, kNow)), "CreateLimit");
  MigrationObserved forgot = Switching();
  forgot.target_side = TargetStatus{};
  EXPECT_EQ(ReasonOf(Decide(forgot, kSettings, kNow)), "TargetForgot");
  MigrationObserved dying = Switching();
  dying.source->view.metadata.deletion_timestamp = kNow;
  EXPECT_EQ(ReasonOf(Decide(dying, kSettings, kNow)), "PodTerminating");
  MigrationObserved late = Switching();
  EXPECT_EQ(ReasonOf(Decide(late, kSettings, kStart + absl::Minutes(11))), "Timeout");
}

TEST(SwitchingTest, WhileTheSourceWorksItIsPolledOften) {
  for (const SourceState state : {SourceState::kOpen, SourceState::kFrozen}) {
    MigrationObserved seen = Switching();
    seen.source_side = InState(state);
    const MigrationDecision decision = Decide(seen, kSettings, kNow);
    EXPECT_EQ(decision.step, MigrationStep::kNothing);
    EXPECT_LE(decision.again, absl::Milliseconds(200));
    EXPECT_EQ(Decide(After(seen, decision), kSettings, kNow).status, decision.status)
        << "polling writes nothing";
  }
}

TEST(SwitchingTest, GivingUpAsksTheSourceAndDeclaresNothing) {
  const auto expect_abort = [](MigrationObserved seen, absl::Time now, const char* reason) {
    seen.source_side = InState(SourceState::kFrozen);
    const MigrationDecision decision = Decide(seen, kSettings, now);
    EXPECT_EQ(decision.step, MigrationStep::kAbortSource);
    EXPECT_EQ(decision.why.reason, reason);
    EXPECT_FALSE(Failing(decision));
  };
  MigrationObserved deleted = Switching();
  deleted.migration.metadata.deletion_timestamp = kNow;
  expect_abort(deleted, kNow, "Deleted");
  MigrationObserved target_gone = Switching();
  target_gone.target.reset();
  expect_abort(target_gone, kNow, "TargetPodDeleted");
  MigrationObserved source_dying = Switching();
  source_dying.source->view.metadata.deletion_timestamp = kNow;
  expect_abort(source_dying, kNow, "PodTerminating");
  expect_abort(Switching(), kStart + absl::Minutes(11), "Timeout");
}

TEST(SwitchingTest, AnAbortedSourceEndsItWithTheAgentsReason) {
  MigrationObserved seen = Switching();
  seen.source_side = SourceStatus{
      .state = SourceState::kAborted, .reason = "DumpFailed", .message = "CRIU: socket of unknown type"};
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_TRUE(Failing(decision));
  EXPECT_EQ(ReasonOf(decision), "DumpFailed");
  EXPECT_THAT(MessageOf(decision), HasSubstr("socket of unknown type"));
}

TEST(SwitchingTest, AfterTheDecisionNothingTurnsItBack) {
  MigrationObserved seen = Switching();
  seen.source_side = InState(SourceState::kCeded);
  seen.migration.metadata.deletion_timestamp = kNow;
  const MigrationDecision decision = Decide(seen, kSettings, kStart + absl::Hours(1));
  EXPECT_EQ(decision.step, MigrationStep::kNothing);
  EXPECT_FALSE(Failing(decision));
  EXPECT_EQ(ReasonOf(decision), "Committed");
}

// The source has ceded, both agents answer, and neither has heard of the other.
MigrationObserved CutApart(TargetState target) {
  MigrationObserved seen = Switching();
  seen.source_side = InState(SourceState::kCeded);
  seen.source_side->frozen_at = kNow;
  seen.target_side = TargetStatus{.state = target, .reason = "Why", .message = "it aborted"};
  return After(seen, Decide(seen, kSettings, kNow));
}

TEST(SwitchingTest, OverALinkThatStaysCutTheTargetsWordIsBrought) {
  const absl::Time later = kNow + absl::Seconds(40);
  MigrationObserved seen = CutApart(TargetState::kPrepared);
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Seconds(10)).step, MigrationStep::kNothing);
  MigrationDecision decision = Decide(seen, kSettings, later);
  EXPECT_EQ(decision.step, MigrationStep::kAbortTarget);
  EXPECT_EQ(decision.why.reason, "LinkLost");
  seen.target_side->state = TargetState::kAborted;
  for (const absl::Time time : {kNow, later}) {
    decision = Decide(seen, kSettings, time);
    EXPECT_EQ(decision.step, MigrationStep::kReclaimSource) << "whenever it is destroyed";
    EXPECT_EQ(decision.why.reason, "Why");
  }
  seen.source_side->reason = "Why";
  EXPECT_EQ(Decide(seen, kSettings, later).step, MigrationStep::kNothing) << "it knows";
  seen.source_side->reason = "";
  seen.target_side->state = TargetState::kRunning;
  EXPECT_EQ(Decide(seen, kSettings, later).status.phase, MigrationPhase::kFinishing)
      << "COMMIT came after all";
}

TEST(SwitchingTest, OverALinkThatStaysCutASourceThatIsDeletedIsNotTakenBack) {
  const absl::Time later = kNow + absl::Seconds(40);
  MigrationObserved seen = CutApart(TargetState::kPrepared);
  seen.source->view.metadata.deletion_timestamp = kNow;
  EXPECT_EQ(Decide(seen, kSettings, later).step, MigrationStep::kTakeOver);
  seen.source_side->reason = "TargetLost";
  EXPECT_EQ(Decide(seen, kSettings, later).step, MigrationStep::kNothing) << "it is being taken back";
  seen.source_side->reason = "";
  seen.migration.spec.resolve_uncertain = crds::ResolveUncertain::kKeepSource;
  EXPECT_EQ(Decide(seen, kSettings, later).step, MigrationStep::kTakeOver)
      << "a word that nobody has asked for";
}

TEST(SwitchingTest, OverALinkThatStaysCutACopyThatLacksMemoryIsForAPersonToDecide) {
  const absl::Time later = kNow + absl::Seconds(40);
  MigrationObserved seen = CutApart(TargetState::kPrepared);
  seen.source->view.metadata.deletion_timestamp = kNow;
  // The source's agent was restarted, and knows nothing of what it left.
  seen.target_side->pull.total_bytes = 5 << 20;
  MigrationDecision decision = Decide(seen, kSettings, later);
  EXPECT_EQ(decision.step, MigrationStep::kNothing) << "its memory cannot come";
  EXPECT_EQ(Find(decision, crds::kSwitched)->reason, crds::kOutcomeUncertain);
  EXPECT_THAT(MessageOf(decision), HasSubstr("5120 KiB"));
  EXPECT_TRUE(Tells(decision, crds::kOutcomeUncertain));
  seen = After(seen, decision);
  decision = Decide(seen, kSettings, later + absl::Minutes(1));
  EXPECT_EQ(decision.step, MigrationStep::kNothing);
  EXPECT_FALSE(Tells(decision, crds::kOutcomeUncertain)) << "once";
  // An answer that does not come between, and a figure that is another, change nothing of what was asked.
  seen.target_side = absl::UnavailableError("no answer in time");
  seen = After(seen, Decide(seen, kSettings, later + absl::Minutes(1)));
  seen.target_side = TargetStatus{.state = TargetState::kPrepared, .pull = {.total_bytes = 6 << 20}};
  seen.migration.spec.resolve_uncertain = crds::ResolveUncertain::kKeepSource;
  ++seen.migration.metadata.generation;
  decision = Decide(seen, kSettings, later + absl::Minutes(1));
  EXPECT_EQ(decision.step, MigrationStep::kAbortTarget);
  seen = After(seen, decision);
  seen.target_side->state = TargetState::kAborted;
  EXPECT_EQ(Decide(seen, kSettings, later + absl::Minutes(1)).step, MigrationStep::kReclaimSource);
  seen.target_side->state = TargetState::kRunning;
  EXPECT_EQ(Decide(seen, kSettings, later + absl::Minutes(1)).status.phase, MigrationPhase::kFinishing)
      << "the link is back";
}

TEST(SwitchingTest, ATargetThatCommitsHasHeardTheSourceWhateverHoldsItUp) {
  MigrationObserved seen = CutApart(TargetState::kPrepared);
  seen.target_side->committing = true;
  const MigrationDecision decision = Decide(seen, kSettings, kNow + absl::Minutes(3));
  EXPECT_EQ(decision.step, MigrationStep::kNothing);
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kStuck));
}

TEST(SwitchingTest, OverALinkThatStaysCutNothingIsTakenBackThatAProbeWouldKill) {
  MigrationObserved seen = CutApart(TargetState::kPrepared);
  const auto step_after = [&seen](int seconds) {
    return Decide(seen, kSettings, kNow + absl::Seconds(seconds)).step;
  };
  const auto with_probe = [&seen](const char* probe) {
    seen.source = PodWith({{"/spec/containers/0/livenessProbe", probe}});
    seen.migration.status.source_pod_uid = seen.source->view.metadata.uid;
  };
  with_probe(R"({"periodSeconds":10,"failureThreshold":5})");
  EXPECT_EQ(step_after(31), MigrationStep::kRetireSourcePod) << "its 40 s would end while it is taken back";
  with_probe(R"({"periodSeconds":20,"failureThreshold":4})");
  EXPECT_EQ(step_after(31), MigrationStep::kAbortTarget);
  EXPECT_EQ(step_after(59), MigrationStep::kRetireSourcePod);
  seen = After(seen, Decide(seen, kSettings, kNow + absl::Seconds(50)));
  seen.target_side->state = TargetState::kOpen;
  const MigrationDecision destroys = Decide(seen, kSettings, kNow + absl::Seconds(59));
  EXPECT_EQ(destroys.step, MigrationStep::kNothing) << "the copy is being destroyed";
  seen = After(seen, destroys);
  seen.target_side->state = TargetState::kAborted;
  EXPECT_EQ(step_after(60), MigrationStep::kReclaimSource) << "at once";
}

TEST(SwitchingTest, TheTargetsRunningIsSuccessWhoeverSaysIt) {
  MigrationObserved by_source = Switching();
  by_source.source_side = SourceStatus{.state = SourceState::kCeded,
                                       .target_running = true,
                                       .frozen_at = kStart,
                                       .freeze = absl::Milliseconds(400),
                                       .steps = {{.name = "dump", .duration = absl::Milliseconds(100)}},
                                       .memory_bytes = 9};
  const MigrationDecision decision = Decide(by_source, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kFinishing);
  EXPECT_EQ(decision.status.freeze.duration, absl::Milliseconds(400));
  EXPECT_EQ(decision.status.freeze.steps.size(), 1u);
  EXPECT_EQ(decision.status.transfer.memory_bytes, 9);
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kSwitched));
  MigrationObserved by_target = Switching();
  by_target.source_side = absl::UnavailableError("down");
  by_target.target_side = TargetStatus{.state = TargetState::kRunning};
  EXPECT_EQ(Decide(by_target, kSettings, kNow).status.phase, MigrationPhase::kFinishing);
  MigrationObserved forgetful =
      Switching();  // the source's agent lost its state; the target runs all the same
  forgetful.target_side = TargetStatus{.state = TargetState::kRunning};
  EXPECT_EQ(Decide(forgetful, kSettings, kNow).status.phase, MigrationPhase::kFinishing);
}

// The source does not answer, and has not for a minute.
MigrationDecision WithSilentSource(absl::StatusOr<TargetStatus> target) {
  MigrationObserved seen = Switching();
  seen.source_side = absl::UnavailableError("cannot connect");
  seen.target_side = std::move(target);
  const MigrationDecision first = Decide(seen, kSettings, kNow);
  EXPECT_FALSE(Failing(first));
  return Decide(After(seen, first), kSettings, kNow + absl::Minutes(1));
}

TEST(SwitchingTest, WithASilentSourceOnlyAnAbortedTargetIsFailure) {
  EXPECT_TRUE(Failing(WithSilentSource(TargetStatus{.state = TargetState::kAborted})));
  const MigrationDecision open = WithSilentSource(TargetStatus{.state = TargetState::kOpen});
  EXPECT_FALSE(Failing(open));
  EXPECT_EQ(open.step, MigrationStep::kAbortTarget);
  for (absl::StatusOr<TargetStatus> target :
       {absl::StatusOr<TargetStatus>(TargetStatus{.state = TargetState::kPrepared}),
        absl::StatusOr<TargetStatus>(TargetStatus{}),
        absl::StatusOr<TargetStatus>(absl::UnavailableError("down too"))}) {
    const MigrationDecision decision = WithSilentSource(target);
    EXPECT_FALSE(Failing(decision));
    EXPECT_EQ(decision.step, MigrationStep::kNothing);
    EXPECT_THAT(MessageOf(decision), HasSubstr("alone know"));
  }
}

TEST(SwitchingTest, ARefusedOrderFailsAndALostOneIsLookedFor) {
  const MigrationDecision refused = OnRefused(Switching(), kSettings, MigrationStep::kStartSource,
                                              absl::FailedPreconditionError("exec in flight"), kNow);
  EXPECT_EQ(ReasonOf(refused), "SourceRefused");
  EXPECT_THAT(MessageOf(refused), HasSubstr("exec in flight"));
  const MigrationDecision lost = OnRefused(Switching(), kSettings, MigrationStep::kStartSource,
                                           absl::DeadlineExceededError("timeout"), kNow);
  EXPECT_FALSE(Failing(lost));
  EXPECT_LE(lost.again, absl::Seconds(1));
}

// A source that copied before: it works on, and is told when the target waits.
MigrationObserved SwitchingCopied() {
  return GoodObserved(MigrationPhase::kSwitching, crds::Strategy::kAuto);
}

TEST(SwitchingTest, ASourceThatCopiesIsToldOnceThatTheTargetWaits) {
  MigrationObserved seen = SwitchingCopied();
  const MigrationDecision first = Decide(seen, kSettings, kNow);
  EXPECT_EQ(first.status.pre_copy.rounds, 2) << "its progress is told on";
  seen = After(seen, first);
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kSwitchSource);
  seen.source_side->switching = true;
  const MigrationDecision told = Decide(seen, kSettings, kNow);
  EXPECT_EQ(told.step, MigrationStep::kNothing);
  EXPECT_EQ(ReasonOf(told), "Switching");
  EXPECT_LE(told.again, absl::Milliseconds(200));
}

TEST(SwitchingTest, LimitsThatChangeReachASourceThatStillCopies) {
  MigrationObserved seen = SwitchingCopied();
  seen.source_side->switching = true;
  seen.migration.spec.freeze_budget = absl::Seconds(1);
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kSetLimits);
  seen.source_side->state = SourceState::kFrozen;
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kNothing) << "too late";
}

// It works already: only its own word ends the Migration.
TEST(SwitchingTest, InsteadOfTheOrderToFreezeACopyingSourceIsAskedToAbort) {
  const auto expect_abort = [](const char* reason, const std::function<void(MigrationObserved&)>& spoil) {
    MigrationObserved seen = SwitchingCopied();
    seen = After(seen, Decide(seen, kSettings, kNow));
    spoil(seen);
    const MigrationDecision decision = Decide(seen, kSettings, kNow);
    EXPECT_EQ(decision.step, MigrationStep::kAbortSource) << reason;
    EXPECT_EQ(decision.why.reason, reason);
    EXPECT_FALSE(Failing(decision));
  };
  expect_abort("PodGone", [](auto& seen) { seen.source.reset(); });
  expect_abort("PodReplaced", [](auto& seen) { seen.source->view.metadata.uid = "other"; });
  expect_abort("PodNotRunning", [](auto& seen) { seen.source->view.status.phase = "Succeeded"; });
  expect_abort("PodTerminating", [](auto& seen) { seen.source->view.metadata.deletion_timestamp = kNow; });
  expect_abort("CreateLimit", [](auto& seen) {
    seen.target_side = TargetStatus{.state = TargetState::kAborted, .reason = "CreateLimit", .message = "m"};
  });
  expect_abort("TargetForgot", [](auto& seen) { seen.target_side = TargetStatus{}; });
  expect_abort("InvalidLimit", [](auto& seen) { seen.migration.spec.bandwidth_limit = "much"; });
}

TEST(SwitchingTest, ACopyingSourceIsNotToldToFreezeForATargetWhoseAgentIsSilent) {
  MigrationObserved seen = SwitchingCopied();
  seen.target_side = absl::UnavailableError("cannot connect");
  seen = After(seen, Decide(seen, kSettings, kNow));
  const MigrationDecision waits = Decide(seen, kSettings, kNow);
  EXPECT_EQ(waits.step, MigrationStep::kNothing);
  EXPECT_EQ(ReasonOf(waits), "AgentUnreachable");
  const MigrationDecision last = Decide(After(seen, waits), kSettings, kNow + absl::Minutes(1));
  EXPECT_EQ(last.step, MigrationStep::kAbortSource);
}

TEST(SwitchingTest, TheLastFiguresStayAlsoWhenARestartedAgentHasForgottenThem) {
  MigrationObserved seen = SwitchingCopied();
  seen.source_side->state = SourceState::kCeded;
  seen.source_side->target_running = true;
  seen.source_side->pre_copy.rounds = 7;
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.pre_copy.rounds, 7);
  seen.migration.status.pre_copy.rounds = 5;
  seen.source_side->pre_copy = {};
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.pre_copy.rounds, 5);
}

// A target that somebody has taken our marks off is removed all the same: nothing is left behind.
TEST(FailingTest, ATargetIsKnownByItsUidToo) {
  MigrationObserved seen = Switching();
  seen.source_side = InState(SourceState::kAborted);
  seen.target_side = TargetStatus{.state = TargetState::kAborted};
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kComplete, .status = "False", .reason = "Timeout", .message = "m"}, kNow);
  seen.target->metadata.labels.clear();
  seen.target->metadata.annotations.clear();
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kDeleteTargetPod);
  seen.target->metadata.uid = "of another pod";
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kForgetSource);
}

// A failing Migration removes what it made, in this order, and only then is Failed.
TEST(FailingTest, RemovesStepByStep) {
  MigrationObserved seen = Switching();
  seen.source_side = InState(SourceState::kFrozen);
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kComplete, .status = "False", .reason = "Timeout", .message = "m"}, kNow);
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kAbortSource);
  seen.source_side = InState(SourceState::kAborted);
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kAbortTarget);
  seen.target_side = TargetStatus{.state = TargetState::kAborted};
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kDeleteTargetPod);
  seen.target->metadata.deletion_timestamp = kNow;
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kForgetSource);
  seen.source_side = SourceStatus{};
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kForgetTarget);
  seen.target_side = TargetStatus{};
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kNothing) << "waits for the pod";
  seen.target.reset();
  const MigrationDecision done = Decide(seen, kSettings, kNow);
  EXPECT_EQ(done.status.phase, MigrationPhase::kFailed);
  EXPECT_EQ(ReasonOf(done), "Timeout");
  EXPECT_TRUE(k8s::IsConditionTrue(done.status.conditions, crds::kCleanedUp));
}

TEST(FailingTest, APodOfAnotherIsNotDeleted) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreparing);
  seen.target->metadata.labels.clear();
  seen.target->metadata.uid = "of another pod";
  seen.target_side = TargetStatus{};
  const MigrationDecision failing = Decide(seen, kSettings, kNow);
  ASSERT_EQ(ReasonOf(failing), "TargetPodNameTaken");
  const MigrationDecision done = Decide(After(seen, failing), kSettings, kNow);
  EXPECT_EQ(done.status.phase, MigrationPhase::kFailed);
}

TEST(FailingTest, ASilentAgentDelaysTheEndOnlySoLongAndIsCleanedLater) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreparing);
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kComplete, .status = "False", .reason = "Timeout", .message = "m"}, kNow);
  seen.target.reset();
  seen.target_side = absl::UnavailableError("down");
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Seconds(30)).status.phase, MigrationPhase::kPreparing);
  const MigrationDecision failed = Decide(seen, kSettings, kNow + absl::Seconds(61));
  EXPECT_EQ(failed.status.phase, MigrationPhase::kFailed);
  EXPECT_FALSE(k8s::IsConditionTrue(failed.status.conditions, crds::kCleanedUp));
  seen = After(seen, failed);
  seen.target_side = TargetStatus{.state = TargetState::kOpen};
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Hours(1)).step, MigrationStep::kAbortTarget);
  seen.target_side = TargetStatus{};
  EXPECT_TRUE(k8s::IsConditionTrue(Decide(seen, kSettings, kNow + absl::Hours(1)).status.conditions,
                                   crds::kCleanedUp));
}

TEST(FailingTest, ANodeThatIsGoneKeepsNothing) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreparing);
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kComplete, .status = "False", .reason = "Timeout", .message = "m"}, kNow);
  seen.target.reset();
  seen.target_side = absl::UnavailableError("down");
  seen.target_node.exists = false;
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.phase, MigrationPhase::kFailed);
}

}  // namespace
}  // namespace godwit::controller
