// SPDX-License-Identifier: Apache-2.0
// What a Checkpoint needs next. The same shape as a Migration's decision: what was seen and the time decide,
// one write.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "controller/nodes/node_view.h"
#include "controller/pods/whole_pod.h"
#include "controller/runtime/tell.h"
#include "crds/checkpoint.h"

namespace godwit::controller {

struct CheckpointObserved {
  crds::Checkpoint checkpoint;  // read from the API server for this look
  std::optional<WholePod> pod;  // the pod named in spec.podRef
  NodeView node;                // the pod's, later the one that holds the archives
  std::string migration;        // a Migration of this pod that is under way
  std::string older;            // an older Checkpoint of this pod that is being made
  std::string restore;          // a Restore that reads the archives now
  std::string manifest;         // the pod as it would be made again; Running only
  std::string manifest_digest;  // of it
  // Pending only.
  absl::StatusOr<agent_api::PreflightReport> preflight = absl::NotFoundError("not asked");
  bool preflight_waits = false;  // others have their turn
  // From Running on; state None when the agent knows nothing of the Checkpoint.
  absl::StatusOr<agent_api::CheckpointStatus> side = agent_api::CheckpointStatus{};
};

struct CheckpointSettings {
  absl::Duration freeze_cap = absl::Seconds(90);
  absl::Duration agent_patience = absl::Seconds(60);
  absl::Duration limit = absl::Minutes(30);  // from the beginning to the finished archives
  int64_t spare_bytes = int64_t{64} << 20;   // that must stay free on the node
};

enum class CheckpointStep {
  kNothing,
  kAddFinalizer,
  kRemoveFinalizer,
  kTake,            // PUT checkpoint
  kRemoveArchives,  // DELETE checkpoint
};

struct CheckpointDecision {
  crds::CheckpointStatus status;  // when it differs from the Checkpoint's, it is the write
  std::vector<Tell> tells;
  CheckpointStep step = CheckpointStep::kNothing;
  absl::Duration again = absl::InfiniteDuration();
};

CheckpointDecision Decide(const CheckpointObserved& seen, const CheckpointSettings& settings, absl::Time now);

// The agent refused kTake.
CheckpointDecision OnTakeRefused(const CheckpointObserved& seen, const CheckpointSettings& settings,
                                 const absl::Status& error, absl::Time now);

}  // namespace godwit::controller
