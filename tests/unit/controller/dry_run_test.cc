// SPDX-License-Identifier: Apache-2.0
// Dry runs: the same look as a migration's, further where there are obstacles, and never a write but status.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/observed.h"

namespace godwit::controller {
namespace {

using crds::MigrationPhase;
using crds::Strategy;
using crds::Verdict;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const MigrationSettings kSettings;
constexpr int64_t kMiB = int64_t{1} << 20;

agent_api::RehearsalReport GoodRehearsal() {
  return {.converges = true,
          .rounds = 4,
          .copying = absl::Seconds(6),
          .freeze = absl::Milliseconds(88),
          .fixed = absl::Milliseconds(81),
          .transfer_bytes = 700 * kMiB,
          .weight = {.processes = 3, .threads = 9, .descriptors = 40, .mappings = 200},
          .memory_bytes = 512 * kMiB,
          .dirty_bytes = 40 * kMiB,
          .dirty_rate = 40 * kMiB,
          .throughput = 100 * kMiB,
          .sampled_bytes = 30 * kMiB,
          .sampled = absl::Seconds(2),
          .round_trip = absl::Microseconds(300)};
}

MigrationObserved DryRunIn(MigrationPhase phase, Strategy strategy = Strategy::kAuto) {
  MigrationObserved seen = GoodObserved(
      phase == MigrationPhase::kRehearsing ? MigrationPhase::kPreflight : phase, Strategy::kStopAndCopy);
  seen.migration.metadata.finalizers.clear();
  seen.migration.spec.strategy = strategy;
  seen.migration.spec.dry_run = true;
  if (phase == MigrationPhase::kPending) return seen;
  seen.migration.status.target_pod_name = "";
  if (phase != MigrationPhase::kRehearsing) return seen;
  seen.migration.status.phase = phase;
  seen.migration.status.strategy = strategy == Strategy::kAuto ? Strategy::kPreCopy : strategy;
  seen.rehearsal = GoodRehearsal();
  return seen;
}

std::vector<std::string> Ids(const std::vector<crds::Finding>& findings) {
  std::vector<std::string> ids;
  for (const crds::Finding& finding : findings) ids.push_back(finding.id);
  return ids;
}

TEST(DryRunTest, GoesFromPendingToItsEndWithoutAWriteButStatus) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kPending);
  MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.step, MigrationStep::kNothing) << "no finalizer";
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPreflight);
  EXPECT_EQ(decision.status.target_pod_name, "");
  seen = DryRunIn(MigrationPhase::kPreflight);
  decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kRehearsing);
  EXPECT_EQ(decision.status.strategy, Strategy::kPreCopy);
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kPreflightPassed));
  seen = DryRunIn(MigrationPhase::kRehearsing);
  decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.step, MigrationStep::kNothing);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kSucceeded);
  EXPECT_EQ(ReasonOf(decision), "DryRunPassed");
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kComplete));
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kCleanedUp));
  const MigrationObserved ended = After(seen, decision);
  decision = Decide(ended, kSettings, kNow);
  EXPECT_EQ(decision.step, MigrationStep::kNothing);
  EXPECT_EQ(decision.status, ended.migration.status);
}

TEST(DryRunTest, TellsWhatAMigrationWouldComeTo) {
  const MigrationDecision decision = Decide(DryRunIn(MigrationPhase::kRehearsing), kSettings, kNow);
  const crds::DryRun& dry_run = decision.status.dry_run;
  EXPECT_EQ(dry_run.verdict, Verdict::kWouldSucceed);
  EXPECT_TRUE(dry_run.converges);
  EXPECT_EQ(dry_run.predicted_freeze, absl::Milliseconds(88));
  EXPECT_EQ(dry_run.least_freeze, absl::Milliseconds(81));
  // Three seconds so far, six of copying, three around them.
  EXPECT_NEAR(absl::ToDoubleSeconds(dry_run.predicted_duration), 12.2, 0.2);
  EXPECT_EQ(dry_run.transfer_bytes, 700 * kMiB);
  EXPECT_EQ(dry_run.processes, 3);
  EXPECT_EQ(dry_run.mappings, 200);
  EXPECT_EQ(decision.status.pre_copy.predicted_freeze, absl::Milliseconds(88)) << "the column Predicted";
  EXPECT_EQ(decision.status.pre_copy.dirty_rate, 40 * kMiB);
  ASSERT_EQ(decision.tells.size(), 1u);
  EXPECT_EQ(decision.tells[0].reason, "DryRunPassed");
  EXPECT_FALSE(decision.tells[0].warning);
  EXPECT_THAT(decision.tells[0].message, HasSubstr("dry run: pod cache-0 would move to node node-b with "
                                                   "strategy PreCopy, stand still for about 88ms"));
  EXPECT_THAT(MessageOf(decision), HasSubstr("Nothing was moved"));
}

