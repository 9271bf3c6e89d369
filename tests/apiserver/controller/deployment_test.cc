// SPDX-License-Identifier: Apache-2.0
// A pod of a Deployment, with the real ReplicaSet controller looking on: it creates no pod and deletes none
// but the source.
#include <map>
#include <set>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "controller/pods/names.h"
#include "controller/testing/test_cluster.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/informer.h"
#include "tests/apiserver/conditions.h"
#include "tests/apiserver/controller/crds.h"
#include "tests/apiserver/environment.h"

namespace godwit::controller {
namespace {

using apiserver::Environment;
using crds::MigrationPhase;
using ::testing::ElementsAre;
using testing::TestCluster;

// Who came and who was told to go, by name, as a watch saw it.
class PodLog {
 public:
  PodLog(const k8s::Api& api, const std::string& ns)
      : informer_(k8s::Client<k8s::Pod>(api), {.name_space = ns}) {
    informer_.OnChange([this](const k8s::Change<k8s::Pod>& change) {
      absl::MutexLock lock(&mutex_);
      const std::string& name = change.object->metadata.name;
      if (change.type == k8s::WatchEventType::kAdded) created_.insert(name);
      if (change.object->metadata.terminating() || change.type == k8s::WatchEventType::kDeleted)
        deleted_.insert(name);
    });
    informer_.Start();
    EXPECT_TRUE(informer_.WaitForSync(absl::Seconds(20)).ok());
  }
  std::set<std::string> created() {
    absl::MutexLock lock(&mutex_);
    return created_;
  }
  std::set<std::string> deleted() {
    absl::MutexLock lock(&mutex_);
    return deleted_;
  }

 private:
  absl::Mutex mutex_;
  std::set<std::string> created_, deleted_;
  k8s::Informer<k8s::Pod> informer_;
};

class DeploymentTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto started = Environment::Start(
        {.controllers = "replicaset-controller,deployment-controller,serviceaccount-controller"});
    CHECK_OK(started.status());
    environment_ = started->release();
    apiserver::InstallCrds(environment_->api());
  }
  static void TearDownTestSuite() { delete environment_; }

  DeploymentTest()
      : ns_(environment_->NewNamespace("deploy")),
        system_(environment_->NewNamespace("system")),
        accounts_(HasAccounts()),
        cluster_(environment_->api(), ns_, system_, ns_ + "-node-") {
    k8s::Unstructured deployment = apiserver::FromYaml(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3, selector: "
        "{matchLabels: {app: web}},"
        " template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "
        "'registry/web:1'}]}}}}");
    deployment.Set("/metadata/namespace", ns_);
    EXPECT_TRUE(
        k8s::Client<k8s::Unstructured>(cluster_.api(), k8s::Deployment::kResource).Create(deployment).ok());
    EXPECT_TRUE(apiserver::WaitUntil([&] { return cluster_.Pods().size() == 3; }));
    EXPECT_TRUE(apiserver::WaitUntil([&] { return !cluster_.kubelets().Step(ns_); }));
  }

  // Pods need their namespace's default service account.
  bool HasAccounts() {
    const k8s::Client<k8s::ServiceAccount> accounts(environment_->api());
    return apiserver::WaitUntil(
        [&] { return accounts.Get(ns_, "default").ok() && accounts.Get(system_, "default").ok(); });
  }

  // What the ReplicaSet controller has looked at: a pod that it counts is in its status.
  bool Settled() {
    auto sets = k8s::Client<k8s::ReplicaSet>(cluster_.api()).List(ns_);
    return sets.ok() && sets->items.size() == 1 && sets->items[0].status.replicas == 3 &&
           sets->items[0].status.ready_replicas == 3;
  }

  static Environment* environment_;
  const std::string ns_;
  const std::string system_;
  const bool accounts_;
  TestCluster cluster_;
};
Environment* DeploymentTest::environment_ = nullptr;

TEST_F(DeploymentTest, TheReplicaSetCreatesNoPodAndDeletesNoneButTheSource) {
  ASSERT_TRUE(apiserver::WaitUntil([&] { return Settled(); }));
  const std::string source = cluster_.Pods().front().metadata.name;
  PodLog log(cluster_.api(), ns_);
  const size_t before = log.created().size();
  cluster_.RestartAlways(true);
  cluster_.Migrate("move", source, cluster_.Node('b'));
  const crds::Migration done = cluster_.Finish("move");
  ASSERT_EQ(done.status.phase, MigrationPhase::kSucceeded)
      << json::Encode(done.status) << cluster_.last_error();
  ASSERT_TRUE(apiserver::WaitUntil([&] { return Settled() && !cluster_.kubelets().Step(ns_); }));
  EXPECT_EQ(log.created().size(), before + 1) << "only the target";
  EXPECT_TRUE(log.created().contains(done.status.target_pod_name));
  EXPECT_THAT(log.deleted(), ElementsAre(source));
  const auto target = cluster_.Get<k8s::Pod>(done.status.target_pod_name);
  ASSERT_TRUE(target && target->metadata.Controller() != nullptr);
  EXPECT_EQ(target->metadata.Controller()->kind, "ReplicaSet");
  EXPECT_EQ(target->metadata.Annotation(kDeletionCost), "");
  EXPECT_THAT(cluster_.agents().Left(), ::testing::IsEmpty());
}

TEST_F(DeploymentTest, AnUnreadySiblingHoldsTheMigrationBackAndIsNotTouched) {
  std::vector<k8s::Pod> pods = cluster_.Pods();
  const std::string source = pods[0].metadata.name, sibling = pods[1].metadata.name;
  cluster_.kubelets().NeverReady(sibling);
  ASSERT_TRUE(apiserver::WaitUntil([&] { return !cluster_.kubelets().Step(ns_); }));
  PodLog log(cluster_.api(), ns_);
  cluster_.Migrate("move", source, cluster_.Node('b'));
  for (int i = 0; i < 10; ++i) cluster_.Step();
  const crds::Migration waits = *cluster_.Get<crds::Migration>("move");
  EXPECT_EQ(waits.status.phase, MigrationPhase::kPending);
  EXPECT_EQ(k8s::FindCondition(waits.status.conditions, crds::kComplete)->reason, "WaitingForSibling");
  EXPECT_TRUE(log.deleted().empty());
  cluster_.clock().Advance(absl::Minutes(11));
  EXPECT_EQ(cluster_.Finish("move").status.phase, MigrationPhase::kFailed);
  EXPECT_TRUE(log.deleted().empty());
}

TEST_F(DeploymentTest, APodOfAStatefulSetIsRefusedWithTheReason) {
  cluster_.AddPod("db-0", [](k8s::Unstructured& pod) {
    pod.Set("/metadata/ownerReferences",
            std::vector<k8s::OwnerReference>{{.api_version = "apps/v1",
                                              .kind = "StatefulSet",
                                              .name = "db",
                                              .uid = "11111111-0000-4000-8000-000000000000",
                                              .controller = true}});
  });
  cluster_.Migrate("move", "db-0", cluster_.Node('b'));
  const crds::Migration done = cluster_.Finish("move");
  EXPECT_EQ(k8s::FindCondition(done.status.conditions, crds::kComplete)->reason, "UnsupportedOwner");
  EXPECT_THAT(k8s::FindCondition(done.status.conditions, crds::kComplete)->message,
              ::testing::HasSubstr("owned by StatefulSet db"));
}

}  // namespace
}  // namespace godwit::controller
