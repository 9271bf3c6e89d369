// SPDX-License-Identifier: Apache-2.0
// Whole Migrations, Checkpoints and Restores on a fake API server with fake agents and kubelets.
#include <set>
#include <utility>

#include "base/json.h"
#include "controller/migration/reconciler.h"
#include "controller/pods/names.h"
#include "controller/runtime/cluster.h"
#include "controller/testing/test_cluster.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/testing/fake_api_server.h"

namespace godwit::controller {
namespace {

using crds::MigrationPhase;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string ReasonOf(const std::vector<k8s::Condition>& conditions, const char* type = crds::kComplete) {
  const k8s::Condition* condition = k8s::FindCondition(conditions, type);
  return condition == nullptr ? "" : condition->reason;
}

class ReconcileTest : public ::testing::Test {
 protected:
  ReconcileTest() {
    server_.SetGraceful(k8s::Pod::kResource);
    server_.OnCreate("pods/binding",
                     [this](const k8s::Unstructured& binding) -> absl::StatusOr<k8s::Unstructured> {
                       const k8s::ObjectMeta meta = binding.Meta();
                       auto pod = server_.Get(k8s::Pod::kResource, meta.object_name());
                       if (!pod) return absl::NotFoundError("no such pod");
                       pod->Set("/spec/nodeName", binding.String("/target/name"));
                       server_.Put(k8s::Pod::kResource, *pod);
                       return binding;
                     });
    cluster_.emplace(server_.api(), "shop", "godwit-system");
  }

  // The pod runs, somewhere, exactly once: the one named or its successor.
  void ExpectRunsOnceOn(const std::string& node) {
    int running = 0;
    for (const k8s::Pod& pod : cluster_->Pods()) {
      EXPECT_FALSE(pod.metadata.terminating()) << pod.metadata.name;
      if (pod.running()) ++running;
      EXPECT_EQ(pod.spec.node_name, node);
    }
    EXPECT_EQ(running, 1);
    EXPECT_EQ(cluster_->agents().violations(), 0);
  }

