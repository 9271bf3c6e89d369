// SPDX-License-Identifier: Apache-2.0
// How far a pod that we made, or that we delete, has come; from its object alone.
#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "k8s/pod.h"

namespace godwit::controller {

// Why something failed: a CamelCase reason for machines, a sentence for people.
struct Failure {
  std::string reason;
  std::string message;
  bool operator==(const Failure&) const = default;
};

// Why a pod that is to start never will, or not soon: no room on its node, an image that cannot be had, a
// container that cannot be created. What kubelet or the scheduler said is quoted.
std::optional<Failure> WhyNotStarting(const k8s::Pod& pod);

// kubelet cannot make the pod's sandbox, and has tried for `limit` since the pod was scheduled. `warning`:
// what was last complained about the pod in its events.
std::optional<Failure> WhyNoSandbox(const k8s::Pod& pod, const std::string& warning, absl::Duration limit,
                                    absl::Time now);

// Why kubelet can make no folder for the pod's logs; the pod's UID is part of the folder's name.
std::optional<Failure> WhyNameTooLong(const std::string& name_space, const std::string& pod);

bool HasPermitGate(const k8s::Pod& pod);
bool IsCommitted(const k8s::Pod& pod);  // our readiness gate's condition is true

// When the deletion was asked for; InfiniteFuture unless it was.
absl::Time DeletionRequested(const k8s::ObjectMeta& meta);

// Whether kubelet knows that the pod is being deleted, so that it restarts nothing any more: its status
// speaks of the pod's last generation. Kubelets that do not say (before 1.33) are trusted `patience` after
// the request; others never: one that does not reach the API server would start again what is killed.
bool KubeletSawDeletion(const k8s::Pod& pod, absl::Duration patience, absl::Time now);

}  // namespace godwit::controller
