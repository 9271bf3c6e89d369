// SPDX-License-Identifier: Apache-2.0
// What the pod object alone tells about whether a pod can be moved or checkpointed. What its processes tell
// is the agent's preflight.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/pods/whole_pod.h"
#include "crds/common.h"
#include "k8s/apps.h"

namespace godwit::controller {

// Blocking findings, the plainest first; empty when nothing stands in the way.
std::vector<crds::Finding> WhyNotMovable(const WholePod& pod);

// The same for the pod's owner: none, or a ReplicaSet that a Deployment owns. `replica_set` is the owner as
// it was read; null when the pod has no such owner or it does not exist.
std::optional<crds::Finding> WhyOwnerUnsupported(const k8s::Pod& pod, const k8s::ReplicaSet* replica_set);

// What does not stand in the way, but should be known.
std::vector<crds::Finding> WorthKnowing(const WholePod& pod);

// Images that `node`'s kubelet does not list among `images` (it lists no more than 50 of them).
std::vector<crds::Finding> ImagesMissing(const k8s::Pod& pod, const std::vector<std::string>& images,
                                         const std::string& node);

// A pod of `pods` on `node` that has a host port which `pod` needs too.
std::optional<crds::Finding> HostPortTaken(const k8s::Pod& pod, const std::vector<k8s::Pod>& pods,
                                           const std::string& node);

// The longest that the pod may stand still: (failureThreshold - 1) x period of its tightest liveness probe
// (and of a startup probe that has not succeeded yet), and never more than `cap`. FailedPrecondition when a
// probe leaves no time at all.
absl::StatusOr<absl::Duration> FreezeLimit(const k8s::Pod& pod, absl::Duration cap);

// Whether kubelet counts failures of some probe against the pod and would kill containers that stand still
// for longer.
bool HasLivenessProbe(const k8s::Pod& pod);

}  // namespace godwit::controller