  k8s::testing::FakeApiServer server_;
  std::optional<testing::TestCluster> cluster_;
};

// 250 kB of a pod, and none of it kept.
TEST_F(ReconcileTest, CopiesOfPodsHoldOnlyWhatIsRead) {
  k8s::Unstructured pod;
  pod.Set("/metadata/namespace", "shop");
  pod.Set("/metadata/name", "huge");
  pod.Set("/metadata/annotations/notes", std::string(100'000, 'x'));
  pod.Set("/metadata/annotations/godwit.io~1hand-over", "{}");
  pod.SetValue(
      "/spec/containers",
      *json::Parse(R"([{"name": "app", "image": "i", "args": ["x"], "ports": [{"hostPort": 80}]}])"));
  pod.Set("/spec/containers/0/env", std::vector<k8s::EnvVar>{{"E", std::string(100'000, 'x'), {}}});
  pod.SetValue("/spec/volumes", *json::Parse(R"([{"name": "cache", "emptyDir": {}}])"));
  server_.Put(k8s::Pod::kResource, pod);
  Cluster cluster(server_.api(), &cluster_->agents(), {.name_space = "godwit-system"});
  cluster.Start();
  ASSERT_TRUE(cluster.WaitForSync(absl::Seconds(20)).ok());
  const auto kept = cluster.Pod({"shop", "huge"});
  ASSERT_TRUE(kept.has_value());
  EXPECT_LT(json::Encode(*kept).size(), 1000u);
  EXPECT_EQ(kept->metadata.Annotation(kHandOverAnnotation), "{}");
  EXPECT_EQ(kept->spec.containers.at(0).ports.at(0).host_port, 80);
  EXPECT_TRUE(kept->spec.volumes.at(0).empty_dir.has_value()) << "agents are told of it";
  const auto whole = cluster.ReadPod({"shop", "huge"});
  ASSERT_TRUE(whole.ok() && whole->has_value());
  EXPECT_EQ((*whole)->view.spec.containers.at(0).env.size(), 1u) << "a copy of the pod is made of all of it";
  cluster.Stop();
}

// What holds whichever way memory moves.
class MoveTest : public ReconcileTest, public ::testing::WithParamInterface<crds::Strategy> {
 protected:
  crds::Migration Migrate(const std::string& name, const std::string& pod) {
    return cluster_->Migrate(name, pod, "node-b", GetParam());
  }
  // The phases that were entered, and then `end`.
  std::vector<std::string> EventsUntil(std::initializer_list<const char*> end) const {
    std::vector<std::string> events = {"Preflight"};
    if (GetParam() != crds::Strategy::kStopAndCopy) events.push_back("Copying");
    events.insert(events.end(), {"Preparing", "Switching"});
    events.insert(events.end(), end.begin(), end.end());
    return events;
  }
};

INSTANTIATE_TEST_SUITE_P(Strategies, MoveTest,
                         ::testing::Values(crds::Strategy::kPreCopy, crds::Strategy::kStopAndCopy,
                                           crds::Strategy::kPostCopy),
                         [](const auto& info) { return std::string(json::Name(info.param)); });

TEST_P(MoveTest, APodMovesAndNothingIsLeftBehind) {
  const k8s::Pod source = cluster_->AddPod("cache-0");
  const crds::Migration made = Migrate("move", "cache-0");
  const crds::Migration done = cluster_->Finish("move");
  ASSERT_EQ(done.status.phase, MigrationPhase::kSucceeded)
      << ReasonOf(done.status.conditions) << cluster_->last_error();
  ExpectRunsOnceOn("node-b");
  const k8s::Pod target = cluster_->Pods().front();
  EXPECT_EQ(target.metadata.name, done.status.target_pod_name);
  EXPECT_EQ(target.metadata.Label("app"), "cache");
  EXPECT_TRUE(target.ready());
  EXPECT_EQ(done.status.freeze.duration, absl::Milliseconds(412));
  EXPECT_EQ(done.status.source_pod_uid, source.metadata.uid);
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
  EXPECT_THAT(cluster_->Events(made.metadata.uid), ElementsAreArray(EventsUntil({"Finishing", "Succeeded"})));
  EXPECT_THAT(cluster_->Events(source.metadata.uid), Contains("Finishing"));
  EXPECT_THAT(cluster_->Events(target.metadata.uid), Contains("Succeeded"));
  cluster_->Delete<crds::Migration>("move");
  EXPECT_TRUE(cluster_->Until([&] { return !cluster_->Get<crds::Migration>("move"); }, 20));
  EXPECT_EQ(cluster_->Pods().size(), 1u);
}

TEST_P(MoveTest, ADryRunTouchesNothing) {
  const k8s::Pod source = cluster_->AddPod("cache-0");
  const crds::Migration made = cluster_->Migrate("try", "cache-0", "node-b", GetParam(), /*dry_run=*/true);
  const crds::Migration done = cluster_->Finish("try");
  ASSERT_EQ(done.status.phase, MigrationPhase::kSucceeded) << ReasonOf(done.status.conditions);
  EXPECT_EQ(ReasonOf(done.status.conditions), "DryRunPassed");
  EXPECT_EQ(done.status.dry_run.predicted_freeze, absl::Milliseconds(80));
  EXPECT_THAT(done.metadata.finalizers, IsEmpty());
  EXPECT_EQ(cluster_->agents().starts(), 0);
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
  const std::vector<k8s::Pod> pods = cluster_->Pods();
  ASSERT_EQ(pods.size(), 1u);
  EXPECT_EQ(pods[0].metadata.resource_version, source.metadata.resource_version) << "not even a label";
  EXPECT_THAT(cluster_->Events(made.metadata.uid), ElementsAre("Preflight", "Rehearsing", "DryRunPassed"));
  EXPECT_THAT(cluster_->Events(source.metadata.uid), IsEmpty());
  cluster_->Delete<crds::Migration>("try");
  EXPECT_FALSE(cluster_->Get<crds::Migration>("try")) << "it goes at once";
  // It stands in no migration's way.
  Migrate("move", "cache-0");
  EXPECT_EQ(cluster_->Finish("move").status.phase, MigrationPhase::kSucceeded);
}

TEST_P(MoveTest, AMigrationDoesNotWaitForADryRunAndEndsIt) {
  cluster_->AddPod("cache-0");
  cluster_->Migrate("try", "cache-0", "node-b", GetParam(), /*dry_run=*/true);
  Migrate("move", "cache-0");
  EXPECT_EQ(cluster_->Finish("move").status.phase, MigrationPhase::kSucceeded);
  const crds::Migration tried = cluster_->Finish("try");
  EXPECT_TRUE(crds::Ended(tried.status.phase));
  EXPECT_EQ(cluster_->agents().violations(), 0);
}

TEST_P(MoveTest, AControllerThatDiesAfterEveryLookComesToTheSameEnd) {
  cluster_->AddPod("cache-0");
  cluster_->RestartAlways(true);
  Migrate("move", "cache-0");
  const crds::Migration done = cluster_->Finish("move", [&] { cluster_->Restart(); });
  EXPECT_EQ(done.status.phase, MigrationPhase::kSucceeded) << ReasonOf(done.status.conditions);
  ExpectRunsOnceOn("node-b");
  EXPECT_EQ(cluster_->agents().starts(), 1);
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
}

TEST_P(MoveTest, EveryAnswerOfAnAgentMayBeLostOnce) {
  cluster_->AddPod("cache-0");
  int writes = 0;
  cluster_->agents().LoseAnswers([&] { return ++writes % 2 == 1; });
  Migrate("move", "cache-0");
  EXPECT_EQ(cluster_->Finish("move").status.phase, MigrationPhase::kSucceeded);
  EXPECT_GE(writes, 5);
  ExpectRunsOnceOn("node-b");
  EXPECT_EQ(cluster_->agents().starts(), 1);
}

TEST_P(MoveTest, EveryWriteToTheApiServerMayFailOnce) {
  cluster_->AddPod("cache-0");
  Migrate("move", "cache-0");
  absl::Mutex mutex;
  std::set<std::string> failed;
  std::string just_failed;
  server_.Intercept(
      [&](const k8s::testing::SeenRequest& request) -> std::optional<k8s::testing::ForcedAnswer> {
        const bool kubelets = request.path.find("/binding") != std::string::npos ||
                              request.body.find("hostIP") != std::string::npos;
        if (request.method == "GET" || kubelets || request.path.find("/events") != std::string::npos)
          return std::nullopt;
        absl::MutexLock lock(&mutex);
        // What comes after a failure gets through, also when progress was made meanwhile and is in the body.
        if (std::exchange(just_failed, "") == request.method + request.path) return std::nullopt;
        if (!failed.insert(request.method + request.path + request.body).second) return std::nullopt;
        just_failed = request.method + request.path;
        return k8s::testing::ForcedAnswer{.code = 500, .reason = "InternalError", .message = "etcd is busy"};
      });
  EXPECT_EQ(cluster_->Finish("move").status.phase, MigrationPhase::kSucceeded) << cluster_->last_error();
  EXPECT_GE(failed.size(), 10u);
  ExpectRunsOnceOn("node-b");
}

TEST_P(MoveTest, ADumpThatFailsLeavesTheSourceRunningAndNothingElse) {
  cluster_->AddPod("cache-0");
  cluster_->agents().FailNextSource("DumpFailed", "CRIU: unsupported socket");
  const crds::Migration made = Migrate("move", "cache-0");
  const crds::Migration done = cluster_->Finish("move");
  EXPECT_EQ(done.status.phase, MigrationPhase::kFailed);
  EXPECT_EQ(ReasonOf(done.status.conditions), "DumpFailed");
  ExpectRunsOnceOn("node-a");
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
  EXPECT_THAT(cluster_->Events(made.metadata.uid), ElementsAreArray(EventsUntil({"DumpFailed"})));
}

// Deleted after any number of looks: before the decision the pod stays, after it the pod has moved; never
// both, never none.
TEST_P(MoveTest, AMigrationThatIsDeletedHalfwayAbortsOrFinishes) {
  bool stayed = false, moved = false;
  for (int when = 1; when <= 32; ++when) {
    const std::string name = absl::StrCat("pod-", when);
    const k8s::Pod source = cluster_->AddPod(name);
    Migrate("move", name);
    for (int i = 0; i < when; ++i) cluster_->Step();
    cluster_->Delete<crds::Migration>("move");
    ASSERT_TRUE(cluster_->Until([&] { return !cluster_->Get<crds::Migration>("move"); }))
        << "deleted after " << when;
    ASSERT_THAT(cluster_->agents().Left(), IsEmpty()) << "deleted after " << when;
    ASSERT_TRUE(cluster_->Until([&] { return cluster_->Pods().size() == 1; }, 10));
    const k8s::Pod pod = cluster_->Pods().front();
    ASSERT_TRUE(pod.running());
    (pod.metadata.uid == source.metadata.uid ? stayed : moved) = true;
    server_.Remove(k8s::Pod::kResource, pod.metadata.object_name());
  }
  EXPECT_TRUE(stayed);
  EXPECT_TRUE(moved);
  EXPECT_EQ(cluster_->agents().violations(), 0);
}

// The same for one that is cancelled; it stays, and says how it ended.
TEST_P(MoveTest, AMigrationThatIsCancelledHalfwayEndsCancelledOrFinishes) {
  bool stayed = false, moved = false;
  for (int when = 1; when <= 32; ++when) {
    const std::string name = absl::StrCat("pod-", when);
    const std::string move = absl::StrCat("move-", when);
    const k8s::Pod source = cluster_->AddPod(name);
    Migrate(move, name);
    for (int i = 0; i < when; ++i) cluster_->Step();
    crds::Migration cancelled = *cluster_->Get<crds::Migration>(move);
    if (crds::Ended(cancelled.status.phase)) break;
    const crds::Migration before = cancelled;
    cancelled.spec.cancel = true;
    ASSERT_TRUE(k8s::Client<crds::Migration>(cluster_->api()).PatchChanges(before, cancelled).ok());
    const crds::Migration done = cluster_->Finish(move);
    ASSERT_THAT(cluster_->agents().Left(), IsEmpty()) << "cancelled after " << when;
    ASSERT_TRUE(cluster_->Until([&] { return cluster_->Pods().size() == 1; }, 10));
    const k8s::Pod pod = cluster_->Pods().front();
    ASSERT_TRUE(pod.running());
    const bool here = pod.metadata.uid == source.metadata.uid;
    (here ? stayed : moved) = true;
    EXPECT_EQ(ReasonOf(done.status.conditions), here ? "Cancelled" : "Succeeded")
        << "cancelled after " << when;
    EXPECT_EQ(ReasonOf(done.status.conditions, crds::kCancelled), here ? "Cancelled" : "TooLate");
    server_.Remove(k8s::Pod::kResource, pod.metadata.object_name());
  }
  EXPECT_TRUE(stayed);
  EXPECT_TRUE(moved);
  EXPECT_EQ(cluster_->agents().violations(), 0);
}

// The target's node goes right after the decision, and is fenced: the pod goes on where it stood still.
TEST_F(ReconcileTest, ATargetNodeThatIsFencedAfterTheDecisionGivesThePodBack) {
  const k8s::Pod source = cluster_->AddPod("cache-0");
  const crds::Migration made = cluster_->Migrate("move", "cache-0", "node-b", crds::Strategy::kStopAndCopy);
  ASSERT_TRUE(cluster_->Until([&] { return cluster_->agents().IsCeded("node-a", source.metadata.uid); }));
  cluster_->agents().TurnOff("node-b");
  cluster_->kubelets().StopNode("node-b");
  cluster_->clock().Advance(absl::Minutes(1));
  ASSERT_TRUE(cluster_->Until([&] {
    cluster_->clock().Advance(absl::Seconds(10));
    return ReasonOf(cluster_->Get<crds::Migration>("move")->status.conditions, crds::kSwitched) ==
           crds::kOutcomeUncertain;
  }));
  for (int i = 0; i < 20; ++i) cluster_->Step();
  EXPECT_TRUE(cluster_->agents().IsCeded("node-a", source.metadata.uid)) << "nobody may guess";
  const k8s::Unstructured taint = *k8s::Unstructured::Parse(
      R"({"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","value":"nodeshutdown","effect":"NoExecute"}]}})");
  ASSERT_TRUE(cluster_->api()
                  .Patch(k8s::Node::kResource, {"", "node-b"}, k8s::PatchType::kMerge, taint.ToJson(), {})
                  .ok());
  ASSERT_TRUE(cluster_->Until(
      [&] {
        cluster_->clock().Advance(absl::Seconds(1));
        return cluster_->Get<crds::Migration>("move")->status.phase == MigrationPhase::kFailed;
      },
      1000));
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Migration>("move")->status.conditions), "TargetLost");
  cluster_->agents().TurnOn("node-b");
  cluster_->kubelets().StartNode("node-b");
  EXPECT_TRUE(k8s::IsConditionTrue(cluster_->Finish("move").status.conditions, crds::kCleanedUp));
  ExpectRunsOnceOn("node-a");
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
}

TEST_F(ReconcileTest, APreCopyTellsItsRoundsAndItsStrategy) {
  cluster_->AddPod("cache-0");
  cluster_->agents().TellNextPreCopy({.rounds = 40});
  cluster_->Migrate("move", "cache-0", "node-b");
  ASSERT_TRUE(
      cluster_->Until([&] { return cluster_->Get<crds::Migration>("move")->status.pre_copy.rounds >= 10; }));
  crds::Migration moving = *cluster_->Get<crds::Migration>("move");
  EXPECT_EQ(moving.status.phase, MigrationPhase::kCopying);
  EXPECT_EQ(moving.status.strategy, crds::Strategy::kPreCopy);
  for (const k8s::Pod& pod : cluster_->Pods()) {
    EXPECT_EQ(pod.spec.node_name, pod.metadata.name == "cache-0" ? "node-a" : "")
        << "the target takes nothing yet";
  }
  const crds::Migration done = cluster_->Finish("move");
  EXPECT_EQ(done.status.phase, MigrationPhase::kSucceeded) << ReasonOf(done.status.conditions);
  EXPECT_TRUE(k8s::IsConditionTrue(done.status.conditions, crds::kConverged));
  EXPECT_GE(done.status.pre_copy.rounds, 40);
  ExpectRunsOnceOn("node-b");
}

TEST_F(ReconcileTest, LimitsThatChangeWhileItCopiesReachTheSource) {
  cluster_->AddPod("cache-0");
  cluster_->agents().TellNextPreCopy({.rounds = 100});
  const crds::Migration made = cluster_->Migrate("move", "cache-0", "node-b");
  ASSERT_TRUE(cluster_->Until([&] { return cluster_->agents().starts() == 1; }));
  k8s::Unstructured patch;
  patch.Set("/spec/bandwidthLimit", "10Mi");
  patch.Set("/spec/freezeBudget", "2s");
  ASSERT_TRUE(k8s::Client<crds::Migration>(server_.api()).MergePatch("shop", "move", patch).ok());
  const auto source = cluster_->agents().At("node-a", "");
  EXPECT_TRUE(cluster_->Until(
      [&] {
        const auto status = source->GetSource(made.metadata.uid);
        return status.ok() && status->limits.bandwidth_limit == 10 << 20 &&
               status->limits.freeze_budget == absl::Seconds(2);
      },
      20));
  EXPECT_EQ(cluster_->Finish("move").status.phase, MigrationPhase::kSucceeded);
}

TEST_F(ReconcileTest, APodThatWritesTooFastIsFrozenAllTheSameOrStaysAsAskedFor) {
  cluster_->AddPod("cache-0");
  cluster_->agents().TellNextPreCopy({.converges = false});
  cluster_->Migrate("stay", "cache-0", "node-b");
  k8s::Unstructured patch;
  patch.Set("/spec/whenNotConverging", "Fail");
  ASSERT_TRUE(k8s::Client<crds::Migration>(server_.api()).MergePatch("shop", "stay", patch).ok());
  const crds::Migration stayed = cluster_->Finish("stay");
  EXPECT_EQ(ReasonOf(stayed.status.conditions), "NotConverging");
  EXPECT_EQ(ReasonOf(stayed.status.conditions, crds::kConverged), "NotConverging");
  EXPECT_EQ(stayed.status.pre_copy.rounds, 3);
  ExpectRunsOnceOn("node-a");
  cluster_->agents().TellNextPreCopy({.converges = false});
  const crds::Migration made = cluster_->Migrate("move", "cache-0", "node-b");
  EXPECT_EQ(cluster_->Finish("move").status.phase, MigrationPhase::kSucceeded);
  EXPECT_THAT(cluster_->Events(made.metadata.uid), Contains("NotConverging"));
  ExpectRunsOnceOn("node-b");
}

TEST_F(ReconcileTest, WithPinnedMemoryAutoStopsAndCopiesAndPreCopyFails) {
  const k8s::Pod pod = cluster_->AddPod("cache-0");
  cluster_->agents().TellNextPreCopy({.fallback = "process 1 (app) has files open with O_DIRECT"});
  cluster_->Migrate("stay", "cache-0", "node-b", crds::Strategy::kPreCopy);
  const crds::Migration stayed = cluster_->Finish("stay");
  EXPECT_EQ(ReasonOf(stayed.status.conditions), "PodCannotPreCopy");
  ExpectRunsOnceOn("node-a");
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
  cluster_->agents().TellNextPreCopy({.fallback = "process 1 (app) has files open with O_DIRECT"});
  const crds::Migration made = cluster_->Migrate("move", "cache-0", "node-b");
  const crds::Migration moved = cluster_->Finish("move");
  EXPECT_EQ(moved.status.phase, MigrationPhase::kSucceeded);
  EXPECT_EQ(moved.status.strategy, crds::Strategy::kStopAndCopy);
  EXPECT_EQ(ReasonOf(moved.status.conditions, crds::kPreCopyPossible), "PodCannotPreCopy");
  EXPECT_THAT(cluster_->Events(made.metadata.uid), Contains("PodCannotPreCopy").Times(1));
  EXPECT_THAT(cluster_->Events(pod.metadata.uid), Contains("PodCannotPreCopy"));
  ExpectRunsOnceOn("node-b");
}

TEST_F(ReconcileTest, OnAnOldKernelAutoStopsAndCopiesAndSaysWhy) {
  cluster_->AddPod("cache-0");
  cluster_->agents().Change("node-a",
                            [](auto& info) { info.no_pre_copy = "kernel 6.1 has no PAGEMAP_SCAN"; });
  const crds::Migration made = cluster_->Migrate("move", "cache-0", "node-b");
  const crds::Migration moved = cluster_->Finish("move");
  EXPECT_EQ(moved.status.phase, MigrationPhase::kSucceeded);
  EXPECT_EQ(moved.status.strategy, crds::Strategy::kStopAndCopy);
  EXPECT_THAT(cluster_->Events(made.metadata.uid), ElementsAre("Preflight", "NodeCannotPreCopy", "Preparing",
                                                               "Switching", "Finishing", "Succeeded"));
}

TEST_F(ReconcileTest, TheSourceDeletedWhileItIsCopiedEndsTheMigration) {
  cluster_->AddPod("cache-0");
  cluster_->agents().TellNextPreCopy({.rounds = 1000});
  cluster_->Migrate("move", "cache-0", "node-b");
  ASSERT_TRUE(cluster_->Until([&] { return cluster_->agents().starts() == 1; }));
  cluster_->Delete<k8s::Pod>("cache-0");
  const crds::Migration done = cluster_->Finish("move");
  EXPECT_EQ(done.status.phase, MigrationPhase::kFailed);
  EXPECT_THAT(ReasonOf(done.status.conditions), ::testing::AnyOf("PodTerminating", "PodGone"));
  EXPECT_TRUE(cluster_->Until([&] { return cluster_->Pods().empty(); }, 20));
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
}

TEST_F(ReconcileTest, ASecondMigrationOfAPodIsRefusedAndTheFirstGoesOn) {
  cluster_->AddPod("cache-0");
  cluster_->Migrate("first", "cache-0", "node-b");
  cluster_->Step();
  cluster_->Migrate("second", "cache-0", "node-b");
  const crds::Migration second = cluster_->Finish("second");
  EXPECT_EQ(second.status.phase, MigrationPhase::kFailed);
  EXPECT_EQ(ReasonOf(second.status.conditions), "AnotherMigration");
  EXPECT_EQ(cluster_->Finish("first").status.phase, MigrationPhase::kSucceeded);
  ExpectRunsOnceOn("node-b");
}

TEST_P(MoveTest, AnAgentThatIsSilentInTheMiddleEndsItOnlyWhenThatIsSafe) {
  cluster_->AddPod("cache-0");
  cluster_->agents().HoldBefore(agent_api::SourceState::kCeded);
  Migrate("move", "cache-0");
  ASSERT_TRUE(cluster_->Until([&] {
    return cluster_->Get<crds::Migration>("move")->status.phase == MigrationPhase::kSwitching &&
           cluster_->agents().starts() == 1;
  }));
  cluster_->agents().Silence("node-a", absl::UnavailableError("cannot connect"));
  for (int i = 0; i < 20; ++i) cluster_->Step();
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Migration>("move")->status.conditions), "AgentUnreachable");
  cluster_->clock().Advance(absl::Minutes(1));
  // The target was open: it aborts, and from then on it is certain that it never runs.
  ASSERT_TRUE(cluster_->Until(
      [&] { return cluster_->Get<crds::Migration>("move")->status.phase == MigrationPhase::kFailed; }, 1000));
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Migration>("move")->status.conditions), "AgentUnreachable");
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Migration>("move")->status.conditions, crds::kCleanedUp),
            "AgentUnreachable");
  cluster_->agents().HoldBefore(agent_api::SourceState::kDone);
  cluster_->agents().Silence("node-a", absl::OkStatus());
  EXPECT_TRUE(k8s::IsConditionTrue(cluster_->Finish("move").status.conditions, crds::kCleanedUp))
      << "cleaned when the agent is back";
  ExpectRunsOnceOn("node-a");
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
}