TEST(DryRunTest, LongerThanTheBudgetIsSaid) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kRehearsing, Strategy::kStopAndCopy);
  seen.rehearsal->freeze = absl::Seconds(2);
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kSucceeded);
  EXPECT_EQ(decision.status.dry_run.verdict, Verdict::kWouldExceedBudget);
  EXPECT_THAT(MessageOf(decision), HasSubstr("more than freezeBudget"));
}

TEST(DryRunTest, WhatDoesNotConvergeIsJudgedByWhatIsToBeDoneThen) {
  const struct {
    crds::WhenNotConverging then;
    crds::Severity severity;
    Verdict verdict;
    const char* says;
  } cases[] = {
      {crds::WhenNotConverging::kFail, crds::Severity::kBlocking, Verdict::kWouldFail, "would fail then"},
      {crds::WhenNotConverging::kFreeze, crds::Severity::kWarning, Verdict::kWouldExceedBudget,
       "the pod would stand still for 4.2s"},
      {crds::WhenNotConverging::kPostCopy, crds::Severity::kInfo, Verdict::kWouldExceedBudget,
       "pulled after a freeze of 4.2s"}};
  for (const auto& c : cases) {
    MigrationObserved seen = DryRunIn(MigrationPhase::kRehearsing);
    seen.migration.spec.when_not_converging = c.then;
    seen.rehearsal->converges = false;
    seen.rehearsal->freeze = absl::Milliseconds(4200);
    const MigrationDecision decision = Decide(seen, kSettings, kNow);
    ASSERT_EQ(Ids(decision.status.findings), std::vector<std::string>{"NotConverging"});
    const crds::Finding& finding = decision.status.findings[0];
    EXPECT_EQ(finding.severity, c.severity);
    EXPECT_EQ(decision.status.dry_run.verdict, c.verdict);
    EXPECT_THAT(finding.message, HasSubstr(c.says));
    EXPECT_THAT(finding.remedy, HasSubstr("Raise freezeBudget above 4.2s"));
    EXPECT_FALSE(decision.status.dry_run.converges);
    EXPECT_EQ(ReasonOf(decision), c.verdict == Verdict::kWouldFail ? "NotConverging" : "DryRunPassed");
  }
}

TEST(DryRunTest, AFreezeThatProbesDoNotBearWouldFail) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kRehearsing);
  seen.source =
      PodWith({{"/spec/containers/0/livenessProbe", R"({"periodSeconds":1,"failureThreshold":3})"}});
  seen.rehearsal->freeze = absl::Seconds(3);
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kFailed);
  EXPECT_EQ(ReasonOf(decision), "FreezeLimit");
  EXPECT_EQ(decision.status.dry_run.verdict, Verdict::kWouldFail);
  EXPECT_EQ(decision.status.dry_run.predicted_freeze, absl::Seconds(3))
      << "the figures are told all the same";
}

TEST(DryRunTest, ATimeoutThatIsTooShortWouldFail) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kRehearsing);
  seen.migration.spec.timeout = absl::Seconds(10);
  seen.rehearsal->copying = absl::Seconds(9);
  EXPECT_EQ(ReasonOf(Decide(seen, kSettings, kNow)), "Timeout");
}

TEST(DryRunTest, MemoryThatCannotBePreCopiedFailsOrFallsBackAsAskedFor) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kRehearsing);
  seen.rehearsal->fallback = "process 12 has 3 files open with O_DIRECT";
  MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kSucceeded);
  EXPECT_EQ(decision.status.strategy, Strategy::kStopAndCopy);
  EXPECT_EQ(k8s::FindCondition(decision.status.conditions, crds::kPreCopyPossible)->reason,
            "PodCannotPreCopy");
  seen.migration.spec.strategy = Strategy::kPreCopy;
  decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(ReasonOf(decision), "PodCannotPreCopy");
  EXPECT_EQ(decision.status.findings[0].evidence, "process 12 has 3 files open with O_DIRECT");
}

// A migration would stop at the first of them.
TEST(DryRunTest, NamesTheObstaclesOfPodNodesAndProcessesTogether) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kPending);
  seen.source = PodWith({{"/spec/volumes", R"([{"name":"v","hostPath":{"path":"/x"}}])"}});
  MigrationDecision decision = Decide(seen, kSettings, kNow);
  ASSERT_EQ(decision.status.phase, MigrationPhase::kPreflight);
  MigrationObserved next = DryRunIn(MigrationPhase::kPreflight);
  next.source = seen.source;
  next.preflight->findings = {{.id = "IoUring",
                               .severity = agent_api::Severity::kBlocking,
                               .container = "app",
                               .message = "process 12 uses io_uring",
                               .remedy = "Turn it off.",
                               .evidence = "/proc/12/fd/4 -> anon_inode:[io_uring]"}};
  next.target_node.agent->memory_available = 0;
  decision = Decide(next, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kFailed);
  EXPECT_EQ(ReasonOf(decision), "UnsupportedVolume");
  EXPECT_EQ(decision.status.dry_run.verdict, Verdict::kWouldFail);
  EXPECT_THAT(Ids(decision.status.findings), ElementsAre("UnsupportedVolume", "IoUring", "NoMemoryOnTarget"));
  EXPECT_EQ(decision.status.findings[1].evidence, "/proc/12/fd/4 -> anon_inode:[io_uring]");
  for (const Tell& tell : decision.tells) {
    EXPECT_THAT(tell.message, StartsWith("dry run: "));
    EXPECT_TRUE(tell.warning);
  }
  EXPECT_EQ(decision.tells.size(), 3u) << "one for each";
}

