// SPDX-License-Identifier: Apache-2.0
#include <functional>

#include "controller/checkpoint/decide.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/observed.h"

namespace godwit::controller {
namespace {

using agent_api::CheckpointState;
using crds::CheckpointPhase;
using ::testing::HasSubstr;

const CheckpointSettings kSettings;

CheckpointObserved Good(CheckpointPhase phase) {
  CheckpointObserved seen;
  seen.checkpoint.metadata = {.name = "keep",
                              .name_space = "shop",
                              .uid = kMigrationUid,
                              .generation = 1,
                              .creation_timestamp = kStart,
                              .finalizers = {crds::Checkpoint::kFinalizer}};
  seen.checkpoint.spec = {.pod_ref = {"cache-0"}};
  seen.checkpoint.status.phase = phase;
  seen.checkpoint.status.observed_generation = 1;
  seen.checkpoint.status.start_time = kStart;
  seen.pod = PodWith();
  seen.node = GoodNode("node-a");
  seen.preflight = agent_api::PreflightReport{.memory_bytes = 1 << 20};
  if (phase == CheckpointPhase::kPending) return seen;
  seen.checkpoint.status.node_name = "node-a";
  seen.checkpoint.status.pod_uid = seen.pod->view.metadata.uid;
  seen.manifest = "{}";
  seen.manifest_digest = "sha256:1";
  return seen;
}

const k8s::Condition& Complete(const CheckpointDecision& decision) {
  static const k8s::Condition kNone;
  const k8s::Condition* complete = k8s::FindCondition(decision.status.conditions, crds::kComplete);
  return complete == nullptr ? kNone : *complete;
}

struct Case {
  const char* name;
  CheckpointPhase phase;
  std::function<void(CheckpointObserved&)> spoil;
  const char* reason;
  const char* says;
};
class CheckpointFailsTest : public ::testing::TestWithParam<Case> {};

TEST_P(CheckpointFailsTest, WithTheReason) {
  CheckpointObserved seen = Good(GetParam().phase);
  GetParam().spoil(seen);
  const CheckpointDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, CheckpointPhase::kFailed);
  EXPECT_EQ(Complete(decision).reason, GetParam().reason);
  EXPECT_THAT(Complete(decision).message, HasSubstr(GetParam().says));
  ASSERT_EQ(decision.tells.size(), 1u);
  EXPECT_TRUE(decision.tells[0].warning);
  EXPECT_EQ(k8s::IsConditionTrue(decision.status.conditions, crds::kCleanedUp),
            GetParam().phase == CheckpointPhase::kPending);
}

INSTANTIATE_TEST_SUITE_P(
    Table, CheckpointFailsTest,
    ::testing::Values(
        Case{"NoPod", CheckpointPhase::kPending, [](auto& s) { s.pod.reset(); }, "PodNotFound",
             "no pod cache-0"},
        Case{"Moving", CheckpointPhase::kPending, [](auto& s) { s.migration = "move"; }, "MigrationUnderWay",
             "Migration move"},
        Case{"NotRunning", CheckpointPhase::kPending,
             [](auto& s) { s.pod = PodWith({{"/status/phase", "\"Pending\""}}); }, "PodNotRunning",
             "Pending"},
        Case{"NoAgent", CheckpointPhase::kPending, [](auto& s) { s.node.agent_runs = false; }, "NoAgent",
             "node-a"},
        Case{"Finding", CheckpointPhase::kPending,
             [](auto& s) {
               s.preflight->findings = {
                   {.id = "IoUring", .severity = agent_api::Severity::kBlocking, .message = "io_uring"}};
             },
             "IoUring", "io_uring"},
        Case{"NoSpace", CheckpointPhase::kPending, [](auto& s) { s.node.agent->storage_available = 0; },
             "NoSpace", "node node-a has 0 MiB of disk space available, and 66 MiB are needed"},
        Case{"NoSpaceBeyondTheReserve", CheckpointPhase::kPending,
             [](auto& s) {
               s.node.agent->storage_available = int64_t{1100} << 20;
               s.node.agent->storage_reserve = int64_t{1050} << 20;
             },
             "NoSpace",
             "node node-a has 50 MiB of disk space available beyond the 1050 MiB that stay free "
             "(agent.diskReservePercent), and 66 MiB are needed"},
        Case{"LessFreeThanTheReserve", CheckpointPhase::kPending,
             [](auto& s) {
               s.node.agent->storage_available = int64_t{1000} << 20;
               s.node.agent->storage_reserve = int64_t{1050} << 20;
             },
             "NoSpace", "has 0 MiB of disk space available beyond the 1050 MiB that stay free"},
        Case{"PodGone", CheckpointPhase::kRunning, [](auto& s) { s.pod.reset(); }, "PodGone",
             "before its state was kept"},
        Case{"Dump", CheckpointPhase::kRunning,
             [](auto& s) {
               s.side = agent_api::CheckpointStatus{
                   .state = CheckpointState::kFailed, .reason = "DumpFailed", .message = "CRIU: no"};
             },
             "DumpFailed", "CRIU: no"},
        Case{"Late", CheckpointPhase::kRunning,
             [](auto& s) { s.checkpoint.status.start_time = kStart - absl::Hours(1); }, "Timeout", "30m"}),
    [](const auto& info) { return info.param.name; });

TEST(CheckpointTest, TheManifestsDigestIsRecordedBeforeTheStateIsTaken) {
  CheckpointObserved seen = Good(CheckpointPhase::kRunning);
  const CheckpointDecision first = Decide(seen, kSettings, kNow);
  EXPECT_EQ(first.status.manifest_digest, "sha256:1");
  EXPECT_NE(first.status, seen.checkpoint.status) << "the status is written first";
  seen.checkpoint.status = first.status;
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, CheckpointStep::kTake);
  seen.manifest_digest = "sha256:2";  // the pod changed meanwhile
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.manifest_digest, "sha256:2");
}

