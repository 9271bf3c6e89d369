// SPDX-License-Identifier: Apache-2.0
#include "controller/testing/test_cluster.h"

#include <algorithm>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace godwit::controller::testing {
namespace {

using k8s::Unstructured;

void PatchStatus(const k8s::Api& api, const k8s::Resource& resource, const k8s::ObjectName& name,
                 const Unstructured& patch) {
  const absl::Status status =
      api.Patch(resource, name, k8s::PatchType::kMerge, patch.ToJson(), {.subresource = "status"}).status();
  CHECK_OK(status);
}

Unstructured BarePod(const std::string& name_space, const std::string& name, const std::string& node) {
  Unstructured pod;
  pod.Set("/apiVersion", "v1");
  pod.Set("/kind", "Pod");
  pod.Set("/metadata/namespace", name_space);
  pod.Set("/metadata/name", name);
  pod.Set("/spec/nodeName", node);
  pod.Set("/spec/terminationGracePeriodSeconds", int64_t{30});
  pod.Set("/spec/containers", std::vector<k8s::Container>{{.name = "app", .image = "registry/app:1"}});
  return pod;
}

}  // namespace

// What dies with the controller.
struct TestCluster::Controller {
  Controller(const k8s::Api& api, FakeAgents* agents, const std::string& system, Clock* clock)
      : cluster(api, agents, {.name_space = system}),
        events(api, {.component = "godwit-controller", .instance = "test", .burst = 1000}),
        migrations(&cluster, &events, &telemetry, {}, clock),
        checkpoints(&cluster, &events, &telemetry, {}, clock),
        restores(&cluster, &events, &telemetry, {}, clock) {
    cluster.Start();
    CHECK_OK(cluster.WaitForSync(absl::Seconds(30)));
  }
  ~Controller() {
    events.Flush(absl::Seconds(5));
    cluster.Stop();
  }
  Cluster cluster;
  k8s::EventRecorder events;
  Telemetry telemetry{nullptr};
  MigrationReconciler migrations;
  CheckpointReconciler checkpoints;
  RestoreReconciler restores;
};

TestCluster::TestCluster(k8s::Api api, std::string name_space, std::string system, std::string node_prefix)
    : api_(std::move(api)),
      name_space_(std::move(name_space)),
      system_(std::move(system)),
      node_prefix_(std::move(node_prefix)),
      kubelets_(api_, &agents_, Node('a')) {
  AddNode('a');
  AddNode('b');
  Restart();
}

TestCluster::~TestCluster() = default;

void TestCluster::AddNode(char letter) {
  const std::string name = Node(letter);
  agents_.AddNode(name);
  CHECK_OK(k8s::Client<k8s::Node>(api_).Create({.metadata = {.name = name}}).status());
  Unstructured status;
  status.Set("/status/conditions", std::vector<k8s::StatusCondition>{{.type = "Ready", .status = "True"}});
  status.Set("/status/nodeInfo/architecture", "amd64");
  // The rest is what a real server demands of a nodeInfo.
  for (const char* field :
       {"machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion",
        "kubeletVersion", "kubeProxyVersion", "operatingSystem"}) {
    status.Set(absl::StrCat("/status/nodeInfo/", field), "x");
  }
  PatchStatus(api_, k8s::Node::kResource, {"", name}, status);
  Unstructured agent = BarePod(system_, "agent-" + name, name);
  agent.Set("/metadata/labels", std::map<std::string, std::string>{{"app.kubernetes.io/name", "godwit"},
                                                                   {"app.kubernetes.io/component", "agent"}});
  CHECK_OK(k8s::Client<Unstructured>(api_, k8s::Pod::kResource).Create(agent).status());
  Unstructured running;
  running.Set("/status/phase", "Running");
  running.Set("/status/hostIP", "10.0.0.1");
  running.Set("/status/hostIPs", std::vector<k8s::PodIp>{{"10.0.0.1"}});
  PatchStatus(api_, k8s::Pod::kResource, {system_, "agent-" + name}, running);
}

k8s::Pod TestCluster::AddPod(const std::string& name, const std::function<void(Unstructured&)>& change) {
  Unstructured pod = BarePod(name_space_, name, Node('a'));
  pod.Set("/metadata/labels/app", "cache");
  if (change) change(pod);
  CHECK_OK(k8s::Client<Unstructured>(api_, k8s::Pod::kResource).Create(pod).status());
  while (kubelets_.Step(name_space_)) {
  }
  return *Get<k8s::Pod>(name);
}

