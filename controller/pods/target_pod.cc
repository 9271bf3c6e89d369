// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/target_pod.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/json.h"
#include "controller/pods/names.h"

namespace godwit::controller {
namespace {

using k8s::Unstructured;
using rapidjson::Value;

// Annotations that somebody else writes about this very pod, on this very node.
bool BelongsToThePod(absl::string_view annotation) {
  static constexpr std::array<absl::string_view, 10> kPrefixes = {
      "godwit.io/",
      "cni.projectcalico.org/",
      "k8s.ovn.org/",
      "k8s.v1.cni.cncf.io/network-status",
      "k8s.v1.cni.cncf.io/networks-status",
      "kubernetes.io/config.",
      "kubernetes.io/limit-ranger",
      "controller.kubernetes.io/pod-deletion-cost",
      "kubectl.kubernetes.io/last-applied-configuration",
      "kubernetes.io/psp"};
  for (const absl::string_view prefix : kPrefixes) {
    if (absl::StartsWith(annotation, prefix)) return true;
  }
  return false;
}

// Labels by which a controller knows the pods it made.
bool BelongsToAController(absl::string_view label) {
  static constexpr std::array<absl::string_view, 9> kLabels = {kPodTemplateHash,
                                                               "controller-revision-hash",
                                                               "pod-template-generation",
                                                               "statefulset.kubernetes.io/pod-name",
                                                               "apps.kubernetes.io/pod-index",
                                                               "batch.kubernetes.io/controller-uid",
                                                               "batch.kubernetes.io/job-name",
                                                               "controller-uid",
                                                               "job-name"};
  for (const absl::string_view known : kLabels) {
    if (label == known) return true;
  }
  return false;
}

std::map<std::string, std::string> KeptAnnotations(const k8s::ObjectMeta& meta) {
  std::map<std::string, std::string> kept;
  for (const auto& [key, value] : meta.annotations) {
    if (!BelongsToThePod(key)) kept[key] = value;
  }
  return kept;
}

// A restored pod is bare, but whatever selects pods by their own labels (a Service, a network policy) still
// finds it. Where the pods of a controller are told apart by nothing else, the controller would adopt it:
// then no label is kept.
std::map<std::string, std::string> KeptLabels(const k8s::ObjectMeta& meta) {
  std::map<std::string, std::string> kept;
  if (meta.Controller() != nullptr && meta.Label(kPodTemplateHash).empty()) return kept;
  for (const auto& [key, value] : meta.labels) {
    if (!IsGodwitKey(key) && !BelongsToAController(key)) kept[key] = value;
  }
  return kept;
}

// "repository@sha256:digest" that a container runs, when its runtime knows it: a tag may mean something else
// by now.
std::string PinnedImage(const k8s::ContainerStatus* status) {
  if (status == nullptr) return "";
  absl::string_view id = status->image_id;
  id = absl::StripPrefix(id, "docker-pullable://");
  return absl::StrContains(id, "@sha256:") ? std::string(id) : "";
}

constexpr char kTokenFolder[] = "/var/run/secrets/kubernetes.io/serviceaccount";

// The service account's volume is added by admission, under a new name; a copy of it would come twice. Of the
// pod's own volumes one may have such a name, too, but is mounted elsewhere.
std::vector<std::string> TokenVolumes(const k8s::Pod& pod) {
  const auto elsewhere = [&pod](const std::string& volume) {
    for (const k8s::Container& container : pod.spec.containers) {
      for (const k8s::VolumeMount& mount : container.volume_mounts)
        if (mount.name == volume && mount.mount_path != kTokenFolder) return true;
    }
    return false;
  };
  std::vector<std::string> names;
  for (const k8s::Volume& volume : pod.spec.volumes) {
    if (volume.kind == "projected" && absl::StartsWith(volume.name, "kube-api-access-") &&
        !elsewhere(volume.name))
      names.push_back(volume.name);
  }
  return names;
}

void EraseNamed(Value* list, const std::vector<std::string>& names) {
  if (list == nullptr || !list->IsArray()) return;
  for (auto it = list->Begin(); it != list->End();) {
    const bool listed = it->IsObject() && it->HasMember("name") && (*it)["name"].IsString() &&
                        std::find(names.begin(), names.end(), (*it)["name"].GetString()) != names.end();
    it = listed ? list->Erase(it) : it + 1;
  }
}

void CleanContainer(Unstructured& out, const std::string& path, const k8s::ContainerStatus* status,
                    const std::vector<std::string>& token_volumes) {
  if (const std::string image = PinnedImage(status); !image.empty())
    out.Set(absl::StrCat(path, "/image"), image);
  out.Remove(absl::StrCat(path, "/lifecycle/postStart"));
  if (const Value* lifecycle = out.Find(absl::StrCat(path, "/lifecycle"));
      lifecycle && lifecycle->ObjectEmpty()) {
    out.Remove(absl::StrCat(path, "/lifecycle"));
  }
  // A warm process is ready as soon as it runs again.
  out.Remove(absl::StrCat(path, "/readinessProbe/initialDelaySeconds"));
  out.Remove(absl::StrCat(path, "/startupProbe/initialDelaySeconds"));
  EraseNamed(out.Find(absl::StrCat(path, "/volumeMounts")), token_volumes);
}

// `source` without what belongs to its node, its owner and its life so far; no labels.
Unstructured Clean(const WholePod& source) {
  Unstructured out;
  out.Set("/apiVersion", "v1");
  out.Set("/kind", "Pod");
  out.Set("/metadata/namespace", source.view.metadata.name_space);
  if (const auto annotations = KeptAnnotations(source.view.metadata); !annotations.empty()) {
    out.Set("/metadata/annotations", annotations);
  }
  if (const Value* spec = source.raw.Find("/spec")) out.SetValue("/spec", *spec);
  for (const char* field :
       {"nodeName", "initContainers", "ephemeralContainers", "schedulingGates", "serviceAccount", "priority",
        "preemptionPolicy", "overhead", "runtimeClassName"}) {
    out.Remove(absl::StrCat("/spec/", field));
  }
  const std::vector<std::string> token_volumes = TokenVolumes(source.view);
  EraseNamed(out.Find("/spec/volumes"), token_volumes);
  for (size_t i = 0; i < source.view.spec.containers.size(); ++i) {
    CleanContainer(out, absl::StrCat("/spec/containers/", i),
                   source.view.FindStatus(source.view.spec.containers[i].name), token_volumes);
  }
  return out;
}

// Removes a node that an earlier move required; terms that then say nothing go too.
void ForgetEarlierNode(Value& terms) {
  for (auto term = terms.Begin(); term != terms.End();) {
    if (term->IsObject() && term->HasMember("matchFields") && (*term)["matchFields"].IsArray()) {
      Value& fields = (*term)["matchFields"];
      for (auto it = fields.Begin(); it != fields.End();) {
        const bool by_name = it->IsObject() && it->HasMember("key") && (*it)["key"] == "metadata.name";
        it = by_name ? fields.Erase(it) : it + 1;
      }
      if (fields.Empty()) term->RemoveMember("matchFields");
    }
    term = term->IsObject() && term->ObjectEmpty() ? terms.Erase(term) : term + 1;
  }
}

// Every alternative that the pod's affinity allows must also be on this node: the terms are ORed.
void RequireNode(Unstructured& pod, const std::string& node) {
  constexpr char kTerms[] =
      "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
  Value* terms = pod.Find(kTerms);
  if (terms != nullptr && terms->IsArray()) ForgetEarlierNode(*terms);
  size_t count = terms != nullptr && terms->IsArray() ? terms->Size() : 0;
  if (count == 0) {
    Value one(rapidjson::kArrayType);
    one.PushBack(Value(rapidjson::kObjectType), pod.allocator());
    pod.SetValue(kTerms, one);
    count = 1;
  }
  const k8s::LabelSelectorRequirement by_name{.key = "metadata.name", .op = "In", .values = {node}};
  for (size_t i = 0; i < count; ++i) {
    const std::string fields = absl::StrCat(kTerms, "/", i, "/matchFields");
    if (pod.Find(fields) == nullptr) pod.SetValue(fields, Value(rapidjson::kArrayType));
    pod.Set(absl::StrCat(fields, "/-"), by_name);
  }
}

void Address(Unstructured& pod, const NewPod& target) {
  pod.Set("/metadata/name", target.name);
  pod.Set(absl::StrCat("/metadata/labels/", k8s::PointerKey(kMigrationKey)), target.owner_uid);
  pod.Set(absl::StrCat("/metadata/annotations/", k8s::PointerKey(kMigrationKey)), target.owner_uid);
  if (const std::string suffix = Suffix(target.owner_uid);
      absl::EndsWith(target.name, absl::StrCat("-", suffix))) {
    pod.Set(absl::StrCat("/metadata/labels/", k8s::PointerKey(kSuffixLabel)), suffix);
  }
  pod.Set("/spec/runtimeClassName", kRuntimeClass);
  Value gates(rapidjson::kArrayType);
  pod.SetValue("/spec/schedulingGates", gates);
  pod.Set("/spec/schedulingGates/-", k8s::NamedReference{kPermitGate});
  RequireNode(pod, target.node);
}

void AddReadinessGate(Unstructured& pod) {
  if (const Value* gates = pod.Find("/spec/readinessGates"); gates != nullptr && gates->IsArray()) {
    for (const auto& gate : gates->GetArray()) {
      if (gate.IsObject() && gate.HasMember("conditionType") && gate["conditionType"] == kCommittedCondition)
        return;
    }
  } else {
    pod.SetValue("/spec/readinessGates", Value(rapidjson::kArrayType));
  }
  pod.Set("/spec/readinessGates/-", k8s::PodReadinessGate{kCommittedCondition});
}

void RemoveReadinessGate(Unstructured& pod) {
  Value* gates = pod.Find("/spec/readinessGates");
  if (gates == nullptr || !gates->IsArray()) return;
  for (auto it = gates->Begin(); it != gates->End();) {
    const bool ours =
        it->IsObject() && it->HasMember("conditionType") && (*it)["conditionType"] == kCommittedCondition;
    it = ours ? gates->Erase(it) : it + 1;
  }
  if (gates->Empty()) pod.Remove("/spec/readinessGates");
}

}  // namespace

Unstructured TargetPod(const WholePod& source, const NewPod& target) {
  Unstructured pod = Clean(source);
  Address(pod, target);
  AddReadinessGate(pod);
  pod.Set(absl::StrCat("/metadata/annotations/", k8s::PointerKey(kHandOverAnnotation)),
          json::Encode(HandOverOf(source.view.metadata)));
  return pod;
}

Unstructured PodManifest(const WholePod& source) {
  Unstructured pod = Clean(source);
  k8s::ObjectMeta named = source.view.metadata;
  pod.Set("/metadata/name", named.name);
  auto labels = KeptLabels(named);
  // So that a restored pod's name does not grow.
  if (const std::string suffix = named.Label(kSuffixLabel); !suffix.empty()) labels[kSuffixLabel] = suffix;
  if (!labels.empty()) pod.Set("/metadata/labels", labels);
  RemoveReadinessGate(pod);
  if (Value* terms = pod.Find(
          "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
      terms != nullptr && terms->IsArray()) {
    ForgetEarlierNode(*terms);
    if (terms->Empty())
      pod.Remove("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution");
  }
  return pod;
}

absl::StatusOr<Unstructured> RestoredPod(const Unstructured& manifest, const std::string& name_space,
                                         const NewPod& target) {
  auto view = manifest.As<k8s::Pod>();
  if (!view.ok() || manifest.String("/kind") != "Pod" || view->spec.containers.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the checkpoint's manifest is not a pod with containers",
                                                   view.ok() ? "" : ": ",
                                                   view.ok() ? "" : view.status().message()));
  }
  Unstructured pod = manifest;
  pod.Set("/metadata/namespace", name_space);
  pod.Remove(absl::StrCat("/metadata/labels/", k8s::PointerKey(kSuffixLabel)));
  pod.Remove("/metadata/ownerReferences");
  Address(pod, target);
  return pod;
}

