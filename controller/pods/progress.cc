// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/progress.h"

#include <algorithm>
#include <array>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "controller/pods/names.h"

namespace godwit::controller {
namespace {

// Reasons with which a container waits although it should have been created by now (kubelet's events and
// images packages).
bool IsStuck(absl::string_view reason) {
  static constexpr std::array<absl::string_view, 12> kStuck = {
      "ErrImagePull",      "ImagePullBackOff",    "ErrImageNeverPull",          "InvalidImageName",
      "ImageInspectError", "RegistryUnavailable", "CreateContainerConfigError", "CreateContainerError",
      "RunContainerError", "CrashLoopBackOff",    "PreCreateHookError",         "SignatureValidationFailed"};
  return std::find(kStuck.begin(), kStuck.end(), reason) != kStuck.end();
}

std::optional<Failure> StuckContainer(const k8s::ContainerStatus& status) {
  if (status.state.waiting && IsStuck(status.state.waiting->reason)) {
    const auto& last = status.last_state.terminated;
    const std::string& message =
        status.state.waiting->reason == "CrashLoopBackOff" && last && !last->message.empty()
            ? last->message
            : status.state.waiting->message;
    return Failure{status.state.waiting->reason, absl::StrCat("container ", status.name, " cannot start: ",
                                                              status.state.waiting->reason, ": ", message)};
  }
  if (status.state.terminated && status.state.terminated->reason == "StartError") {
    return Failure{"StartError", absl::StrCat("container ", status.name,
                                              " could not be created: ", status.state.terminated->message)};
  }
  return std::nullopt;
}

}  // namespace

std::optional<Failure> WhyNotStarting(const k8s::Pod& pod) {
  const std::string name = pod.metadata.name;
  if (pod.finished()) {
    return Failure{pod.status.reason.empty() ? "PodEnded" : pod.status.reason,
                   absl::StrCat("pod ", name, " ended (", pod.status.phase, ") before it could take over: ",
                                pod.status.message.empty() ? "no message" : pod.status.message)};
  }
  for (const k8s::ContainerStatus& status : pod.status.container_statuses) {
    if (auto stuck = StuckContainer(status)) return stuck;
  }
  const k8s::StatusCondition* scheduled = k8s::FindCondition(pod.status.conditions, "PodScheduled");
  if (scheduled != nullptr && scheduled->status == "False" && scheduled->reason == "Unschedulable") {
    return Failure{"Unschedulable", absl::StrCat("pod ", name, " cannot be scheduled: ", scheduled->message)};
  }
  return std::nullopt;
}

std::optional<Failure> WhyNoSandbox(const k8s::Pod& pod, const std::string& warning, absl::Duration limit,
                                    absl::Time now) {
  constexpr absl::string_view kReason = "FailedCreatePodSandBox";
  if (!absl::StartsWith(warning, kReason)) return std::nullopt;
  const k8s::StatusCondition* scheduled = k8s::FindCondition(pod.status.conditions, "PodScheduled");
  const bool made = k8s::IsConditionTrue(pod.status.conditions, "PodReadyToStartContainers");
  if (made || scheduled == nullptr || scheduled->status != "True" || !scheduled->last_transition_time ||
      now - *scheduled->last_transition_time < limit)
    return std::nullopt;
  return Failure{std::string(kReason),
                 absl::StrCat("kubelet could not make the sandbox of pod ", pod.metadata.name, " within ",
                              absl::FormatDuration(limit), ": ", warning)};
}

std::optional<Failure> WhyNameTooLong(const std::string& name_space, const std::string& pod) {
  // kubelet's BuildPodLogsDirectory: <namespace>_<name>_<uid> is one file name (NAME_MAX in limits.h).
  constexpr size_t kLongestFile = 255;
  constexpr size_t kUid = 36;
  const size_t longest = kLongestFile - kUid - 2 - std::min(name_space.size(), kLongestFile - kUid - 2);
  if (pod.size() <= longest) return std::nullopt;
  return Failure{"PodNameTooLong",
                 absl::StrCat("no node can start a pod of the name ", pod, " in namespace ", name_space,
                              ": it has ", pod.size(), " characters, and with more than ", longest,
                              " kubelet cannot make the folder of its logs")};
}

bool HasPermitGate(const k8s::Pod& pod) {
  return std::any_of(pod.spec.scheduling_gates.begin(), pod.spec.scheduling_gates.end(),
                     [](const k8s::NamedReference& gate) { return gate.name == kPermitGate; });
}

bool IsCommitted(const k8s::Pod& pod) {
  return k8s::IsConditionTrue(pod.status.conditions, kCommittedCondition);
}

absl::Time DeletionRequested(const k8s::ObjectMeta& meta) {
  if (!meta.deletion_timestamp) return absl::InfiniteFuture();
  return *meta.deletion_timestamp - absl::Seconds(meta.deletion_grace_period_seconds.value_or(0));
}

bool KubeletSawDeletion(const k8s::Pod& pod, absl::Duration patience, absl::Time now) {
  if (!pod.metadata.terminating()) return false;
  const int64_t seen = pod.status.observed_generation;
  if (seen > 0) return seen >= pod.metadata.generation;
  return now - DeletionRequested(pod.metadata) > patience;
}

}  // namespace godwit::controller
