// SPDX-License-Identifier: Apache-2.0
// What the container runtime knows at this moment, asked over its CRI socket: its runtime handlers (a
// configuration file says only what it will know after its next restart), and whether it still means to start
// a container.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace godwit::install {

// The names of the handlers, sorted; "" is not among them. `socket` is a path, e.g.
// /run/containerd/containerd.sock. Unavailable when nobody answers there.
absl::StatusOr<std::vector<std::string>> RuntimeHandlers(const std::string& socket, absl::Duration limit);

// The handlers in the bytes of a StatusResponse (k8s.io/cri-api, runtime.v1): those of its field
// runtime_handlers (since Kubernetes 1.30) and those in the verbose "config" that older containerds give.
absl::StatusOr<std::vector<std::string>> HandlersInStatus(absl::string_view response);

// A pod's addresses as the runtime, which gave it them, knows them; none for a pod in the host's network.
// Unavailable when nobody answers, NotFound when there is no such sandbox.
absl::StatusOr<std::vector<std::string>> PodAddresses(const std::string& socket,
                                                      const std::string& sandbox_id, absl::Duration limit);

// The same, by the bytes of a PodSandboxStatusResponse (k8s.io/cri-api, runtime.v1).
absl::StatusOr<std::vector<std::string>> AddressesIn(absl::string_view response);

// InvalidArgument when one of `asked` is none of `own`, however each is written.
absl::Status CheckAddresses(const std::vector<std::string>& asked, const std::vector<std::string>& own);

// OK while the runtime starts the container, or has started it. FailedPrecondition: it has given that up, as
// when the caller of StartContainer is gone (kubelet was restarted), and nobody would know of a process that
// came to be nevertheless. Unavailable when nobody answers.
absl::Status ContainerIsStarted(const std::string& socket, const std::string& container_id,
                                absl::Duration limit);

// The same, by the bytes of a ContainerStatusResponse (k8s.io/cri-api, runtime.v1).
absl::Status IsStartedIn(absl::string_view response);

}  // namespace godwit::install
