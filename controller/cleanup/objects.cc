// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status.h"
#include "controller/cleanup/cleanup.h"
#include "controller/cleanup/wait.h"
#include "crds/checkpoint.h"
#include "crds/migration.h"
#include "crds/restore.h"
#include "k8s/apps.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/pod.h"

namespace godwit::controller {
namespace {

using k8s::Unstructured;

constexpr std::array<k8s::Resource, 3> kKinds = {crds::Migration::kResource, crds::Checkpoint::kResource,
                                                 crds::Restore::kResource};
constexpr k8s::Resource kDaemonSets{"apps", "v1", "daemonsets", "DaemonSet"};
constexpr k8s::Resource kRuntimeClasses{"node.k8s.io", "v1", "runtimeclasses", "RuntimeClass",
                                        /*namespaced=*/false};
constexpr char kRuntimeClass[] = "godwit";
constexpr char kRuntimeLabel[] = "godwit.io/runtime";
const std::set<std::string> kEndPhases = {"Succeeded", "Ready", "Failed"};

bool Unfinished(const Unstructured& object) { return !kEndPhases.contains(object.String("/status/phase")); }

bool IsOurs(const std::string& finalizer) { return absl::StartsWith(finalizer, "godwit.io/"); }

// All objects of a kind; none when the cluster does not have the kind (any more).
absl::StatusOr<std::vector<Unstructured>> ListObjects(const k8s::Api& api, const k8s::Resource& kind) {
  auto list = k8s::Client<Unstructured>(api, kind).ListAll("");
  if (k8s::IsNotFound(list.status())) return std::vector<Unstructured>();
  if (!list.ok()) return Annotate(list.status(), absl::StrCat("cannot list ", kind.plural));
  return std::move(list->items);
}

absl::Status IgnoreNotFound(const absl::Status& status, absl::string_view what) {
  return status.ok() || k8s::IsNotFound(status) ? absl::OkStatus() : Annotate(status, what);
}

absl::Status DeleteUnfinished(const k8s::Api& api, const k8s::Resource& kind) {
  GODWIT_ASSIGN_OR_RETURN(std::vector<Unstructured> objects, ListObjects(api, kind));
  const k8s::Client<Unstructured> client(api, kind);
  for (const Unstructured& object : objects) {
    const k8s::ObjectMeta meta = object.Meta();
    if (!Unfinished(object) || meta.terminating()) continue;
    LOG(INFO) << Log("deleting what has not ended")
                     .With("kind", kind.kind)
                     .With("object", meta.object_name().ToString());
    GODWIT_RETURN_IF_ERROR(
        IgnoreNotFound(client.Delete(meta.name_space, meta.name, {.uid = meta.uid}),
                       absl::StrCat("cannot delete ", kind.kind, " ", meta.object_name().ToString())));
  }
  return absl::OkStatus();
}

// "Migration shop/move-cache (Switching)", for each that is still there and has not ended.
absl::StatusOr<std::vector<std::string>> StillUnfinished(const k8s::Api& api) {
  std::vector<std::string> names;
  for (const k8s::Resource& kind : kKinds) {
    GODWIT_ASSIGN_OR_RETURN(std::vector<Unstructured> objects, ListObjects(api, kind));
    for (const Unstructured& object : objects) {
      if (!Unfinished(object)) continue;
      names.push_back(absl::StrCat(kind.kind, " ", object.Meta().object_name().ToString(), " (",
                                   object.String("/status/phase"), ")"));
    }
  }
  return names;
}

absl::Status EndUnfinished(const k8s::Api& api, const CleanupOptions& options, Clock& clock) {
  for (const k8s::Resource& kind : kKinds) GODWIT_RETURN_IF_ERROR(DeleteUnfinished(api, kind));
  return WaitUntilNone([&] { return StillUnfinished(api); }, "the controller to abort or end them",
                       options.timeout, clock,
                       "is godwit-controller running, and do its log and the objects' conditions say why? "
                       "`helm uninstall --no-hooks` leaves "
                       "everything as it is");
}

absl::Status DeleteWorkload(const k8s::Api& api, const CleanupOptions& options, const k8s::Resource& resource,
                            absl::string_view component, Clock& clock) {
  const std::string name = absl::StrCat("godwit-", component);
  LOG(INFO) << Log("deleting the workload").With("kind", resource.kind).With("name", name);
  GODWIT_RETURN_IF_ERROR(IgnoreNotFound(k8s::Client<Unstructured>(api, resource)
                                            .Delete(options.name_space, name, {.propagation = "Background"}),
                                        absl::StrCat("cannot delete ", resource.kind, " ", name)));
  const auto pods_left = [&]() -> absl::StatusOr<std::vector<std::string>> {
    GODWIT_ASSIGN_OR_RETURN(
        auto pods, k8s::Client<k8s::Pod>(api).ListAll(
                       options.name_space,
                       {.label_selector = absl::StrCat(
                            "app.kubernetes.io/name=godwit,app.kubernetes.io/component=", component)}));
    std::vector<std::string> names;
    names.reserve(pods.items.size());
    for (const k8s::Pod& pod : pods.items)
      names.push_back(absl::StrCat(pod.metadata.name, " on ", pod.spec.node_name));
    return names;
  };
  return WaitUntilNone(pods_left, "these pods to go", options.timeout, clock,
                       "is the node gone? Then delete its pods with --force");
}

absl::Status DropFinalizers(const k8s::Api& api, const k8s::Resource& kind) {
  GODWIT_ASSIGN_OR_RETURN(std::vector<Unstructured> objects, ListObjects(api, kind));
  const k8s::Client<Unstructured> client(api, kind);
  for (const Unstructured& before : objects) {
    const k8s::ObjectMeta meta = before.Meta();
    std::vector<std::string> others;
    std::copy_if(meta.finalizers.begin(), meta.finalizers.end(), std::back_inserter(others),
                 [](const std::string& finalizer) { return !IsOurs(finalizer); });
    if (others.size() == meta.finalizers.size()) continue;
    Unstructured after = before;
    after.Set("/metadata/finalizers", others);
    LOG(INFO) << Log("taking the finalizer off")
                     .With("kind", kind.kind)
                     .With("object", meta.object_name().ToString());
    GODWIT_RETURN_IF_ERROR(IgnoreNotFound(
        client.PatchChanges(before, after).status(),
        absl::StrCat("cannot take the finalizer off ", kind.kind, " ", meta.object_name().ToString())));
  }
  return absl::OkStatus();
}

absl::Status UnlabelNodes(const k8s::Api& api) {
  const k8s::Client<k8s::Node> client(api);
  GODWIT_ASSIGN_OR_RETURN(auto nodes, client.ListAll("", {.label_selector = kRuntimeLabel}));
  Unstructured patch;
  patch.SetNull(absl::StrCat("/metadata/labels/", k8s::PointerKey(kRuntimeLabel)));
  for (const k8s::Node& node : nodes.items) {
    LOG(INFO) << Log("removing the label of the node").With("node", node.metadata.name);
    GODWIT_RETURN_IF_ERROR(
        IgnoreNotFound(client.MergePatch("", node.metadata.name, patch).status(),
                       absl::StrCat("cannot remove the label of node ", node.metadata.name)));
  }
  return absl::OkStatus();
}

// What the controller made by itself, so that helm does not know of it.
absl::Status DeleteMade(const k8s::Api& api, const std::string& name_space) {
  const std::array<std::pair<k8s::Resource, const char*>, 3> made = {
      {{k8s::Secret::kResource, "godwit-ca"},
       {k8s::ConfigMap::kResource, "godwit-ca-bundle"},
       {k8s::Lease::kResource, "godwit-controller"}}};
  for (const auto& [resource, name] : made) {
    GODWIT_RETURN_IF_ERROR(IgnoreNotFound(k8s::Client<Unstructured>(api, resource).Delete(name_space, name),
                                          absl::StrCat("cannot delete ", resource.kind, " ", name)));
  }
  return absl::OkStatus();
}

// kubelet looks the RuntimeClass up whenever it starts a container of a pod that names it, restarts included.
absl::Status DeleteUnusedRuntimeClass(const k8s::Api& api) {
  GODWIT_ASSIGN_OR_RETURN(auto pods, k8s::Client<k8s::Pod>(api).ListAll(""));
  const auto user = std::find_if(pods.items.begin(), pods.items.end(), [](const k8s::Pod& pod) {
    const bool ended = pod.status.phase == "Succeeded" || pod.status.phase == "Failed";
    return pod.spec.runtime_class_name == kRuntimeClass && !ended;
  });
  if (user != pods.items.end()) {
    LOG(WARNING) << Log("the RuntimeClass stays, as pods need it to restart their containers")
                        .With("name", kRuntimeClass)
                        .With("pod", user->metadata.object_name().ToString());
    return absl::OkStatus();
  }
  return IgnoreNotFound(k8s::Client<Unstructured>(api, kRuntimeClasses).Delete("", kRuntimeClass),
                        "cannot delete RuntimeClass godwit");
}

}  // namespace

absl::Status CleanUp(const k8s::Api& api, const CleanupOptions& options, Clock& clock) {
  GODWIT_RETURN_IF_ERROR(EndUnfinished(api, options, clock));
  GODWIT_RETURN_IF_ERROR(DeleteWorkload(api, options, k8s::Deployment::kResource, "controller", clock));
  GODWIT_RETURN_IF_ERROR(DeleteWorkload(api, options, kDaemonSets, "agent", clock));
  for (const k8s::Resource& kind : kKinds) GODWIT_RETURN_IF_ERROR(DropFinalizers(api, kind));
  GODWIT_RETURN_IF_ERROR(UnlabelNodes(api));
  GODWIT_RETURN_IF_ERROR(DeleteUnusedRuntimeClass(api));
  return DeleteMade(api, options.name_space);
}

}  // namespace godwit::controller
