// SPDX-License-Identifier: Apache-2.0
// Finishing: hand over, delete, kill, forget; in this order, and never a failure.
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
constexpr char kOwner[] =
    R"([{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"rs","controller":true,"blockOwnerDeletion":true}])";

MigrationObserved Finishing() { return GoodObserved(MigrationPhase::kFinishing); }

MigrationObserved FinishingOwned() {
  MigrationObserved seen = Finishing();
  seen.source = PodWith({{"/metadata/ownerReferences", kOwner}});
  seen.target->metadata.annotations = GoodTarget(*seen.source).metadata.annotations;
  return seen;
}

void HandOverTo(MigrationObserved& seen) {
  const HandOver hand_over = HandOverOf(seen.source->view.metadata);
  seen.target->metadata.labels.insert(hand_over.labels.begin(), hand_over.labels.end());
  seen.target->metadata.owner_references = hand_over.owners;
}

// Writes statuses until a step is due.
MigrationDecision NextStep(MigrationObserved& seen, absl::Time now = kNow) {
  for (int i = 0; i < 10; ++i) {
    MigrationDecision decision = Decide(seen, kSettings, now);
    if (decision.status == seen.migration.status) return decision;
    seen.migration.status = decision.status;
    if (crds::Ended(decision.status.phase)) return decision;
  }
  ADD_FAILURE() << "the status never settles";
  return {};
}

void Delete(MigrationObserved& seen, bool kubelet_saw) {
  k8s::Pod& pod = seen.source->view;
  pod.metadata.deletion_timestamp = kNow + absl::Seconds(30);
  pod.metadata.deletion_grace_period_seconds = 30;
  pod.metadata.generation = 2;
  pod.status.observed_generation = kubelet_saw ? 2 : 1;
}

TEST(FinishingTest, ABarePodsWayToTheEnd) {
  MigrationObserved seen = Finishing();
  seen.target->status.conditions.clear();
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kMarkCommitted);
  seen.target->status.conditions = {{.type = kCommittedCondition, .status = "True"}};
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kHandOver) << "a bare pod need not be ready";
  HandOverTo(seen);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
  Delete(seen, false);
  EXPECT_EQ(ReasonOf(NextStep(seen)), "WaitingForKubelet") << "or kubelet would start the container anew";
  Delete(seen, true);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kFinishSource);
  seen.source_side = SourceStatus{.state = SourceState::kDone, .target_running = true};
  EXPECT_EQ(ReasonOf(NextStep(seen)), "RemovingSource");
  seen.source.reset();
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kForgetSource);
  seen.source_side = SourceStatus{};
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kForgetTarget);
  seen.target_side = TargetStatus{};
  const MigrationDecision done = NextStep(seen, kStart + absl::Seconds(8));
  EXPECT_EQ(done.status.phase, MigrationPhase::kSucceeded);
  EXPECT_EQ(done.status.total_duration, absl::Seconds(8));
  EXPECT_EQ(ReasonOf(done), "Succeeded");
  EXPECT_THAT(MessageOf(done), HasSubstr("stood still for 400ms"));
}

TEST(FinishingTest, AnOwnedPodIsHandedOverWhenTargetAndSiblingsAreReady) {
  MigrationObserved seen = FinishingOwned();
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kLowerDeletionCost);
  seen.source->view.metadata.annotations[kDeletionCost] = kLowestDeletionCost;
  seen.target->status.conditions[0].status = "False";
  EXPECT_EQ(ReasonOf(NextStep(seen)), "WaitingForTargetReady");
  seen.target->status.conditions[0].status = "True";
  seen.siblings = {PodView({{"/metadata/name", "\"web-3\""}, {"/status/conditions", "[]"}})};
  const MigrationDecision waits = NextStep(seen);
  EXPECT_EQ(ReasonOf(waits), "WaitingForSibling");
  const k8s::Condition* handed = k8s::FindCondition(waits.status.conditions, crds::kHandedOver);
  ASSERT_NE(handed, nullptr);
  EXPECT_EQ(handed->status, "False");
  EXPECT_THAT(handed->message, HasSubstr("web-3"));
  seen.siblings.clear();
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kHandOver);
  HandOverTo(seen);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
}

// Its target's node is silent, and may stay so: the one who has given the source up is not kept waiting.
TEST(FinishingTest, AnAbandonedSourceDoesNotWaitUntilTheTargetIsReady) {
  MigrationObserved seen = FinishingOwned();
  seen.source->view.metadata.annotations[kDeletionCost] = kLowestDeletionCost;
  seen.source_side = SourceStatus{.state = SourceState::kCeded};
  seen.target->status.conditions[0].status = "False";
  seen.target_side = absl::UnavailableError("down");
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kSwitched, .status = "True", .reason = kSourceAbandoned, .message = "m"},
                    kNow);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
}

