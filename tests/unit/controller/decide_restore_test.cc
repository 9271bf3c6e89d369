// SPDX-License-Identifier: Apache-2.0
#include <functional>

#include "controller/restore/decide.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/observed.h"

namespace godwit::controller {
namespace {

using agent_api::TargetState;
using agent_api::TargetStatus;
using crds::RestorePhase;
using ::testing::HasSubstr;

const RestoreSettings kSettings;

RestoreObserved Good(RestorePhase phase) {
  RestoreObserved seen;
  seen.restore.metadata = {.name = "bring",
                           .name_space = "shop",
                           .uid = kMigrationUid,
                           .generation = 1,
                           .creation_timestamp = kStart,
                           .finalizers = {crds::Restore::kFinalizer}};
  seen.restore.spec = {.checkpoint_ref = {"keep"}};
  seen.restore.status.phase = phase;
  seen.restore.status.observed_generation = 1;
  seen.restore.status.start_time = kStart;
  crds::Checkpoint checkpoint;
  checkpoint.metadata = {.name = "keep", .name_space = "shop", .uid = "checkpoint-uid"};
  checkpoint.status = {.phase = crds::CheckpointPhase::kReady,
                       .node_name = "node-a",
                       .memory_bytes = int64_t{100} << 20,
                       .archives = {{"app", "/p", int64_t{10} << 20, "sha256:0"}}};
  seen.checkpoint = checkpoint;
  seen.archive_node = GoodNode("node-a");
  seen.target_node = GoodNode("node-a");
  seen.manifest = PodManifest(PodWith());
  seen.pod_name = MovedPodName(seen.manifest->Meta(), kMigrationUid);
  if (phase == RestorePhase::kPending) return seen;
  seen.restore.status.pod_name = seen.pod_name;
  seen.restore.status.node_name = "node-a";
  seen.restore.status.checkpoint_uid = "checkpoint-uid";
  seen.restore.status.pod_uid = "target-uid";
  seen.pod = GoodTarget(PodWith());
  seen.pod->spec.scheduling_gates.clear();
  seen.side = TargetStatus{.state = TargetState::kOpen};
  return seen;
}

const k8s::Condition& Complete(const RestoreDecision& decision) {
  static const k8s::Condition kNone;
  const k8s::Condition* complete = k8s::FindCondition(decision.status.conditions, crds::kComplete);
  return complete == nullptr ? kNone : *complete;
}

struct Case {
  const char* name;
  RestorePhase phase;
  std::function<void(RestoreObserved&)> spoil;
  const char* reason;
};
class RestoreFailsTest : public ::testing::TestWithParam<Case> {};

TEST_P(RestoreFailsTest, WithTheReason) {
  RestoreObserved seen = Good(GetParam().phase);
  GetParam().spoil(seen);
  const RestoreDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(Complete(decision).status, "False");
  EXPECT_EQ(Complete(decision).reason, GetParam().reason) << Complete(decision).message;
  EXPECT_EQ(decision.status.phase,
            GetParam().phase == RestorePhase::kPending ? RestorePhase::kFailed : RestorePhase::kRestoring);
}

INSTANTIATE_TEST_SUITE_P(
    Table, RestoreFailsTest,
    ::testing::Values(
        Case{"NoCheckpoint", RestorePhase::kPending, [](auto& s) { s.checkpoint.reset(); },
             "CheckpointNotFound"},
        Case{"CheckpointFailed", RestorePhase::kPending,
             [](auto& s) { s.checkpoint->status.phase = crds::CheckpointPhase::kFailed; },
             "CheckpointFailed"},
        Case{"CheckpointGoes", RestorePhase::kPending,
             [](auto& s) { s.checkpoint->metadata.deletion_timestamp = kNow; }, "CheckpointTerminating"},
        Case{"ArchivesGone", RestorePhase::kPending, [](auto& s) { s.archive_node = {.name = "node-a"}; },
             "NodeNotFound"},
        Case{"NodeCordoned", RestorePhase::kPending, [](auto& s) { s.target_node.schedulable = false; },
             "NodeUnschedulable"},
        Case{"Architecture", RestorePhase::kPending,
             [](auto& s) { s.target_node.agent->architecture = "arm64"; }, "ArchitectureMismatch"},
        Case{"NoMemory", RestorePhase::kPending,
             [](auto& s) { s.target_node.agent->memory_available = int64_t{50} << 20; }, "NoMemoryOnTarget"},
        Case{"NoDisk", RestorePhase::kPending,
             [](auto& s) { s.target_node.agent->storage_available = int64_t{50} << 20; }, "NoSpaceOnTarget"},
        Case{"NoDiskBeyondTheReserve", RestorePhase::kPending,
             [](auto& s) {
               agent_api::NodeInfo& node = *s.target_node.agent;
               node.storage_reserve = node.storage_available - (int64_t{50} << 20);
             },
             "NoSpaceOnTarget"},
        Case{"Forged", RestorePhase::kPending,
             [](auto& s) { s.manifest = absl::FailedPreconditionError("digest"); }, "ManifestUnusable"},
        Case{"NameTaken", RestorePhase::kPending, [](auto& s) { s.pod = PodView(); }, "PodNameTaken"},
        Case{"PodDeleted", RestorePhase::kRestoring, [](auto& s) { s.pod.reset(); }, "PodDeleted"},
        Case{"NoImage", RestorePhase::kRestoring,
             [](auto& s) {
               s.pod->status.container_statuses = {
                   {.name = "app", .state = {.waiting = k8s::ContainerStateWaiting{"ErrImagePull", "x"}}}};
             },
             "ErrImagePull"},
        Case{"Aborted", RestorePhase::kRestoring,
             [](auto& s) {
               s.side =
                   TargetStatus{.state = TargetState::kAborted, .reason = "DigestMismatch", .message = "m"};
             },
             "DigestMismatch"},
        Case{"Late", RestorePhase::kRestoring,
             [](auto& s) { s.restore.status.start_time = kStart - absl::Hours(1); }, "Timeout"},
        Case{"Deleted", RestorePhase::kRestoring,
             [](auto& s) { s.restore.metadata.deletion_timestamp = kNow; }, "Deleted"}),
    [](const auto& info) { return info.param.name; });

TEST(RestoreTest, WaitsForACheckpointThatIsBeingMadeButNotForEver) {
  RestoreObserved seen = Good(RestorePhase::kPending);
  seen.checkpoint->status.phase = crds::CheckpointPhase::kRunning;
  EXPECT_EQ(Complete(Decide(seen, kSettings, kNow)).reason, "CheckpointNotReady");
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Hours(1)).status.phase, RestorePhase::kFailed);
}

