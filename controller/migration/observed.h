// SPDX-License-Identifier: Apache-2.0
// Everything that decides what is done next for a Migration, in one plain struct. Observe fills it from the
// API server and the agents; nothing about a Migration is kept in memory from one look to the next.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "controller/nodes/node_view.h"
#include "controller/pods/whole_pod.h"
#include "crds/migration.h"
#include "k8s/apps.h"
#include "k8s/pod.h"

namespace godwit::controller {

struct MigrationObserved {
  crds::Migration migration;                   // read from the API server for this look, not from a cache
  std::optional<WholePod> source;              // the pod named in spec.podRef, whatever its UID is by now
  std::optional<k8s::ReplicaSet> replica_set;  // the source's owner, if it is one and exists
  std::vector<k8s::Pod> siblings;              // the owner's other active pods, our target left out
  std::optional<k8s::Pod> target;              // the pod named in status.targetPodName
  std::string target_warning;                  // what was last complained about the target pod in its events

  NodeView source_node;
  NodeView target_node;              // of spec.target.nodeName, later of status.targetNode
  std::vector<NodeView> candidates;  // Pending with a nodeSelector: the nodes that carry the labels
  std::string selector;              // the nodeSelector as text

  std::string rival;         // another Migration of this pod that goes first
  std::string checkpoint;    // a Checkpoint that is being made of this pod
  std::string sibling_move;  // Pending: a Migration of one of the siblings that goes first
  int moves_in_work = 0;     // Pending: others of this namespace from the same node
  std::optional<crds::Finding> host_port_taken;

  // Preflight only.
  std::optional<std::vector<std::string>> target_images;  // names that the target's kubelet lists
  absl::StatusOr<agent_api::PreflightReport> preflight = absl::NotFoundError("not asked");
  bool preflight_waits = false;  // others have their turn
  // Rehearsing only.
  bool rehearsal_waits = false;  // others have their turn
  absl::StatusOr<agent_api::RehearsalReport> rehearsal = absl::NotFoundError("not asked");
  // From Copying on. A side that the agent knows nothing of is state None.
  absl::StatusOr<agent_api::SourceStatus> source_side = agent_api::SourceStatus{};
  absl::StatusOr<agent_api::TargetStatus> target_side = agent_api::TargetStatus{};
};

// What a person may set (flags), and what the waits of a Migration are bounded by.
struct MigrationSettings {
  absl::Duration create_limit = absl::Seconds(100);   // below kubelet's runtimeRequestTimeout (2 minutes)
  absl::Duration freeze_cap = absl::Seconds(90);      // without probes; below create_limit
  absl::Duration agent_patience = absl::Seconds(30);  // how long an agent may not answer before we give up
  absl::Duration cleanup_patience = absl::Seconds(60);
  absl::Duration kubelet_patience = absl::Seconds(5);
  absl::Duration stuck_after = absl::Minutes(2);  // without any change; it is told then
  absl::Duration sandbox_limit =
      absl::Seconds(60);  // for kubelet to make its sandbox, from being scheduled on
  absl::Duration copying_poll = absl::Milliseconds(500);
  absl::Duration switching_poll = absl::Milliseconds(150);
  int64_t spare_bytes = int64_t{64} << 20;  // that must stay free on the target
  int stream_port = agent_api::kDefaultStreamPort;
};

// The reason of Complete while kubelet starts the target pod.
inline constexpr char kWaitingForTarget[] = "WaitingForTarget";
// So long that is ordinary; then its events are read, too.
inline constexpr absl::Duration kStartPatience = absl::Seconds(3);

// The way goes through Copying: the source's agent works from before the target pod is started, and freezes
// only at the order to switch. So it stays when the agent finds that it can copy nothing before the freeze.
inline bool SourceWorksFirst(const crds::MigrationStatus& status) {
  return k8s::FindCondition(status.conditions, crds::kConverged) != nullptr;
}

// What spec says of a pre-copy, as its source is told. InvalidArgument when bandwidthLimit is no quantity.
absl::StatusOr<agent_api::PreCopyLimits> LimitsOf(const crds::MigrationSpec& spec);

}  // namespace godwit::controller
