// SPDX-License-Identifier: Apache-2.0
// Where a pod's emptyDirs lie on the host, told by the mounts of its containers.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/runtime/containers.h"

namespace godwit::runtime {

// The mounts in the config.json of a bundle (host path) whose container may not run yet.
absl::StatusOr<std::vector<BundleMount>> ReadBundleMounts(const HostView& host, const std::string& bundle);

// The host folder of one of the pod's emptyDirs as these mounts name it; empty when none of them is of that
// volume.
std::string EmptyDirFolder(const std::vector<BundleMount>& mounts, absl::string_view pod_uid,
                           absl::string_view volume);

}  // namespace godwit::runtime
