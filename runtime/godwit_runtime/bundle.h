// SPDX-License-Identifier: Apache-2.0
// What a bundle's config.json says that decides how `create` goes. It was written by containerd or CRI-O,
// from what a pod's author asked for: bounded, and believed only where the container runtime, not the pod, is
// the author.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::godwit_runtime {

inline constexpr size_t kMaxConfig = 8u << 20;  // bytes of a config.json

struct Bundle {
  bool is_container = false;  // a container of a pod, not its sandbox and nothing outside Kubernetes
  std::string sandbox_uid;    // the pod's UID
  std::string container;      // its name in the pod
  std::string migration;      // the pod's annotation godwit.io/migration: a claim, no proof
  std::string cgroup;         // below the cgroup2 mount: "/kubepods/...", both drivers resolved
  std::string rootfs;         // as config.json has it: absolute, or below the bundle
  std::string uts_path;       // the sandbox's UTS namespace
  bool terminal = false;
};

// The text of a config.json.
absl::StatusOr<Bundle> ParseBundle(absl::string_view config);
absl::StatusOr<Bundle> ReadBundle(const std::string& folder);

}  // namespace godwit::godwit_runtime