// kubelet would kill and restart the frozen source: its deletion may not wait for the target's readiness
// then.
TEST(FinishingTest, ALivenessProbeOfTheSourcePressesForItsDeletion) {
  MigrationObserved seen = FinishingOwned();
  seen.source =
      PodWith({{"/metadata/ownerReferences", kOwner},
               {"/spec/containers/0/livenessProbe", R"({"periodSeconds":10,"failureThreshold":3})"}});
  seen.source->view.metadata.annotations[kDeletionCost] = kLowestDeletionCost;
  seen.target->status.conditions[0].status = "False";
  EXPECT_EQ(ReasonOf(NextStep(seen, kStart + absl::Seconds(10))), "WaitingForTargetReady");
  EXPECT_EQ(NextStep(seen, kStart + absl::Seconds(21)).step, MigrationStep::kDeleteSourcePod);
  Delete(seen, true);
  seen.source_side = SourceStatus{.state = SourceState::kDone};
  seen.source.reset();
  EXPECT_EQ(ReasonOf(NextStep(seen, kStart + absl::Seconds(25))), "WaitingForTargetReady")
      << "it still gets its owner";
  seen.target->status.conditions[0].status = "True";
  EXPECT_EQ(NextStep(seen, kStart + absl::Seconds(26)).step, MigrationStep::kHandOver);
}

TEST(FinishingTest, ASourceThatWasRemovedByForceIsStillKilledAndItsLabelsAreKnown) {
  MigrationObserved seen = Finishing();
  seen.source.reset();
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kHandOver);
  seen.target->metadata.labels["app"] = "cache";
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kFinishSource);
}

TEST(FinishingTest, ATargetThatWasDeletedAfterTheCommitDoesNotKeepTheSource) {
  MigrationObserved seen = Finishing();
  seen.target.reset();
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
  EXPECT_FALSE(k8s::IsConditionTrue(seen.migration.status.conditions, crds::kHandedOver));
}

TEST(FinishingTest, DeletingTheMigrationNowFinishesIt) {
  MigrationObserved seen = Finishing();
  seen.migration.metadata.deletion_timestamp = kNow;
  HandOverTo(seen);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
}

TEST(FinishingTest, ASilentSourceAgentIsWaitedForUnlessItsNodeIsGone) {
  MigrationObserved seen = Finishing();
  HandOverTo(seen);
  Delete(seen, true);
  seen.source_side = absl::UnavailableError("down");
  const MigrationDecision waits = NextStep(seen, kNow + absl::Hours(1));
  EXPECT_EQ(ReasonOf(waits), "AgentUnreachable");
  EXPECT_EQ(waits.status.phase, MigrationPhase::kFinishing);
  seen.source_node.exists = false;
  seen.source.reset();
  seen.target_side = TargetStatus{};
  EXPECT_EQ(NextStep(seen).status.phase, MigrationPhase::kSucceeded);
}

// --- a post-copy

constexpr int64_t kMiB = int64_t{1} << 20;

MigrationObserved Pulling() {
  MigrationObserved seen = Finishing();
  seen.migration.spec.strategy = crds::Strategy::kPostCopy;
  seen.migration.status.strategy = crds::Strategy::kPostCopy;
  seen.source_side->pull_bytes = 100 * kMiB;
  seen.source_side->serving = true;
  seen.target_side->pull = {.pulling = true,
                            .total_bytes = 100 * kMiB,
                            .missing_bytes = 60 * kMiB,
                            .faults = 12,
                            .fault_p50 = absl::Milliseconds(1),
                            .fault_p99 = absl::Milliseconds(4)};
  return seen;
}

void Arrived(MigrationObserved& seen) {
  seen.source_side->serving = false;
  seen.target_side->pull.pulling = false;
  seen.target_side->pull.missing_bytes = 0;
}

const k8s::Condition& MemoryArrived(const MigrationObserved& seen) {
  static const k8s::Condition kNone;
  const k8s::Condition* found = k8s::FindCondition(seen.migration.status.conditions, crds::kMemoryArrived);
  return found == nullptr ? kNone : *found;
}

TEST(PullingTest, TheSourcePodStaysUntilAllOfItsMemoryHasArrived) {
  MigrationObserved seen = Pulling();
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kHandOver) << "a bare pod gets its labels at once";
  HandOverTo(seen);
  for (int look = 0; look < 3; ++look) {
    const MigrationDecision waits = NextStep(seen, kNow + absl::Minutes(look));
    EXPECT_EQ(waits.step, MigrationStep::kNothing);
    EXPECT_EQ(ReasonOf(waits), "PullingMemory");
    EXPECT_THAT(MessageOf(waits),
                HasSubstr("60 MiB of the 100 MiB that the processes went on without are still "
                          "on node node-a; they waited for 12 pages"));
  }
  EXPECT_EQ(MemoryArrived(seen).status, "False");
  EXPECT_EQ(MemoryArrived(seen).reason, crds::kPulling);
  EXPECT_EQ(seen.migration.status.post_copy.missing_bytes, 60 * kMiB);
  EXPECT_EQ(seen.migration.status.post_copy.fault_p99, absl::Milliseconds(4));
  Arrived(seen);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
  EXPECT_EQ(MemoryArrived(seen).status, "True");
  EXPECT_EQ(seen.migration.status.post_copy.missing_bytes, 0);
  Delete(seen, true);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kFinishSource);
}