TEST(RestoreTest, ANamespaceRestoresSoManyPodsAtATime) {
  RestoreObserved seen = Good(RestorePhase::kPending);
  seen.restores_in_work = 4;
  EXPECT_EQ(Complete(Decide(seen, kSettings, kNow)).reason, "WaitingForRestores");
  seen.restores_in_work = 3;
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.phase, RestorePhase::kRestoring);
}

TEST(RestoreTest, WhatItWaitedForIsNotOfItsTimeLimit) {
  RestoreObserved seen = Good(RestorePhase::kPending);
  seen.restore.status.start_time = kNow - absl::Hours(1);
  seen.restore.status = Decide(seen, kSettings, kNow).status;
  ASSERT_EQ(seen.restore.status.phase, RestorePhase::kRestoring);
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, RestoreStep::kCreatePod);
}

TEST(RestoreTest, SettlesNameAndNodeThenGoesStepByStep) {
  RestoreObserved seen = Good(RestorePhase::kPending);
  seen.restore.spec.target = {.node_selector = {{"disk", "ssd"}}};
  seen.candidates = {GoodNode("node-a"), GoodNode("node-b")};
  seen.candidates[1].agent->memory_available = int64_t{16} << 30;
  const RestoreDecision settled = Decide(seen, kSettings, kNow);
  EXPECT_EQ(settled.status.phase, RestorePhase::kRestoring);
  EXPECT_EQ(settled.status.node_name, "node-b");
  EXPECT_EQ(settled.status.pod_name, seen.pod_name);
  EXPECT_EQ(settled.status.checkpoint_uid, "checkpoint-uid");
  seen.restore.status = settled.status;
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, RestoreStep::kCreatePod);
  seen.pod = GoodTarget(PodWith());
  seen.restore.status = Decide(seen, kSettings, kNow).status;
  EXPECT_EQ(seen.restore.status.pod_uid, "target-uid");
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, RestoreStep::kPermit);
  seen.side = TargetStatus{.state = TargetState::kOpen};
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, RestoreStep::kOpenGate);
  seen.side = TargetStatus{.state = TargetState::kRunning};
  seen.restore.metadata.deletion_timestamp = kNow;
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, RestoreStep::kMarkCommitted);
  seen.pod->status.conditions.push_back({.type = kCommittedCondition, .status = "True"});
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.phase, RestorePhase::kSucceeded)
      << "what runs is not taken back";
}

TEST(RestoreTest, AFailureRemovesWhatWasMadeInOrder) {
  RestoreObserved seen = Good(RestorePhase::kRestoring);
  k8s::SetCondition(seen.restore.status.conditions,
                    {.type = crds::kComplete,
                     .status = "False",
                     .observed_generation = 1,
                     .reason = "Timeout",
                     .message = "m"},
                    kNow);
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, RestoreStep::kAbort);
  seen.side = TargetStatus{.state = TargetState::kAborted};
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, RestoreStep::kDeletePod);
  seen.pod.reset();
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, RestoreStep::kForget);
  seen.side = TargetStatus{};
  const RestoreDecision done = Decide(seen, kSettings, kNow);
  EXPECT_EQ(done.status.phase, RestorePhase::kFailed);
  EXPECT_TRUE(k8s::IsConditionTrue(done.status.conditions, crds::kCleanedUp));
}

TEST(RestoreTest, RefusalsEndItAndSilenceDoesNot) {
  const RestoreObserved seen = Good(RestorePhase::kRestoring);
  EXPECT_EQ(
      Complete(OnRefused(seen, kSettings, RestoreStep::kPermit, absl::ResourceExhaustedError("full"), kNow))
          .reason,
      "NoSpaceOnTarget");
  EXPECT_EQ(Complete(OnRefused(seen, kSettings, RestoreStep::kCreatePod, absl::PermissionDeniedError("quota"),
                               kNow))
                .reason,
            "PodRefused");
  EXPECT_EQ(
      Complete(OnRefused(seen, kSettings, RestoreStep::kPermit, absl::UnavailableError("down"), kNow)).status,
      "Unknown");
}

}  // namespace
}  // namespace godwit::controller
