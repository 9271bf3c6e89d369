// SPDX-License-Identifier: Apache-2.0
// A node and the agent on it, as decisions about placing a pod need them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/api/messages.h"
#include "controller/pods/progress.h"
#include "k8s/core.h"

namespace godwit::controller {

struct NodeView {
  std::string name;
  bool exists = false;
  bool ready = false;
  bool schedulable = false;     // not cordoned
  bool out_of_service = false;  // somebody vouches by a taint that it is off, and stays so
  std::string architecture;     // amd64, arm64; "" when the node does not say
  bool agent_runs = false;      // a pod of the agent is there and has an address
  std::string address;          // the host's
  // GET /v1/node; NotFound while it was not asked for.
  absl::StatusOr<agent_api::NodeInfo> agent = absl::NotFoundError("the agent was not asked");

  // Nothing runs there, and what stood there is gone.
  bool fenced() const { return !exists || out_of_service; }
};

// What `node` and the existence of an agent pod say; `agent` is left for the caller.
NodeView ViewOf(const std::string& name, const k8s::Node* node, const std::string& agent_address);

// Why no agent runs on the node; it may be cordoned, for pods and archives can be had from there. Without
// asking the agent.
std::optional<Failure> WhyNoAgent(const NodeView& node);

// Why no pod can be brought to the node: it does not exist, is not ready or cordoned, has no agent. Without
// asking the agent.
std::optional<Failure> WhyUnsuitable(const NodeView& node);

// The same with the agent's answer: it does not answer, says it is another node, has no live handler, or is
// of another architecture than `architecture` ("": any).
std::optional<Failure> WhyAgentUnsuitable(const NodeView& node, const std::string& architecture);

// For an agent that does not answer or is not who it should be: AgentUnreachable or CertificateWrong, with
// the error.
Failure AgentFailure(const std::string& node, const absl::Status& error);

// Of `candidates` the one that suits and has the most available memory (then the first by name). The failure
// lists why each does not suit.
struct Choice {
  std::string node;
  std::optional<Failure> failure;
};
Choice ChooseNode(const std::vector<NodeView>& candidates, const std::string& source_node,
                  const std::string& architecture, const std::string& selector);

}  // namespace godwit::controller
