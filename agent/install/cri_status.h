// SPDX-License-Identifier: Apache-2.0
// Which runtime handlers the container runtime knows at this moment, asked over its CRI socket: a
// configuration file says only what it will know after its next restart.
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

}  // namespace godwit::install
