// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/writes.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/pods/names.h"
#include "k8s/meta.h"

namespace godwit::controller {
namespace {

using k8s::Unstructured;

absl::Status Patch(const k8s::Api& api, const k8s::ObjectMeta& pod, const Unstructured& patch) {
  return k8s::Client<k8s::Pod>(api).MergePatch(pod.name_space, pod.name, patch).status();
}

}  // namespace

absl::Status CreatePod(const k8s::Api& api, const Unstructured& pod) {
  const absl::Status status = k8s::Client<Unstructured>(api, k8s::Pod::kResource).Create(pod).status();
  return k8s::IsAlreadyExists(status) ? absl::OkStatus() : status;
}

absl::Status OpenPermitGate(const k8s::Api& api, const k8s::Pod& pod) {
  Unstructured patch;
  patch.Set("/metadata/uid", pod.metadata.uid);
  std::vector<k8s::NamedReference> others;
  for (const k8s::NamedReference& gate : pod.spec.scheduling_gates) {
    if (gate.name != kPermitGate) others.push_back(gate);
  }
  if (others.empty()) {
    patch.SetNull("/spec/schedulingGates");
  } else {
    patch.Set("/spec/schedulingGates", others);
  }
  return Patch(api, pod.metadata, patch);
}

absl::Status MarkCommitted(const k8s::Api& api, const k8s::Pod& pod, absl::Time now) {
  Unstructured patch;
  patch.Set("/metadata/uid", pod.metadata.uid);
  const std::vector<k8s::StatusCondition> conditions = {{.type = kCommittedCondition,
                                                         .status = "True",
                                                         .reason = "Committed",
                                                         .message = "the processes that moved run here",
                                                         .last_transition_time = k8s::WholeSeconds(now)}};
  patch.Set("/status/conditions", conditions);
  // Strategic: other conditions of the pod belong to others and stay.
  return api
      .Patch(k8s::Pod::kResource, pod.metadata.object_name(), k8s::PatchType::kStrategicMerge, patch.ToJson(),
             {.subresource = "status"})
      .status();
}

absl::Status DeletePod(const k8s::Api& api, const k8s::ObjectMeta& pod, int64_t grace_seconds) {
  k8s::DeleteOptions options{.uid = pod.uid, .propagation = "Background"};
  if (grace_seconds >= 0) options.grace_seconds = grace_seconds;
  const absl::Status status = k8s::Client<k8s::Pod>(api).Delete(pod.name_space, pod.name, options);
  return k8s::IsNotFound(status) || k8s::IsConflict(status) ? absl::OkStatus() : status;
}

absl::Status AnnotatePod(const k8s::Api& api, const k8s::ObjectMeta& pod, const std::string& key,
                         const std::string& value) {
  Unstructured patch;
  patch.Set("/metadata/uid", pod.uid);
  patch.Set(absl::StrCat("/metadata/annotations/", k8s::PointerKey(key)), value);
  return Patch(api, pod, patch);
}

}  // namespace godwit::controller
