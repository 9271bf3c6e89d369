// SPDX-License-Identifier: Apache-2.0
// Whole Migrations against a real API server, with fake agents and kubelets.
#include "absl/strings/str_cat.h"
#include "controller/pods/names.h"
#include "controller/testing/test_cluster.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/apiserver/controller/crds.h"
#include "tests/apiserver/environment.h"

namespace godwit::controller {
namespace {

using apiserver::Environment;
using crds::MigrationPhase;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::TestCluster;

class MigrationTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { apiserver::InstallCrds(Environment::Shared().api()); }
  MigrationTest()
      : ns_(Environment::Shared().NewNamespace("move")),
        cluster_(Environment::Shared().api(), ns_, Environment::Shared().NewNamespace("system"),
                 ns_ + "-node-") {}

  void ExpectRunsOnceOn(char node) {
    EXPECT_TRUE(cluster_.Until([&] { return cluster_.Pods().size() == 1; }, 50));
    const k8s::Pod pod = cluster_.Pods().front();
    EXPECT_TRUE(pod.running());
    EXPECT_EQ(pod.spec.node_name, cluster_.Node(node));
    EXPECT_EQ(cluster_.agents().violations(), 0);
    EXPECT_THAT(cluster_.agents().Left(), IsEmpty());
  }

