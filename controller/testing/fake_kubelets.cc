// SPDX-License-Identifier: Apache-2.0
#include "controller/testing/fake_kubelets.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/pods/names.h"
#include "controller/pods/whole_pod.h"
#include "k8s/client.h"

namespace godwit::controller::testing {
namespace {

using k8s::Unstructured;

std::string RequiredNode(const Unstructured& pod, const std::string& otherwise) {
  const std::string node = pod.String(
      "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/"
      "matchFields/0/values/0");
  return node.empty() ? otherwise : node;
}

}  // namespace

// By the binding subresource, as a scheduler does.
bool FakeKubelets::Schedule(const Unstructured& raw, const k8s::Pod& pod) {
  Unstructured binding;
  binding.Set("/apiVersion", "v1");
  binding.Set("/kind", "Binding");
  binding.Set("/metadata/name", pod.metadata.name);
  binding.Set("/metadata/namespace", pod.metadata.name_space);
  binding.Set("/target/apiVersion", "v1");
  binding.Set("/target/kind", "Node");
  binding.Set("/target/name", RequiredNode(raw, first_node_));
  return api_
      .Create(k8s::Pod::kResource, pod.metadata.object_name(), binding.ToJson(), {.subresource = "binding"})
      .ok();
}

bool FakeKubelets::WriteStatus(const k8s::Pod& pod, const std::string& phase, bool running) {
  Unstructured patch;
  const absl::Time now = k8s::WholeSeconds(absl::Now());
  bool committed = true;
  for (const k8s::PodReadinessGate& gate : pod.spec.readiness_gates) {
    committed = committed && k8s::IsConditionTrue(pod.status.conditions, gate.condition_type);
  }
  const bool ready = running && committed && !never_ready_.contains(pod.metadata.name);
  if (pod.status.phase == phase && pod.ready() == ready &&
      pod.status.observed_generation == pod.metadata.generation)
    return false;
  patch.Set("/status/phase", phase);
  patch.Set("/status/observedGeneration", pod.metadata.generation);
  patch.Set("/status/hostIP", "10.0.0.1");
  std::vector<k8s::StatusCondition> conditions = pod.status.conditions;
  std::erase_if(conditions, [](const k8s::StatusCondition& condition) { return condition.type == "Ready"; });
  conditions.push_back({.type = "Ready", .status = ready ? "True" : "False", .last_transition_time = now});
  patch.Set("/status/conditions", conditions);
  std::vector<k8s::ContainerStatus> containers;
  for (const k8s::Container& container : pod.spec.containers) {
    k8s::ContainerStatus status{.name = container.name, .image = container.image, .ready = ready};
    if (running) {
      status.container_id = absl::StrCat("containerd://", pod.metadata.uid);
      status.image_id =
          "registry/app@sha256:1111111111111111111111111111111111111111111111111111111111111111";
      status.started = true;
      status.state.running = k8s::ContainerStateRunning{.started_at = now};
    } else {
      status.state.waiting = k8s::ContainerStateWaiting{.reason = "ContainerCreating"};
    }
    containers.push_back(status);
  }
  patch.Set("/status/containerStatuses", containers);
  return api_
      .Patch(k8s::Pod::kResource, pod.metadata.object_name(), k8s::PatchType::kStrategicMerge, patch.ToJson(),
             {.subresource = "status"})
      .ok();
}

// A pod of Godwit's waits for its state; any other just runs.
bool FakeKubelets::Run(const k8s::Pod& pod) {
  const std::string& node = pod.spec.node_name;
  const bool ours =
      pod.spec.runtime_class_name == kRuntimeClass && !pod.metadata.Annotation(kMigrationKey).empty();
  if (!ours || agents_->Runs(node, pod.metadata.uid)) return WriteStatus(pod, "Running", true);
  return agents_->CreateWaits(node, pod.metadata.uid, ContainerNamesOf(pod)) &&
         WriteStatus(pod, "Pending", false);
}

// First kubelet says that it has seen the deletion; at the next look the processes are gone and the object
// goes. A frozen process does not end before the grace period has, which is longer than a test takes.
bool FakeKubelets::Remove(const k8s::Pod& pod) {
  if (!pod.spec.node_name.empty() && pod.status.observed_generation < pod.metadata.generation) {
    Unstructured patch;
    patch.Set("/status/observedGeneration", pod.metadata.generation);
    return api_
        .Patch(k8s::Pod::kResource, pod.metadata.object_name(), k8s::PatchType::kMerge, patch.ToJson(),
               {.subresource = "status"})
        .ok();
  }
  if (!pod.spec.node_name.empty() && agents_->IsCeded(pod.spec.node_name, pod.metadata.uid)) return false;
  if (!pod.spec.node_name.empty()) agents_->PodKilled(pod.spec.node_name, pod.metadata.uid);
  return k8s::Client<k8s::Pod>(api_)
      .Delete(pod.metadata.name_space, pod.metadata.name, {.uid = pod.metadata.uid, .grace_seconds = 0})
      .ok();
}

bool FakeKubelets::Step(const std::string& name_space) {
  auto pods = k8s::Client<Unstructured>(api_, k8s::Pod::kResource).List(name_space);
  if (!pods.ok()) return false;
  bool did = false;
  for (const Unstructured& raw : pods->items) {
    const auto pod = raw.As<k8s::Pod>();
    if (!pod.ok() || pod->finished() || stopped_.contains(pod->spec.node_name)) continue;
    if (pod->metadata.terminating()) {
      did = Remove(*pod) || did;
    } else if (!pod->spec.scheduling_gates.empty()) {
      continue;
    } else if (pod->spec.node_name.empty()) {
      did = Schedule(raw, *pod) || did;
    } else {
      did = Run(*pod) || did;
    }
  }
  return did;
}

}  // namespace godwit::controller::testing