TEST(PullingTest, StatusChangesAtMostOnceASecond) {
  MigrationObserved seen = Pulling();
  HandOverTo(seen);
  NextStep(seen, kNow);
  seen.target_side->pull.missing_bytes = 50 * kMiB;
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Milliseconds(900)).status, seen.migration.status);
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Seconds(1)).status.post_copy.missing_bytes, 50 * kMiB);
}

TEST(PullingTest, AnOwnedPodJoinsItsReplicaSetOnlyThen) {
  MigrationObserved seen = FinishingOwned();
  const MigrationObserved pulling = Pulling();
  seen.migration = pulling.migration;
  seen.source_side = pulling.source_side;
  seen.target_side = pulling.target_side;
  EXPECT_EQ(ReasonOf(NextStep(seen)), "PullingMemory") << "the ReplicaSet would delete the source";
  Arrived(seen);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kLowerDeletionCost);
}

struct Silence {
  const char* name;
  bool source, target;
};

TEST(PullingTest, WhileNobodySaysThatAllHasArrivedNothingIsRemoved) {
  for (const Silence& silence : {Silence{"source", true, false}, Silence{"both", true, true}}) {
    MigrationObserved seen = Pulling();
    HandOverTo(seen);
    NextStep(seen);
    if (silence.source) seen.source_side = absl::UnavailableError("down");
    if (silence.target) seen.target_side = absl::UnavailableError("down");
    EXPECT_EQ(ReasonOf(NextStep(seen, kNow + absl::Hours(1))), "PullingMemory") << silence.name;
  }
  MigrationObserved seen = Pulling();
  HandOverTo(seen);
  seen.source_side = absl::UnavailableError("down");
  seen.target_side = absl::UnavailableError("down");
  EXPECT_EQ(ReasonOf(NextStep(seen)), "PullingMemory") << "also when nothing was known before";
}

TEST(PullingTest, ASourceWhoseAgentWasRestartedIsNotTakenForOneThatIsDone) {
  MigrationObserved seen = Pulling();
  HandOverTo(seen);
  NextStep(seen);
  seen.source_side = SourceStatus{.state = SourceState::kCeded};  // asks the target
  seen.target_side = absl::UnavailableError("down");
  EXPECT_EQ(ReasonOf(NextStep(seen)), "PullingMemory");
  seen.source_side->target_running = true;  // and has heard that nothing is missing
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
}

TEST(PullingTest, TheTargetsWordIsEnough) {
  MigrationObserved seen = Pulling();
  HandOverTo(seen);
  NextStep(seen);
  Arrived(seen);
  seen.source_side = absl::UnavailableError("down");
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
}

// kubelet would kill the frozen source: deleted with a grace that is long enough, it is not probed any more.
TEST(PullingTest, ALivenessProbeOfTheSourceRetiresItsPod) {
  MigrationObserved seen = Pulling();
  seen.source =
      PodWith({{"/spec/containers/0/livenessProbe", R"({"periodSeconds":10,"failureThreshold":3})"}});
  HandOverTo(seen);
  EXPECT_EQ(ReasonOf(NextStep(seen, kStart + absl::Seconds(10))), "PullingMemory");
  EXPECT_EQ(NextStep(seen, kStart + absl::Seconds(21)).step, MigrationStep::kRetireSourcePod);
  Delete(seen, true);
  EXPECT_EQ(ReasonOf(NextStep(seen, kStart + absl::Seconds(25))), "PullingMemory") << "it is not killed";
  Arrived(seen);
  EXPECT_EQ(NextStep(seen, kStart + absl::Seconds(26)).step, MigrationStep::kFinishSource);
}

TEST(PullingTest, WhenTheTargetPodIsGoneTheSourceIsAbandoned) {
  MigrationObserved seen = Pulling();
  seen.target.reset();
  seen.target_side = absl::UnavailableError("down");
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
  Delete(seen, true);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kAbandonSource);
  seen.source.reset();
  seen.source_side = SourceStatus{};
  seen.target_side = TargetStatus{};
  const MigrationDecision lost = NextStep(seen);
  EXPECT_EQ(lost.status.phase, MigrationPhase::kFailed) << "what it had not pulled is nowhere";
  EXPECT_EQ(ReasonOf(lost), "StateLost");
  EXPECT_THAT(MessageOf(lost), HasSubstr("was deleted or ended before all of its memory had come"));
}

