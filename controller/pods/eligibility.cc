// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/eligibility.h"

#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "agent/api/findings.h"
#include "controller/pods/findings.h"
#include "controller/pods/names.h"

namespace godwit::controller {
namespace {

using crds::Finding;
using crds::Severity;

Finding Blocking(agent_api::FindingId id, std::string message, absl::string_view remedy,
                 absl::string_view container = "") {
  return {.id = std::string(id.kind().id),
          .severity = Severity::kBlocking,
          .container = std::string(container),
          .message = std::move(message),
          .remedy = std::string(remedy)};
}

// Other tenants' pods are nobody's business.
std::string Whose(const k8s::Pod& other, const k8s::Pod& reader) {
  if (other.metadata.name_space != reader.metadata.name_space) return "a pod of another namespace";
  return absl::StrCat("pod ", other.metadata.object_name().ToString());
}

std::string StateOf(const k8s::ContainerStatus* status) {
  if (status == nullptr) return "has no status yet";
  if (status->state.waiting) return absl::StrCat("waits (", status->state.waiting->reason, ")");
  if (status->state.terminated) return absl::StrCat("has ended (", status->state.terminated->reason, ")");
  return "is not running";
}

void CheckRunning(const WholePod& pod, std::vector<Finding>& findings) {
  const k8s::Pod& view = pod.view;
  if (view.metadata.terminating()) {
    findings.push_back(
        Blocking("PodTerminating", "the pod is being deleted", "Nothing can be done for this pod."));
  }
  if (!view.running()) {
    findings.push_back(
        Blocking("PodNotRunning",
                 absl::StrCat("the pod's phase is ",
                              view.status.phase.empty() ? "unknown" : view.status.phase, ", not Running"),
                 "Wait until the pod runs (kubectl wait --for=jsonpath='{.status.phase}'=Running)."));
    return;
  }
  for (const k8s::Container& container : view.spec.containers) {
    const k8s::ContainerStatus* status = view.FindStatus(container.name);
    if (status != nullptr && status->state.running) continue;
    findings.push_back(Blocking("ContainerNotRunning",
                                absl::StrCat("container ", container.name, " ", StateOf(status)),
                                "All containers must run: the pod moves as one.", container.name));
  }
  const rapidjson::Value* ephemeral = pod.raw.Find("/status/ephemeralContainerStatuses");
  if (ephemeral == nullptr || !ephemeral->IsArray()) return;
  for (const auto& status : ephemeral->GetArray()) {
    if (!status.IsObject() || !status.HasMember("state") || !status["state"].IsObject()) continue;
    if (!status["state"].HasMember("running")) continue;
    findings.push_back(Blocking("EphemeralContainer",
                                "an ephemeral (kubectl debug) container runs in the pod",
                                "End the debug session first."));
  }
}

void CheckPodSpec(const k8s::Pod& pod, const WholePod& whole, std::vector<Finding>& findings) {
  for (const char* annotation : {"kubernetes.io/config.mirror", "kubernetes.io/config.source"}) {
    const std::string value = pod.metadata.Annotation(annotation);
    if (value.empty() || value == "api") continue;
    findings.push_back(Blocking("StaticPod", "the pod is a static pod: it comes from a file on its node",
                                "Move the file to the other node instead."));
    break;
  }
  if (whole.raw.String("/spec/os/name") == "windows") {
    findings.push_back(
        Blocking("Windows", "the pod runs Windows containers", "Only Linux containers can be moved."));
  }
  const std::array<std::pair<bool, const char*>, 3> host_namespaces = {
      {{pod.spec.host_network, "hostNetwork"},
       {pod.spec.host_pid, "hostPID"},
       {pod.spec.host_ipc, "hostIPC"}}};
  for (const auto& [used, name] : host_namespaces) {
    if (!used) continue;
    findings.push_back(Blocking("HostNamespace",
                                absl::StrCat("the pod shares its node's namespaces (", name, ")"),
                                "What belongs to the node cannot move with the pod."));
  }
  if (pod.spec.share_process_namespace) {
    findings.push_back(Blocking("SharedProcessNamespace",
                                "the pod's containers share one process namespace (shareProcessNamespace)",
                                "Such a pod cannot be moved yet; set shareProcessNamespace to false."));
  }
  if (!pod.spec.runtime_class_name.empty() && pod.spec.runtime_class_name != kRuntimeClass) {
    findings.push_back(Blocking("RuntimeClass",
                                absl::StrCat("the pod runs under RuntimeClass ", pod.spec.runtime_class_name),
                                "Only pods of the nodes' ordinary runtime can be moved."));
  }
  if (!pod.spec.resource_claims.text.empty() && pod.spec.resource_claims.text != "[]") {
    findings.push_back(Blocking("ResourceClaim", "the pod uses resource claims (devices)",
                                "Devices belong to their node; pods that use them cannot be moved."));
  }
  for (const k8s::Container& container : pod.spec.init_containers) {
    if (container.restart_policy != "Always") continue;
    findings.push_back(Blocking(
        "Sidecar", absl::StrCat("init container ", container.name, " is a sidecar (restartPolicy Always)"),
        "Pods with sidecars cannot be moved yet; make it an ordinary container.", container.name));
  }
}

bool IsPlainResource(absl::string_view name) {
  return !absl::StrContains(name, '/') && !absl::StartsWith(name, "hugepages-");
}

void CheckContainers(const k8s::Pod& pod, std::vector<Finding>& findings) {
  for (const k8s::Container& container : pod.spec.containers) {
    for (const auto& [resource, quantity] : container.resources.limits) {
      if (IsPlainResource(resource) || quantity == "0") continue;
      findings.push_back(
          Blocking("ExtendedResource", absl::StrCat("container ", container.name, " uses ", resource),
                   "Devices and huge pages belong to their node; containers that use them cannot be moved.",
                   container.name));
    }
    if (!container.volume_devices.empty()) {
      findings.push_back(Blocking("VolumeDevice",
                                  absl::StrCat("container ", container.name, " uses a raw block device"),
                                  "Block devices cannot be moved.", container.name));
    }
  }
}

void CheckVolumes(const k8s::Pod& pod, std::vector<Finding>& findings) {
  static constexpr std::array<absl::string_view, 5> kCarried = {"emptyDir", "configMap", "secret",
                                                                "projected", "downwardAPI"};
  for (const k8s::Volume& volume : pod.spec.volumes) {
    const std::string kind = volume.kind.empty() ? "emptyDir" : volume.kind;  // the API server's default
    if (std::find(kCarried.begin(), kCarried.end(), kind) == kCarried.end()) {
      findings.push_back(
          Blocking("UnsupportedVolume", absl::StrCat("volume ", volume.name, " is of kind ", kind),
                   "Pods move with emptyDir, configMap, secret, projected and downwardAPI volumes only."));
    } else if (volume.empty_dir && absl::StartsWith(volume.empty_dir->medium, "HugePages")) {
      findings.push_back(Blocking("UnsupportedVolume",
                                  absl::StrCat("volume ", volume.name, " consists of huge pages"),
                                  "Huge pages belong to their node; pods that use them cannot be moved."));
    }
  }
}

// For the thaw: a probe that begins just before it would be one too many.
constexpr absl::Duration kThawMargin = absl::Milliseconds(250);

// How long a container may stand still without as many probes failing one after another as kubelet kills it
// for. Zero stands for an absent field: kubelet's defaults are period 10 s and threshold 3.
absl::Duration Bearable(const k8s::Probe& probe) {
  const int period = probe.period_seconds == 0 ? 10 : probe.period_seconds;
  const int threshold = probe.failure_threshold == 0 ? 3 : probe.failure_threshold;
  return (threshold - 1) * absl::Seconds(period) - kThawMargin;
}

// The probes by which kubelet would kill the container now, with their field names.
std::vector<std::pair<absl::string_view, const k8s::Probe*>> KillingProbes(const k8s::Pod& pod,
                                                                           const k8s::Container& container) {
  std::vector<std::pair<absl::string_view, const k8s::Probe*>> probes;
  if (container.liveness_probe) probes.emplace_back("livenessProbe", &*container.liveness_probe);
  const k8s::ContainerStatus* status = pod.FindStatus(container.name);
  const bool started = status != nullptr && status->started.value_or(false);
  if (container.startup_probe && !started) probes.emplace_back("startupProbe", &*container.startup_probe);
  return probes;
}

// A pod may be written to have thousands; what is wrong with it is told by a few.
void KeepSome(std::vector<Finding>& findings) {
  constexpr int kMostOfAKind = 3;
  std::map<std::string, int> seen;
  std::erase_if(findings, [&seen](const Finding& finding) { return ++seen[finding.id] > kMostOfAKind; });
}

}  // namespace

std::vector<Finding> WhyNotMovable(const WholePod& pod) {
  std::vector<Finding> findings;
  CheckRunning(pod, findings);
  CheckPodSpec(pod.view, pod, findings);
  CheckContainers(pod.view, findings);
  CheckVolumes(pod.view, findings);
  KeepSome(findings);
  return findings;
}

std::optional<Finding> WhyOwnerUnsupported(const k8s::Pod& pod, const k8s::ReplicaSet* replica_set) {
  constexpr absl::string_view kRemedy =
      "Pods without an owner and pods of a Deployment can be moved; others cannot be handed over yet.";
  for (const k8s::OwnerReference& owner : pod.metadata.owner_references) {
    if (!owner.controller) continue;
    if (owner.kind != "ReplicaSet") {
      return Blocking("UnsupportedOwner", absl::StrCat("the pod is owned by ", owner.kind, " ", owner.name),
                      kRemedy);
    }
    if (replica_set == nullptr) {
      return Blocking("UnsupportedOwner",
                      absl::StrCat("the pod is owned by ReplicaSet ", owner.name, ", which does not exist"),
                      kRemedy);
    }
    const k8s::OwnerReference* above = replica_set->metadata.Controller();
    if (above == nullptr || above->kind != "Deployment") {
      return Blocking(
          "UnsupportedOwner",
          absl::StrCat("the pod is owned by ReplicaSet ", owner.name, ", which no Deployment owns"), kRemedy);
    }
  }
  return std::nullopt;
}

std::vector<Finding> WorthKnowing(const WholePod& pod) {
  std::vector<Finding> findings;
  for (size_t i = 0; i < pod.view.spec.containers.size(); ++i) {
    const std::string& name = pod.view.spec.containers[i].name;
    const auto is = [&](absl::string_view field) {
      const rapidjson::Value* value = pod.raw.Find(absl::StrCat("/spec/containers/", i, "/", field));
      return value != nullptr && value->IsBool() && value->GetBool();
    };
    if (is("securityContext/privileged"))
      findings.push_back(Found("Privileged", absl::StrCat("container ", name, " is privileged"),
                               "securityContext.privileged: true"));
    if (is("stdin"))
      findings.push_back(
          Found("AttachedStdin", absl::StrCat("container ", name, " has stdin"), "stdin: true"));
  }
  return findings;
}

std::vector<Finding> ImagesMissing(const k8s::Pod& pod, const std::vector<std::string>& images,
                                   const std::string& node) {
  constexpr size_t kListedAtMost = 50;  // kubelet's nodeStatusMaxImages
  std::vector<Finding> findings;
  for (const k8s::Container& container : pod.spec.containers) {
    const k8s::ContainerStatus* status = pod.FindStatus(container.name);
    const size_t at = status == nullptr ? std::string::npos : status->image_id.find("@sha256:");
    if (at == std::string::npos) continue;  // nobody knows under which digest others have it
    const absl::string_view digest = absl::string_view(status->image_id).substr(at);
    if (std::any_of(images.begin(), images.end(),
                    [&](const std::string& name) { return absl::EndsWith(name, digest); }))
      continue;
    const std::string message =
        absl::StrCat("node ", node, " does not list the image of container ", container.name);
    const bool certain = container.image_pull_policy == "Never" && images.size() < kListedAtMost;
    findings.push_back(certain ? Found("ImageMissing", message, status->image_id)
                               : Found("ImageNotOnTarget", message, status->image_id));
  }
  return findings;
}

std::optional<Finding> HostPortTaken(const k8s::Pod& pod, const std::vector<k8s::Pod>& pods,
                                     const std::string& node) {
  auto key = [](const k8s::ContainerPort& port) {
    return absl::StrCat(port.host_port, "/", port.protocol.empty() ? "TCP" : port.protocol);
  };
  for (const k8s::Container& container : pod.spec.containers) {
    for (const k8s::ContainerPort& port : container.ports) {
      if (port.host_port == 0) continue;
      for (const k8s::Pod& other : pods) {
        if (other.spec.node_name != node || other.finished()) continue;
        for (const k8s::Container& theirs : other.spec.containers) {
          for (const k8s::ContainerPort& taken : theirs.ports) {
            if (taken.host_port == 0 || key(taken) != key(port)) continue;
            return Blocking("HostPortTaken",
                            absl::StrCat("host port ", key(port), " of container ", container.name,
                                         " is in use on node ", node, " by ", Whose(other, pod)),
                            "Choose another node.", container.name);
          }
        }
      }
    }
  }
  return std::nullopt;
}

absl::StatusOr<absl::Duration> FreezeLimit(const k8s::Pod& pod, absl::Duration cap) {
  absl::Duration limit = cap;
  for (const k8s::Container& container : pod.spec.containers) {
    for (const auto& [name, probe] : KillingProbes(pod, container)) {
      const absl::Duration bearable = Bearable(*probe);
      if (bearable <= absl::ZeroDuration()) {
        return absl::FailedPreconditionError(absl::StrCat(
            "container ", container.name, "'s ", name,
            " has failureThreshold 1: kubelet would kill it for standing still at the moment of one probe"));
      }
      limit = std::min(limit, bearable);
    }
  }
  return limit;
}

bool HasLivenessProbe(const k8s::Pod& pod) {
  return std::any_of(pod.spec.containers.begin(), pod.spec.containers.end(),
                     [&](const k8s::Container& container) { return !KillingProbes(pod, container).empty(); });
}

}  // namespace godwit::controller
