// SPDX-License-Identifier: Apache-2.0
// What a Restore needs next. The same shape as a Migration's decision: what was seen and the time decide, one
// write.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "controller/nodes/node_view.h"
#include "controller/runtime/tell.h"
#include "crds/checkpoint.h"
#include "crds/restore.h"
#include "k8s/pod.h"
#include "k8s/unstructured.h"

namespace godwit::controller {

struct RestoreObserved {
  crds::Restore restore;                       // read from the API server for this look
  std::optional<crds::Checkpoint> checkpoint;  // the one named in spec.checkpointRef
  NodeView archive_node;                       // with the agent's answer while Pending
  NodeView target_node;              // the same; spec.target.nodeName, the archives' node, or as chosen
  std::vector<NodeView> candidates;  // Pending with a nodeSelector
  std::string selector;
  // From the archives, checked against the Checkpoint; while it is needed.
  absl::StatusOr<k8s::Unstructured> manifest = absl::NotFoundError("not asked");
  int restores_in_work = 0;     // Pending: others of this namespace
  std::string pod_name;         // that the new pod gets; "" while that is not known
  std::optional<k8s::Pod> pod;  // of that name
  std::string warning;          // what was last complained about it in its events, once it takes long
  // Restoring and after; state None when the agent knows nothing of the Restore.
  absl::StatusOr<agent_api::TargetStatus> side = agent_api::TargetStatus{};
};

struct RestoreSettings {
  absl::Duration create_limit = absl::Seconds(100);
  absl::Duration agent_patience = absl::Seconds(60);
  absl::Duration cleanup_patience = absl::Seconds(60);
  absl::Duration sandbox_limit = absl::Seconds(60);     // for kubelet to make the pod's sandbox
  absl::Duration limit = absl::Minutes(10);             // from Restoring to the running pod
  absl::Duration checkpoint_limit = absl::Minutes(30);  // for a Checkpoint that is not Ready yet
  int64_t spare_bytes = int64_t{64} << 20;
  int stream_port = agent_api::kDefaultStreamPort;
};

enum class RestoreStep {
  kNothing,
  kAddFinalizer,
  kRemoveFinalizer,
  kCreatePod,
  kPermit,  // PUT restore
  kOpenGate,
  kMarkCommitted,  // the pod's processes run: it is a pod as any other
  kAbort,
  kDeletePod,
  kForget,
};

struct RestoreDecision {
  crds::RestoreStatus status;  // when it differs from the Restore's, it is the write
  std::vector<Tell> tells;
  RestoreStep step = RestoreStep::kNothing;
  absl::Duration again = absl::InfiniteDuration();
};

RestoreDecision Decide(const RestoreObserved& seen, const RestoreSettings& settings, absl::Time now);

// The API server or the agent refused `step`; the status is unchanged when trying again may help.
RestoreDecision OnRefused(const RestoreObserved& seen, const RestoreSettings& settings, RestoreStep step,
                          const absl::Status& error, absl::Time now);

}  // namespace godwit::controller