  const std::string ns_;
  TestCluster cluster_;
};

TEST_F(MigrationTest, APodMoves) {
  cluster_.AddPod("cache-0");
  const crds::Migration made = cluster_.Migrate("move", "cache-0", cluster_.Node('b'));
  const crds::Migration done = cluster_.Finish("move");
  ASSERT_EQ(done.status.phase, MigrationPhase::kSucceeded)
      << json::Encode(done.status) << cluster_.last_error();
  ExpectRunsOnceOn('b');
  EXPECT_EQ(cluster_.Pods().front().metadata.Label("app"), "cache");
  EXPECT_TRUE(k8s::IsConditionTrue(cluster_.Pods().front().status.conditions, kCommittedCondition));
  EXPECT_TRUE(cluster_.Until([&] { return cluster_.Pods().front().ready(); }, 20));
  EXPECT_THAT(cluster_.Events(made.metadata.uid),
              ElementsAre("Preflight", "Copying", "Preparing", "Switching", "Finishing", "Succeeded"));
  EXPECT_GE(done.status.pre_copy.rounds, 3);
  // And back, under a name of the same length, the other way.
  const std::string name = cluster_.Pods().front().metadata.name;
  cluster_.Migrate("back", name, cluster_.Node('a'), crds::Strategy::kStopAndCopy);
  ASSERT_EQ(cluster_.Finish("back").status.phase, MigrationPhase::kSucceeded) << cluster_.last_error();
  ExpectRunsOnceOn('a');
  EXPECT_EQ(cluster_.Pods().front().metadata.name.size(), name.size());
  EXPECT_NE(cluster_.Pods().front().metadata.name, name);
}

TEST_F(MigrationTest, AControllerThatDiesAfterEveryLookComesToTheSameEnd) {
  cluster_.AddPod("cache-0");
  cluster_.RestartAlways(true);
  cluster_.Migrate("move", "cache-0", cluster_.Node('b'));
  const crds::Migration done = cluster_.Finish("move", [&] { cluster_.Restart(); });
  EXPECT_EQ(done.status.phase, MigrationPhase::kSucceeded) << json::Encode(done.status);
  EXPECT_EQ(cluster_.agents().starts(), 1);
  ExpectRunsOnceOn('b');
}

TEST_F(MigrationTest, DeletedHalfwayItAbortsOrFinishes) {
  bool stayed = false, moved = false;
  for (const int when : {2, 4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 24}) {
    const std::string name = absl::StrCat("pod-", when);
    const k8s::Pod source = cluster_.AddPod(name);
    cluster_.Migrate("move", name, cluster_.Node('b'));
    for (int i = 0; i < when; ++i) cluster_.Step();
    cluster_.Delete<crds::Migration>("move");
    ASSERT_TRUE(cluster_.Until([&] { return !cluster_.Get<crds::Migration>("move"); }))
        << "deleted after " << when << cluster_.last_error();
    ASSERT_TRUE(cluster_.Until([&] { return cluster_.Pods().size() == 1; }, 50));
    const k8s::Pod pod = cluster_.Pods().front();
    ASSERT_TRUE(pod.running());
    ASSERT_THAT(cluster_.agents().Left(), IsEmpty());
    (pod.metadata.uid == source.metadata.uid ? stayed : moved) = true;
    ASSERT_TRUE(
        k8s::Client<k8s::Pod>(cluster_.api()).Delete(ns_, pod.metadata.name, {.grace_seconds = 0}).ok());
  }
  EXPECT_TRUE(stayed);
  EXPECT_TRUE(moved);
  EXPECT_EQ(cluster_.agents().violations(), 0);
}

TEST_F(MigrationTest, LimitsMayBeChangedWhileItCopies) {
  cluster_.AddPod("cache-0");
  cluster_.agents().TellNextPreCopy({.rounds = 60});
  const crds::Migration made = cluster_.Migrate("move", "cache-0", cluster_.Node('b'));
  ASSERT_TRUE(cluster_.Until([&] { return cluster_.agents().starts() == 1; })) << cluster_.last_error();
  ASSERT_TRUE(
      k8s::Client<crds::Migration>(cluster_.api())
          .MergePatch(ns_, "move", apiserver::FromYaml("{spec: {bandwidthLimit: 1.5Gi, freezeBudget: 2s}}"))
          .ok());
  EXPECT_TRUE(cluster_.Until(
      [&] {
        const auto source = cluster_.agents().At(cluster_.Node('a'), "")->GetSource(made.metadata.uid);
        return source.ok() && source->limits.bandwidth_limit == int64_t{3} << 29 &&
               source->limits.freeze_budget == absl::Seconds(2);
      },
      20))
      << cluster_.last_error();
  const crds::Migration done = cluster_.Finish("move");
  EXPECT_EQ(done.status.phase, MigrationPhase::kSucceeded) << json::Encode(done.status);
  EXPECT_EQ(done.status.observed_generation, 2);
  ExpectRunsOnceOn('b');
}

TEST_F(MigrationTest, ARefusedTargetPodEndsItWithTheServersSentence) {
  cluster_.AddPod("cache-0");
  k8s::Unstructured quota = apiserver::FromYaml(
      "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: 1}}}");
  quota.Set("/metadata/namespace", ns_);
  const k8s::Resource kQuota{"", "v1", "resourcequotas", "ResourceQuota"};
  ASSERT_TRUE(k8s::Client<k8s::Unstructured>(cluster_.api(), kQuota).Create(quota).ok());
  ASSERT_TRUE(cluster_.api()
                  .Patch(kQuota, {ns_, "q"}, k8s::PatchType::kMerge,
                         R"({"status":{"hard":{"pods":"1"},"used":{"pods":"1"}}})", {.subresource = "status"})
                  .ok());
  cluster_.Migrate("move", "cache-0", cluster_.Node('b'));
  const crds::Migration done = cluster_.Finish("move");
  EXPECT_EQ(done.status.phase, MigrationPhase::kFailed);
  const k8s::Condition* complete = k8s::FindCondition(done.status.conditions, crds::kComplete);
  EXPECT_EQ(complete->reason, "TargetPodRefused");
  EXPECT_THAT(complete->message, ::testing::HasSubstr("exceeded quota"));
  ExpectRunsOnceOn('a');
}

TEST_F(MigrationTest, ACheckpointIsKeptAndRestored) {
  cluster_.AddPod("cache-0");
  cluster_.Keep("keep", "cache-0");
  ASSERT_TRUE(cluster_.Until([&] {
    return cluster_.Get<crds::Checkpoint>("keep")->status.phase == crds::CheckpointPhase::kReady;
  })) << cluster_.last_error();
  ASSERT_TRUE(k8s::Client<k8s::Pod>(cluster_.api()).Delete(ns_, "cache-0", {.grace_seconds = 0}).ok());
  cluster_.RestartAlways(true);
  cluster_.Bring("bring", "keep", cluster_.Node('b'));
  ASSERT_TRUE(cluster_.Until([&] { return crds::Ended(cluster_.Get<crds::Restore>("bring")->status.phase); }))
      << cluster_.last_error();
  EXPECT_EQ(cluster_.Get<crds::Restore>("bring")->status.phase, crds::RestorePhase::kSucceeded)
      << json::Encode(cluster_.Get<crds::Restore>("bring")->status);
  cluster_.Delete<crds::Checkpoint>("keep");
  EXPECT_TRUE(cluster_.Until([&] { return !cluster_.Get<crds::Checkpoint>("keep"); }, 20));
  ExpectRunsOnceOn('b');
}

}  // namespace
}  // namespace godwit::controller