crds::Migration TestCluster::Migrate(const std::string& name, const std::string& pod, const std::string& node,
                                     crds::Strategy strategy, bool dry_run) {
  auto made = k8s::Client<crds::Migration>(api_).Create(
      {.metadata = {.name = name, .name_space = name_space_},
       .spec = {.pod_ref = {pod}, .target = {.node_name = node}, .strategy = strategy, .dry_run = dry_run}});
  CHECK_OK(made.status());
  return *made;
}

crds::Checkpoint TestCluster::Keep(const std::string& name, const std::string& pod) {
  auto made = k8s::Client<crds::Checkpoint>(api_).Create(
      {.metadata = {.name = name, .name_space = name_space_}, .spec = {.pod_ref = {pod}}});
  CHECK_OK(made.status());
  return *made;
}

crds::Restore TestCluster::Bring(const std::string& name, const std::string& checkpoint,
                                 const std::string& node) {
  auto made = k8s::Client<crds::Restore>(api_).Create(
      {.metadata = {.name = name, .name_space = name_space_},
       .spec = {.checkpoint_ref = {checkpoint}, .target = {.node_name = node}}});
  CHECK_OK(made.status());
  return *made;
}

std::vector<k8s::Pod> TestCluster::Pods() const {
  auto pods = k8s::Client<k8s::Pod>(api_).List(name_space_);
  CHECK_OK(pods.status());
  return pods->items;
}

void TestCluster::Restart() {
  controller_.reset();
  controller_ = std::make_unique<Controller>(api_, &agents_, system_, &clock_);
}

// Until the controller's copies of our pods are those of the server; a real controller would just look once
// more.
void TestCluster::CatchUp() {
  const absl::Time give_up = absl::Now() + absl::Seconds(10);
  for (;;) {
    auto live = k8s::Client<k8s::Pod>(api_).List(name_space_);
    CHECK_OK(live.status());
    size_t known = 0;
    for (const auto& pod : controller_->cluster.pods().List())
      known += pod->metadata.name_space == name_space_ ? 1 : 0;
    bool same = known == live->items.size();
    for (const k8s::Pod& pod : live->items) {
      const auto copy = controller_->cluster.pods().Get(pod.metadata.object_name());
      same = same && copy != nullptr && copy->metadata.resource_version == pod.metadata.resource_version;
    }
    if (same) return;
    CHECK(absl::Now() < give_up) << "the copies of pods never catch up";
    absl::SleepFor(absl::Milliseconds(1));
  }
}

template <class T, class Reconciler>
void TestCluster::Look(Reconciler& reconciler, const std::function<void()>& after) {
  auto objects = k8s::Client<T>(api_).List(name_space_);
  CHECK_OK(objects.status());
  for (const T& object : objects->items) {
    CatchUp();
    const auto again = reconciler.Reconcile(object.metadata.object_name());
    if (!again.ok()) last_error_ = again.status();
    if (after) after();
  }
}

void TestCluster::Step(const std::function<void()>& after) {
  if (restart_always_) Restart();
  Look<crds::Migration>(controller_->migrations, after);
  Look<crds::Checkpoint>(controller_->checkpoints, after);
  Look<crds::Restore>(controller_->restores, after);
  kubelets_.Step(name_space_);
  clock_.Advance(absl::Milliseconds(100));
}

bool TestCluster::Until(const std::function<bool()>& condition, int steps,
                        const std::function<void()>& after) {
  for (int i = 0; i < steps; ++i) {
    if (condition()) return true;
    Step(after);
  }
  return condition();
}

crds::Migration TestCluster::Finish(const std::string& name, const std::function<void()>& after) {
  crds::Migration last;
  Until(
      [&] {
        auto migration = Get<crds::Migration>(name);
        if (!migration) return true;
        last = *migration;
        return crds::Ended(last.status.phase) &&
               k8s::IsConditionTrue(last.status.conditions, crds::kCleanedUp);
      },
      400, after);
  return last;
}

std::vector<std::string> TestCluster::Events(const std::string& uid) {
  controller_->events.Flush(absl::Seconds(5));
  auto events = k8s::Client<k8s::Event>(api_).List(name_space_);
  CHECK_OK(events.status());
  std::sort(events->items.begin(), events->items.end(), [](const auto& a, const auto& b) {
    return std::stoll(a.metadata.resource_version) < std::stoll(b.metadata.resource_version);
  });
  std::vector<std::string> reasons;
  for (const k8s::Event& event : events->items) {
    if (event.involved_object.uid == uid) reasons.push_back(event.reason);
  }
  return reasons;
}

}  // namespace godwit::controller::testing