TEST_P(MoveTest, TheTargetPodDeletedWhileItWaitsEndsTheMigration) {
  cluster_->AddPod("cache-0");
  cluster_->agents().HoldBefore(agent_api::SourceState::kCeded);
  Migrate("move", "cache-0");
  ASSERT_TRUE(cluster_->Until([&] { return cluster_->agents().starts() == 1; }));
  cluster_->Delete<k8s::Pod>(cluster_->Get<crds::Migration>("move")->status.target_pod_name);
  const crds::Migration done = cluster_->Finish("move");
  EXPECT_EQ(ReasonOf(done.status.conditions), "TargetPodDeleted");
  ExpectRunsOnceOn("node-a");
}

TEST_F(ReconcileTest, ACheckpointIsKeptRestoredElsewhereAndRemovedWithItsObject) {
  const k8s::Pod pod = cluster_->AddPod("cache-0");
  cluster_->Keep("keep", "cache-0");
  ASSERT_TRUE(cluster_->Until([&] {
    return cluster_->Get<crds::Checkpoint>("keep")->status.phase == crds::CheckpointPhase::kReady;
  }));
  const crds::Checkpoint kept = *cluster_->Get<crds::Checkpoint>("keep");
  ASSERT_EQ(kept.status.archives.size(), 1u);
  EXPECT_EQ(kept.status.criu_version, "4.2.1");
  EXPECT_THAT(kept.status.manifest_digest, HasSubstr("sha256:"));
  EXPECT_THAT(cluster_->Events(kept.metadata.uid), ElementsAre("Running", "Ready"));
  EXPECT_TRUE(cluster_->Get<k8s::Pod>("cache-0")->running());
  server_.Remove(k8s::Pod::kResource, {"shop", "cache-0"});

  const crds::Restore made = cluster_->Bring("bring", "keep", "node-b");
  ASSERT_TRUE(cluster_->Until([&] {
    const auto restore = cluster_->Get<crds::Restore>("bring");
    return crds::Ended(restore->status.phase) &&
           k8s::IsConditionTrue(restore->status.conditions, crds::kCleanedUp);
  }));
  const crds::Restore restored = *cluster_->Get<crds::Restore>("bring");
  ASSERT_EQ(restored.status.phase, crds::RestorePhase::kSucceeded) << ReasonOf(restored.status.conditions);
  EXPECT_THAT(cluster_->Events(made.metadata.uid), ElementsAre("Restoring", "Succeeded"));
  for (int i = 0; i < 3; ++i) cluster_->Step();
  ExpectRunsOnceOn("node-b");
  EXPECT_EQ(cluster_->Pods().front().metadata.name, absl::StrCat("cache-0-", Suffix(made.metadata.uid)));
  EXPECT_EQ(cluster_->Pods().front().metadata.Label("app"), "cache");
  EXPECT_THAT(cluster_->agents().Left(), ElementsAre(absl::StrCat("node-a checkpoint ", kept.metadata.uid)));

  cluster_->Delete<crds::Checkpoint>("keep");
  EXPECT_TRUE(cluster_->Until([&] { return !cluster_->Get<crds::Checkpoint>("keep"); }, 20));
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
}

