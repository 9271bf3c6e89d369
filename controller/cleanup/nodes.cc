// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <set>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "controller/cleanup/cleanup.h"
#include "controller/cleanup/wait.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/pod.h"

namespace godwit::controller {
namespace {

constexpr char kSelector[] = "app.kubernetes.io/name=godwit,app.kubernetes.io/component=uninstall";
constexpr char kDaemonSet[] = "godwit-uninstall";

// The part of apps/v1 DaemonSet that says how far it is.
struct DaemonSet {
  static constexpr k8s::Resource kResource{"apps", "v1", "daemonsets", "DaemonSet"};
  struct Status {
    int64_t observed_generation = 0;
    int64_t desired = 0;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("observedGeneration", self.observed_generation);
      field("desiredNumberScheduled", self.desired);
    }
  };
  k8s::ObjectMeta metadata;
  Status status;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("status", self.status);
  }
};

// Why a pod has not come to its end, in kubelet's words.
std::string Waiting(const k8s::Pod& pod) {
  for (const auto* statuses : {&pod.status.init_container_statuses, &pod.status.container_statuses}) {
    for (const k8s::ContainerStatus& container : *statuses) {
      const k8s::ContainerState& state = container.state;
      if (state.waiting && !state.waiting->reason.empty() && state.waiting->reason != "PodInitializing") {
        std::string why = state.waiting->reason;
        if (!state.waiting->message.empty()) absl::StrAppend(&why, ": ", state.waiting->message);
        if (container.last_state.terminated)
          absl::StrAppend(&why, ": ", container.last_state.terminated->message);
        return why;
      }
    }
  }
  return pod.status.phase.empty() ? "Pending" : pod.status.phase;
}

class NodeWatch {
 public:
  NodeWatch(const k8s::Api& api, const std::string& name_space) : api_(api), name_space_(name_space) {}

  // Nodes that are still being cleaned, with the reason.
  absl::StatusOr<std::vector<std::string>> Remaining() {
    GODWIT_ASSIGN_OR_RETURN(DaemonSet set, k8s::Client<DaemonSet>(api_).Get(name_space_, kDaemonSet));
    if (set.status.observed_generation < set.metadata.generation || set.status.observed_generation == 0) {
      return std::vector<std::string>{"all (the DaemonSet has not been looked at yet)"};
    }
    GODWIT_ASSIGN_OR_RETURN(auto pods,
                            k8s::Client<k8s::Pod>(api_).ListAll(name_space_, {.label_selector = kSelector}));
    GODWIT_ASSIGN_OR_RETURN(std::set<std::string> unready, UnreadyNodes());
    std::vector<std::string> remaining;
    for (const k8s::Pod& pod : pods.items) Look(pod, unready, remaining);
    if (static_cast<int64_t>(pods.items.size()) < set.status.desired) {
      remaining.push_back(
          absl::StrCat(set.status.desired - pods.items.size(), " nodes that have no pod yet"));
    }
    return remaining;
  }

 private:
  absl::StatusOr<std::set<std::string>> UnreadyNodes() {
    GODWIT_ASSIGN_OR_RETURN(auto nodes, k8s::Client<k8s::Node>(api_).ListAll(""));
    std::set<std::string> unready;
    for (const k8s::Node& node : nodes.items) {
      if (!node.ready()) unready.insert(node.metadata.name);
    }
    return unready;
  }

  void Look(const k8s::Pod& pod, const std::set<std::string>& unready, std::vector<std::string>& remaining) {
    // Before it is bound, a DaemonSet's pod names its node only in its affinity.
    const std::string& node = pod.spec.node_name.empty() ? pod.metadata.name : pod.spec.node_name;
    if (pod.ready()) {
      std::string kept;
      for (const k8s::ContainerStatus& container : pod.status.init_container_statuses) {
        if (container.state.terminated) kept = container.state.terminated->message;
      }
      if (told_.insert(node).second) {
        LOG(INFO) << Log("the node is clean")
                         .With("node", node)
                         .With("kept", std::string(absl::StripAsciiWhitespace(kept)));
      }
    } else if (unready.contains(node)) {
      if (told_.insert(node).second) {
        LOG(WARNING) << Log("the node is not Ready and is left as it is; `godwit-agent uninstall` cleans it")
                            .With("node", node);
      }
    } else {
      remaining.push_back(absl::StrCat(node, " (", Waiting(pod), ")"));
    }
  }

  const k8s::Api& api_;
  const std::string& name_space_;
  std::set<std::string> told_;
};

}  // namespace

absl::Status WaitForCleanNodes(const k8s::Api& api, const CleanupOptions& options, Clock& clock) {
  NodeWatch nodes(api, options.name_space);
  return WaitUntilNone(
      [&] { return nodes.Remaining(); }, "these nodes to be cleaned", options.timeout, clock,
      "see `kubectl logs` of the pods of DaemonSet godwit-uninstall; then run helm uninstall again");
}

}  // namespace godwit::controller