TEST(DryRunTest, MachinesAreCompared) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kPreflight);
  agent_api::NodeInfo& source = *seen.source_node.agent;
  agent_api::NodeInfo& target = *seen.target_node.agent;
  source.cpu_features = {"avx2", "avx512f", "sse2"};
  source.kernel = "6.12.3";
  source.cgroup_mode = "v2";
  source.security_modules = {"apparmor", "capability"};
  seen.preflight->other_users = true;
  target = source;
  target.node = "node-b";
  EXPECT_THAT(Ids(Decide(seen, kSettings, kNow).status.findings), ::testing::IsEmpty());
  target.cpu_features = {"avx2", "sse2"};
  target.kernel = "6.8.0-45-generic";
  target.cgroup_mode = "hybrid";
  target.security_modules = {"capability", "selinux"};
  target.lacks_sys_resource = true;
  target.criu_version = "4.2";
  target.criu_check = "no X";
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_THAT(
      Ids(decision.status.findings),
      ElementsAre("CpuFeaturesMissing", "CriuVersionDiffers", "KernelOlder", "CgroupModeDiffers",
                  "SecurityModulesDiffer", "SecurityModulesDiffer", "NoSysResource", "CriuCheckFailed"));
  EXPECT_THAT(decision.status.findings[0].message, HasSubstr("lacks what that of node node-a has: avx512f"));
  EXPECT_EQ(ReasonOf(decision), "CpuFeaturesMissing");
  // An agent that is older tells nothing of it.
  target = GoodNode("node-b").agent.value();
  target.kernel = source.kernel;
  EXPECT_THAT(Ids(Decide(seen, kSettings, kNow).status.findings), ::testing::IsEmpty());
}

TEST(DryRunTest, ImagesThatTheTargetLacksAreTold) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kPreflight);
  const std::string image = "registry.test/app@sha256:0123";
  seen.source->view.status.container_statuses[0].image_id = image;
  EXPECT_THAT(Ids(Decide(seen, kSettings, kNow).status.findings), ::testing::IsEmpty()) << "nobody knows";
  seen.target_images = {"mirror.test/app@sha256:0123", "other:1"};
  EXPECT_THAT(Ids(Decide(seen, kSettings, kNow).status.findings), ::testing::IsEmpty());
  seen.target_images = {"other:1"};
  EXPECT_THAT(Ids(Decide(seen, kSettings, kNow).status.findings), ElementsAre("ImageNotOnTarget"));
  seen.source->view.spec.containers[0].image_pull_policy = "Never";
  EXPECT_THAT(Ids(Decide(seen, kSettings, kNow).status.findings), ElementsAre("ImageMissing"));
}

TEST(DryRunTest, APodThatDoesNotRunEndsItAtOnce) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kPending);
  seen.source = PodWith({{"/status/phase", "\"Pending\""}});
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kFailed);
  EXPECT_EQ(ReasonOf(decision), "PodNotRunning");
}

TEST(DryRunTest, OneThatHasToWaitForOthersSaysSoAndComesBack) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kRehearsing);
  seen.rehearsal_waits = true;
  const MigrationDecision waits = Decide(seen, kSettings, kNow);
  EXPECT_EQ(waits.status.phase, MigrationPhase::kRehearsing);
  EXPECT_EQ(ReasonOf(waits), "WaitingForDryRuns");
  seen = After(seen, waits);
  seen.rehearsal_waits = true;
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Minutes(1)).status.phase, MigrationPhase::kRehearsing);
  EXPECT_EQ(Decide(seen, kSettings, kNow + absl::Hours(1)).status.phase, MigrationPhase::kFailed);
}

TEST(DryRunTest, ARehearsalThatIsRefusedOrUnansweredIsTold) {
  MigrationObserved seen = DryRunIn(MigrationPhase::kRehearsing);
  seen.rehearsal = absl::FailedPreconditionError("memory is still being filled");
  EXPECT_EQ(ReasonOf(Decide(seen, kSettings, kNow)), "RehearsalFailed");
  seen.rehearsal = absl::UnavailableError("connection refused");
  const MigrationDecision waits = Decide(seen, kSettings, kNow);
  EXPECT_EQ(waits.status.phase, MigrationPhase::kRehearsing);
  EXPECT_EQ(ReasonOf(waits), "AgentUnreachable");
  const MigrationDecision gives_up = Decide(After(seen, waits), kSettings, kNow + absl::Minutes(1));
  EXPECT_EQ(gives_up.status.phase, MigrationPhase::kFailed);
}

}  // namespace
}  // namespace godwit::controller