// The link is cut for good: the source still waits to be asked for pages that nobody will ask for.
TEST(PullingTest, ASourceWhosePagesAreGivenUpIsKilledThoughItWouldServeThem) {
  MigrationObserved seen = Pulling();
  HandOverTo(seen);
  NextStep(seen);
  seen.target_side->pull.pulling = false;
  seen.target_side->pull.lost = "the connection did not come back";
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
  Delete(seen, true);
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kAbandonSource);
}

TEST(FinishingTest, ASourceThatHasNotHeardThatTheTargetRunsTakesOurWord) {
  MigrationObserved seen = Finishing();
  HandOverTo(seen);
  seen.source_side = SourceStatus{.state = SourceState::kCeded};
  seen.target_side = TargetStatus{.state = TargetState::kRunning};
  Delete(seen, true);
  const MigrationDecision finish = NextStep(seen);
  EXPECT_EQ(finish.step, MigrationStep::kFinishSource);
  EXPECT_TRUE(finish.unconfirmed);
  seen.source_side->target_running = true;
  EXPECT_FALSE(NextStep(seen).unconfirmed);
}

TEST(PullingTest, MemoryThatIsLostEndsTheMigrationAsAFailureThatSaysSo) {
  MigrationObserved seen = Pulling();
  HandOverTo(seen);
  NextStep(seen);
  seen.source_side->serving = false;
  seen.target_side->pull.pulling = false;
  seen.target_side->pull.lost =
      "62914560 bytes of memory are lost: the source node cannot give them any more";
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kDeleteSourcePod);
  EXPECT_EQ(MemoryArrived(seen).reason, crds::kLost);
  seen.source_side = SourceStatus{};
  seen.target_side = TargetStatus{};
  seen.source.reset();
  const MigrationDecision lost = NextStep(seen);
  EXPECT_EQ(lost.status.phase, MigrationPhase::kFailed);
  EXPECT_EQ(ReasonOf(lost), "StateLost");
  EXPECT_THAT(MessageOf(lost), HasSubstr("lost its state there, where it begins afresh: 62914560 bytes"));
  EXPECT_TRUE(k8s::IsConditionTrue(lost.status.conditions, crds::kCleanedUp));
}

TEST(PullingTest, AFailureThatHasSwitchedLeavesTheTargetPod) {
  MigrationObserved seen = Pulling();
  seen.migration.status.phase = MigrationPhase::kFailed;
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kSwitched, .status = "True", .reason = "TargetRuns", .message = "m"},
                    kNow);
  k8s::SetCondition(
      seen.migration.status.conditions,
      {.type = crds::kCleanedUp, .status = "False", .reason = "AgentUnreachable", .message = "m"}, kNow);
  seen.source_side = SourceStatus{};
  seen.target_side = TargetStatus{.state = TargetState::kRunning};
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kForgetTarget);
  seen.target_side = TargetStatus{};
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kNothing) << "not DeleteTargetPod";
}

TEST(EndedTest, TheFinalizerGoesOnlyWhenEverythingIsClean) {
  MigrationObserved seen = Finishing();
  seen.migration.status.phase = MigrationPhase::kSucceeded;
  seen.migration.metadata.deletion_timestamp = kNow;
  seen.source.reset();
  k8s::SetCondition(seen.migration.status.conditions,
                    {.type = crds::kComplete, .status = "True", .reason = "Succeeded", .message = "m"}, kNow);
  k8s::SetCondition(
      seen.migration.status.conditions,
      {.type = crds::kCleanedUp, .status = "False", .reason = "AgentUnreachable", .message = "m"}, kNow);
  seen.source_side = SourceStatus{.state = SourceState::kDone};
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kForgetSource);
  seen.source_side = SourceStatus{};
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kForgetTarget);
  seen.target_side = absl::UnavailableError("down");
  EXPECT_EQ(NextStep(seen).step, MigrationStep::kNothing);
  EXPECT_TRUE(k8s::IsConditionTrue(seen.migration.status.conditions, crds::kComplete)) << "the outcome stays";
  seen.target_side = TargetStatus{};
  const MigrationDecision clean = Decide(seen, kSettings, kNow);
  EXPECT_TRUE(k8s::IsConditionTrue(clean.status.conditions, crds::kCleanedUp));
  EXPECT_EQ(Decide(After(seen, clean), kSettings, kNow).step, MigrationStep::kRemoveFinalizer);
  seen.migration.metadata.deletion_timestamp.reset();
  EXPECT_EQ(Decide(After(seen, clean), kSettings, kNow).step, MigrationStep::kNothing);
}

}  // namespace
}  // namespace godwit::controller
