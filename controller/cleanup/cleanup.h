// SPDX-License-Identifier: Apache-2.0
// What runs before Godwit is removed from a cluster (the chart's pre-delete hooks; order in docs/install.md).
// Both functions may be repeated, whatever an earlier run left, and say in the log what they did.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "k8s/api.h"

namespace godwit::controller {

struct CleanupOptions {
  std::string name_space;  // where controller and agents run
  absl::Duration timeout;  // for each thing that is waited for
};

// `godwit-controller cleanup`:
//   1. deletes Migrations, Checkpoints and Restores that have not ended and waits until the controller, which
//   still
//      runs, has put everything right and let them go (DeadlineExceeded, naming them, when it does not)
//   2. deletes the controller's Deployment and the agents' DaemonSet and waits until their pods are gone:
//   from here on
//      nobody writes any more
//   3. takes Godwit's finalizers off everything that is left, so that it can be deleted without a controller;
//   archives of
//      Checkpoints stay, they are somebody's data
//   4. removes the nodes' label godwit.io/runtime, the certificate authority, the Lease, and the RuntimeClass
//   unless a pod
//      still runs with it
absl::Status CleanUp(const k8s::Api& api, const CleanupOptions& options, Clock& clock = Clock::Real());

// `godwit-controller cleanup-nodes`: waits until the DaemonSet godwit-uninstall has cleaned every node, and
// logs what had to stay where. Nodes that are not Ready are told and left alone. DeadlineExceeded names the
// nodes that did not come to an end and why.
absl::Status WaitForCleanNodes(const k8s::Api& api, const CleanupOptions& options,
                               Clock& clock = Clock::Real());

}  // namespace godwit::controller