TEST_F(ReconcileTest, ACheckpointThatFailsSaysWhyAndLeavesNoArchive) {
  cluster_->AddPod("cache-0");
  cluster_->agents().FailNextCheckpoint("DumpFailed", "CRIU: no");
  cluster_->Keep("keep", "cache-0");
  ASSERT_TRUE(cluster_->Until([&] {
    return k8s::IsConditionTrue(cluster_->Get<crds::Checkpoint>("keep")->status.conditions, crds::kCleanedUp);
  }));
  EXPECT_EQ(cluster_->Get<crds::Checkpoint>("keep")->status.phase, crds::CheckpointPhase::kFailed);
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Checkpoint>("keep")->status.conditions), "DumpFailed");
  EXPECT_THAT(cluster_->agents().Left(), IsEmpty());
  ExpectRunsOnceOn("node-a");
}

TEST_F(ReconcileTest, ACheckpointWhoseNodeIsGoneIsLetGoWithAnEvent) {
  cluster_->AddPod("cache-0");
  const crds::Checkpoint made = cluster_->Keep("keep", "cache-0");
  ASSERT_TRUE(cluster_->Until([&] {
    return cluster_->Get<crds::Checkpoint>("keep")->status.phase == crds::CheckpointPhase::kReady;
  }));
  cluster_->agents().Silence("node-a", absl::UnavailableError("cannot connect"));
  cluster_->Delete<crds::Checkpoint>("keep");
  for (int i = 0; i < 5; ++i) cluster_->Step();
  ASSERT_TRUE(cluster_->Get<crds::Checkpoint>("keep")) << "held while the node exists";
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Checkpoint>("keep")->status.conditions, crds::kCleanedUp),
            "AgentUnreachable");
  server_.Remove(k8s::Node::kResource, {"", "node-a"});
  EXPECT_TRUE(cluster_->Until([&] { return !cluster_->Get<crds::Checkpoint>("keep"); }, 100));
  EXPECT_THAT(cluster_->Events(made.metadata.uid), Contains("NodeGone"));
}

