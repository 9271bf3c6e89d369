// SPDX-License-Identifier: Apache-2.0
// The cluster as the controller sees it: live reads and writes by the API, fresh copies of what it looks at
// all the time, and the agents. All replicas keep the copies, so that a new leader begins warm.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/agents/agent.h"
#include "controller/nodes/node_view.h"
#include "controller/pods/whole_pod.h"
#include "controller/runtime/turns.h"
#include "crds/checkpoint.h"
#include "crds/migration.h"
#include "crds/restore.h"
#include "k8s/api.h"
#include "k8s/apps.h"
#include "k8s/client.h"
#include "k8s/informer.h"

namespace godwit::controller {

struct ClusterOptions {
  std::string name_space;  // ours: where the agents' pods are
  k8s::InformerOptions informer;
};

// Of the workers that migrations and checkpoints need.
inline constexpr size_t kMostRehearsals = 2, kMostPreflights = 4, kMostPreflightsOfANamespace = 2;

// Thread-safe from Start on.
class Cluster {
 public:
  // `agents` is not owned and outlives the cluster.
  Cluster(k8s::Api api, Agents* agents, ClusterOptions options);

  // The informers, for listeners; add these before Start.
  k8s::Informer<crds::Migration>& migrations() { return migrations_; }
  k8s::Informer<crds::Checkpoint>& checkpoints() { return checkpoints_; }
  k8s::Informer<crds::Restore>& restores() { return restores_; }
  k8s::Informer<k8s::Pod>& pods() { return pods_; }
  k8s::Informer<k8s::Node>& nodes() { return nodes_; }

  void Start();
  void Stop();
  // Whether all copies are there.
  bool synced() const;
  absl::Status WaitForSync(absl::Duration limit) const;

  const k8s::Api& api() const { return api_; }
  // Of the dry runs that look at memory, by source node: each keeps a worker for seconds.
  Turns& rehearsals() { return rehearsals_; }
  // Of the pods that an agent looks at, by namespace: a pod may be made to be looked at for seconds.
  Turns& preflights() { return preflights_; }

  // Live.
  absl::StatusOr<std::optional<WholePod>> ReadPod(const k8s::ObjectName& name) const;
  absl::StatusOr<std::optional<k8s::ReplicaSet>> ReadReplicaSet(const k8s::ObjectName& name) const;
  // The last warning about the object in its events; "" when there is none or they cannot be read.
  std::string LastWarning(const k8s::ObjectMeta& object) const;

  // From the copies. Of pods they hold what decisions read: annotations of Godwit, no environment, no
  // commands, no sources of volumes.
  std::optional<k8s::Pod> Pod(const k8s::ObjectName& name) const;
  std::vector<k8s::Pod> PodsOwnedBy(const std::string& uid) const;  // by its controller reference
  std::vector<k8s::Pod> PodsOnNode(const std::string& node) const;
  std::vector<std::string> NodesWith(const std::map<std::string, std::string>& labels) const;  // sorted
  // The host address of the agent of a node; "" when none runs there.
  std::string AgentAddress(const std::string& node) const;
  bool IsAgent(const k8s::Pod& pod) const;

  // Node and agent; with `ask` the agent's own answer too.
  NodeView View(const std::string& node, bool ask) const;
  // The same for several nodes, asked side by side.
  std::vector<NodeView> Views(const std::vector<std::string>& nodes) const;
  // Null when no agent runs on the node.
  std::shared_ptr<Agent> AgentOn(const NodeView& node) const;

 private:
  const k8s::Api api_;
  Agents* const agents_;
  const ClusterOptions options_;
  Turns rehearsals_{kMostRehearsals};
  Turns preflights_{kMostPreflights, kMostPreflightsOfANamespace};
  k8s::Informer<crds::Migration> migrations_;
  k8s::Informer<crds::Checkpoint> checkpoints_;
  k8s::Informer<crds::Restore> restores_;
  k8s::Informer<k8s::Pod> pods_;
  k8s::Informer<k8s::Node> nodes_;
};

// Asks the agent of a node through `call`; Unavailable when none runs there. A side that it does not know is
// T{}.
template <class T, class Call>
absl::StatusOr<T> AskSide(const std::shared_ptr<Agent>& agent, Call call) {
  if (agent == nullptr) return absl::UnavailableError("no agent runs on the node");
  absl::StatusOr<T> answer = call(*agent);
  if (!answer.ok() && answer.status().code() == absl::StatusCode::kNotFound) return T{};
  return answer;
}

}  // namespace godwit::controller