TEST(CheckpointTest, TheFreezeIsToldWithItsSteps) {
  CheckpointObserved seen = Good(CheckpointPhase::kRunning);
  seen.side = agent_api::CheckpointStatus{
      .state = CheckpointState::kReady,
      .freeze = absl::Microseconds(61234),
      .steps = {{"freeze", "", absl::ZeroDuration(), absl::Milliseconds(3)},
                {"dump", "app", absl::Milliseconds(4), absl::Microseconds(40123)}}};
  const CheckpointDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, CheckpointPhase::kReady);
  EXPECT_EQ(decision.status.freeze.duration, absl::Microseconds(61200));
  ASSERT_EQ(decision.status.freeze.steps.size(), 2u);
  EXPECT_EQ(decision.status.freeze.steps[1],
            (crds::FreezeStep{"dump", "app", absl::Milliseconds(4), absl::Microseconds(40123)}));
  EXPECT_EQ(k8s::FindCondition(decision.status.conditions, crds::kPreCopyPossible), nullptr);
  EXPECT_EQ(decision.tells.size(), 1u);
}

TEST(CheckpointTest, MemoryThatWasDumpedInTheFreezeIsToldWithTheReason) {
  for (const CheckpointState state : {CheckpointState::kReady, CheckpointState::kFailed}) {
    CheckpointObserved seen = Good(CheckpointPhase::kRunning);
    seen.side = agent_api::CheckpointStatus{.state = state, .fallback = "process 12 uses io_uring"};
    const CheckpointDecision decision = Decide(seen, kSettings, kNow);
    const k8s::Condition* possible = k8s::FindCondition(decision.status.conditions, crds::kPreCopyPossible);
    ASSERT_NE(possible, nullptr);
    EXPECT_EQ(possible->status, "False");
    EXPECT_EQ(possible->reason, "PodCannotPreCopy");
    EXPECT_THAT(possible->message, HasSubstr("process 12 uses io_uring"));
    ASSERT_EQ(decision.tells.size(), 2u);
    EXPECT_EQ(decision.tells[0].reason, "PodCannotPreCopy");
  }
}

