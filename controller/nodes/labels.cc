// SPDX-License-Identifier: Apache-2.0
#include "controller/nodes/labels.h"

#include <array>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "controller/pods/names.h"
#include "k8s/client.h"
#include "k8s/error.h"

namespace godwit::controller {
namespace {

absl::Status SetLabel(const k8s::Api& api, const k8s::Node& node, bool live) {
  const std::string path = absl::StrCat("/metadata/labels/", k8s::PointerKey(kRuntimeLabel));
  k8s::Unstructured patch;
  patch.Set("/metadata/uid", node.metadata.uid);
  if (live) {
    patch.Set(path, kRuntimeLabelReady);
  } else {
    patch.SetNull(path);
  }
  const absl::Status status = k8s::Client<k8s::Node>(api).MergePatch("", node.metadata.name, patch).status();
  return k8s::IsNotFound(status) ? absl::OkStatus() : status;
}

}  // namespace

std::optional<bool> HandlerLive(const k8s::Node& node, const NodeView& view) {
  if (!view.agent_runs) return false;
  if (view.agent.ok()) return view.agent->runtime_ready && view.agent->node == view.name;
  // kubelet lists the handlers of its runtime (feature RecursiveReadOnlyMounts, 1.30); a list without ours is
  // a no.
  if (!node.status.runtime_handlers.empty() && !node.HasRuntimeHandler(kRuntimeClass)) return false;
  return std::nullopt;
}

void NodeLabels::Publish() {
  if (metrics_ == nullptr) return;
  std::map<std::array<std::string, 1>, double> up, ready;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [node, seen] : seen_) {
      up[{node}] = seen.up ? 1 : 0;
      ready[{node}] = seen.runtime_ready ? 1 : 0;
    }
  }
  metrics_->agent_up.Replace(up);
  metrics_->agent_runtime_ready.Replace(ready);
}

absl::StatusOr<absl::Duration> NodeLabels::Reconcile(const k8s::ObjectName& name) {
  const auto node = cluster_->nodes().Get("", name.name);
  const NodeView view = cluster_->View(name.name, true);
  {
    absl::MutexLock lock(&mutex_);
    if (node != nullptr && view.agent_runs) {
      seen_[name.name] = {.up = view.agent.ok(),
                          .runtime_ready = view.agent.ok() && view.agent->runtime_ready};
    } else {
      seen_.erase(name.name);
    }
  }
  if (node == nullptr) return absl::InfiniteDuration();
  const std::optional<bool> live = HandlerLive(*node, view);
  const bool labelled = node->metadata.Label(kRuntimeLabel) == kRuntimeLabelReady;
  if (live && *live != labelled) {
    GODWIT_RETURN_IF_ERROR(SetLabel(cluster_->api(), *node, *live));
    LOG(INFO)
        << Log(*live ? "node can receive pods" : "node can no longer receive pods").With("node", name.name);
  }
  if (!view.agent_runs) return absl::InfiniteDuration();
  return live.value_or(false) ? settings_.period : settings_.starting;
}

}  // namespace godwit::controller
