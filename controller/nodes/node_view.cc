// SPDX-License-Identifier: Apache-2.0
#include "controller/nodes/node_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace godwit::controller {

NodeView ViewOf(const std::string& name, const k8s::Node* node, const std::string& agent_address) {
  NodeView view{.name = name};
  view.agent_runs = !agent_address.empty();
  view.address = agent_address;
  if (node == nullptr) return view;
  view.exists = true;
  view.ready = node->ready();
  view.schedulable = !node->spec.unschedulable && !node->metadata.terminating();
  view.out_of_service =
      std::any_of(node->spec.taints.begin(), node->spec.taints.end(),
                  [](const k8s::Taint& taint) { return taint.key == "node.kubernetes.io/out-of-service"; });
  view.architecture = node->status.node_info.architecture;
  if (view.architecture.empty()) view.architecture = node->metadata.Label("kubernetes.io/arch");
  return view;
}

std::optional<Failure> WhyNoAgent(const NodeView& node) {
  if (node.agent_runs) return std::nullopt;
  NodeView uncordoned = node;
  uncordoned.schedulable = true;
  return WhyUnsuitable(uncordoned);
}

std::optional<Failure> WhyUnsuitable(const NodeView& node) {
  if (!node.exists) return Failure{"NodeNotFound", absl::StrCat("node ", node.name, " does not exist")};
  if (!node.ready) return Failure{"NodeNotReady", absl::StrCat("node ", node.name, " is not ready")};
  if (!node.schedulable) {
    return Failure{"NodeUnschedulable", absl::StrCat("node ", node.name, " is cordoned (kubectl uncordon ",
                                                     node.name, " to use it)")};
  }
  if (!node.agent_runs) {
    return Failure{
        "NoAgent",
        absl::StrCat("no Godwit agent runs on node ", node.name,
                     " (does the DaemonSet godwit-agent select this node, and is its pod running?)")};
  }
  return std::nullopt;
}

Failure AgentFailure(const std::string& node, const absl::Status& error) {
  const bool certificate = error.code() == absl::StatusCode::kUnauthenticated;
  return {certificate ? "CertificateWrong" : "AgentUnreachable",
          absl::StrCat("the agent of node ", node,
                       certificate ? " could not be trusted, or did not trust us: " : " does not answer: ",
                       error.message())};
}

std::optional<Failure> WhyAgentUnsuitable(const NodeView& node, const std::string& architecture) {
  if (!node.agent.ok()) return AgentFailure(node.name, node.agent.status());
  if (node.agent->node != node.name) {
    return Failure{"CertificateWrong", absl::StrCat("the agent at ", node.address, " says it is node ",
                                                    node.agent->node, ", not ", node.name)};
  }
  if (!node.agent->runtime_ready) {
    return Failure{
        "RuntimeNotReady",
        absl::StrCat("the container runtime of node ", node.name,
                     " does not know the handler godwit yet (see the log of the agent's init container)")};
  }
  if (!architecture.empty() && !node.agent->architecture.empty() &&
      node.agent->architecture != architecture) {
    return Failure{"ArchitectureMismatch",
                   absl::StrCat("the pod's processes are ", architecture, ", and node ", node.name, " is ",
                                node.agent->architecture)};
  }
  return std::nullopt;
}

Choice ChooseNode(const std::vector<NodeView>& candidates, const std::string& source_node,
                  const std::string& architecture, const std::string& selector) {
  Choice choice;
  int64_t most = -1;
  std::string reasons;
  for (const NodeView& node : candidates) {
    std::optional<Failure> why = WhyUnsuitable(node);
    if (node.name == source_node)
      why = Failure{"TargetIsSource", absl::StrCat("node ", node.name, " runs the pod already")};
    if (!why) why = WhyAgentUnsuitable(node, architecture);
    if (why) {
      absl::StrAppend(&reasons, reasons.empty() ? "" : "; ", why->message);
      continue;
    }
    const int64_t memory = node.agent->memory_available;
    if (memory > most || (memory == most && node.name < choice.node)) {
      most = memory;
      choice.node = node.name;
    }
  }
  if (choice.node.empty()) {
    choice.failure =
        Failure{"NoSuitableNode", candidates.empty() ? absl::StrCat("no node has the labels ", selector)
                                                     : absl::StrCat("none of the nodes with the labels ",
                                                                    selector, " suits: ", reasons)};
  }
  return choice;
}

}  // namespace godwit::controller