TEST_F(ReconcileTest, WhatFailedAtOnceCanBeDeleted) {
  cluster_->Keep("keep", "nobody");
  cluster_->Bring("bring", "nothing");
  cluster_->Migrate("move", "nobody", "node-b");
  for (int i = 0; i < 5; ++i) cluster_->Step();
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Checkpoint>("keep")->status.conditions), "PodNotFound");
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Migration>("move")->status.conditions), "PodNotFound");
  cluster_->Delete<crds::Checkpoint>("keep");
  cluster_->Delete<crds::Restore>("bring");
  cluster_->Delete<crds::Migration>("move");
  EXPECT_TRUE(cluster_->Until(
      [&] {
        return !cluster_->Get<crds::Checkpoint>("keep") && !cluster_->Get<crds::Restore>("bring") &&
               !cluster_->Get<crds::Migration>("move");
      },
      20));
}

TEST_F(ReconcileTest, ARestoreWithoutItsCheckpointFails) {
  cluster_->Bring("bring", "missing");
  ASSERT_TRUE(
      cluster_->Until([&] { return crds::Ended(cluster_->Get<crds::Restore>("bring")->status.phase); }, 20));
  EXPECT_EQ(ReasonOf(cluster_->Get<crds::Restore>("bring")->status.conditions), "CheckpointNotFound");
}

TEST_F(ReconcileTest, ARestoreThatIsDeletedHalfwayLeavesNoPod) {
  cluster_->AddPod("cache-0");
  cluster_->Keep("keep", "cache-0");
  ASSERT_TRUE(cluster_->Until([&] {
    return cluster_->Get<crds::Checkpoint>("keep")->status.phase == crds::CheckpointPhase::kReady;
  }));
  cluster_->kubelets().StopNode("node-b");
  cluster_->Bring("bring", "keep", "node-b");
  ASSERT_TRUE(
      cluster_->Until([&] { return cluster_->Pods().size() == 2 && cluster_->agents().Left().size() == 2; }));
  cluster_->kubelets().StartNode("node-b");
  cluster_->Delete<crds::Restore>("bring");
  EXPECT_TRUE(cluster_->Until([&] { return !cluster_->Get<crds::Restore>("bring"); }));
  EXPECT_TRUE(cluster_->Until([&] { return cluster_->Pods().size() == 1; }, 20));
  EXPECT_EQ(cluster_->agents().Left().size(), 1u);
}

}  // namespace
}  // namespace godwit::controller