HandOver HandOverOf(const k8s::ObjectMeta& source) {
  HandOver out;
  for (const auto& [key, value] : source.labels) {
    if (!IsGodwitKey(key)) out.labels[key] = value;
  }
  out.owners = source.owner_references;
  return out;
}

HandOver HandOverFromTarget(const k8s::ObjectMeta& target) {
  auto kept = json::Decode<HandOver>(target.Annotation(kHandOverAnnotation));
  return kept.ok() ? *std::move(kept) : HandOver{};
}

bool HandedOver(const k8s::ObjectMeta& target, const HandOver& hand_over) {
  for (const auto& [key, value] : hand_over.labels) {
    auto has = target.labels.find(key);
    if (has == target.labels.end() || has->second != value) return false;
  }
  for (const k8s::OwnerReference& owner : hand_over.owners) {
    if (std::find(target.owner_references.begin(), target.owner_references.end(), owner) ==
        target.owner_references.end()) {
      return false;
    }
  }
  return true;
}

Unstructured HandOverPatch(const k8s::ObjectMeta& target, const HandOver& hand_over) {
  Unstructured patch;
  patch.Set("/metadata/uid", target.uid);
  patch.Set("/metadata/resourceVersion", target.resource_version);
  for (const auto& [key, value] : hand_over.labels) {
    patch.Set(absl::StrCat("/metadata/labels/", k8s::PointerKey(key)), value);
  }
  if (!hand_over.owners.empty()) patch.Set("/metadata/ownerReferences", hand_over.owners);
  return patch;
}

}  // namespace godwit::controller