TEST(CheckpointTest, OneAfterTheOther) {
  CheckpointObserved seen = Good(CheckpointPhase::kPending);
  seen.older = "first";
  EXPECT_EQ(Complete(Decide(seen, kSettings, kNow)).reason, "AnotherCheckpoint");
}

TEST(CheckpointTest, OneWhosePodIsNotLookedAtYetComesBack) {
  CheckpointObserved seen = Good(CheckpointPhase::kPending);
  seen.preflight = absl::NotFoundError("not asked");
  seen.preflight_waits = true;
  const CheckpointDecision waits = Decide(seen, kSettings, kNow);
  EXPECT_EQ(Complete(waits).reason, "WaitingForPreflights");
  EXPECT_LT(waits.again, absl::Seconds(1));
}

TEST(CheckpointTest, AnAgentThatAnswersAgainIsToldSoWhileOthersGoFirst) {
  CheckpointObserved seen = Good(CheckpointPhase::kPending);
  seen.node.agent = absl::UnavailableError("cannot connect");
  const CheckpointDecision silent = Decide(seen, kSettings, kNow);
  seen = Good(CheckpointPhase::kPending);
  seen.checkpoint.status = silent.status;
  seen.preflight_waits = true;
  const CheckpointDecision waits = Decide(seen, kSettings, kNow);
  EXPECT_TRUE(k8s::IsConditionTrue(waits.status.conditions, crds::kAgentsReachable));
}

TEST(CheckpointTest, BeyondTheReserveOfTheDiskThereMayBeRoom) {
  CheckpointObserved seen = Good(CheckpointPhase::kPending);
  seen.node.agent->storage_reserve = seen.node.agent->storage_available - (int64_t{66} << 20);
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.phase, CheckpointPhase::kRunning);
}

TEST(CheckpointTest, ASilentAgentIsGivenTime) {
  CheckpointObserved seen = Good(CheckpointPhase::kRunning);
  seen.side = absl::UnavailableError("down");
  const CheckpointDecision first = Decide(seen, kSettings, kNow);
  EXPECT_EQ(first.status.phase, CheckpointPhase::kRunning);
  seen.checkpoint.status = first.status;
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Seconds(61)).status.phase, CheckpointPhase::kFailed);
  EXPECT_EQ(OnTakeRefused(Good(CheckpointPhase::kRunning), kSettings, absl::UnavailableError("down"), kNow)
                .status.phase,
            CheckpointPhase::kRunning);
  EXPECT_EQ(Complete(OnTakeRefused(Good(CheckpointPhase::kRunning), kSettings,
                                   absl::ResourceExhaustedError("full"), kNow))
                .reason,
            "CheckpointRefused");
}

TEST(CheckpointTest, ArchivesStayWhileTheyAreRead) {
  CheckpointObserved seen = Good(CheckpointPhase::kReady);
  seen.side = agent_api::CheckpointStatus{.state = CheckpointState::kReady};
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, CheckpointStep::kNothing);
  seen.checkpoint.metadata.deletion_timestamp = kNow;
  seen.restore = "bring";
  const CheckpointDecision waits = Decide(seen, kSettings, kNow);
  EXPECT_EQ(waits.step, CheckpointStep::kNothing);
  EXPECT_EQ(k8s::FindCondition(waits.status.conditions, crds::kCleanedUp)->reason, "InUse");
  seen.restore.clear();
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, CheckpointStep::kRemoveArchives);
}

TEST(CheckpointTest, AReadyOneThatLostItsFinalizerGetsItBack) {
  CheckpointObserved seen = Good(CheckpointPhase::kReady);
  seen.checkpoint.metadata.finalizers.clear();
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, CheckpointStep::kAddFinalizer);
}

}  // namespace
}  // namespace godwit::controller
