// SPDX-License-Identifier: Apache-2.0
// The mounts that a container sees, from /proc/<pid>/mountinfo (proc(5)).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::runtime {

struct Mount {
  int id = 0;
  int parent = 0;
  std::string device;  // "major:minor": st_dev of its files (of its folders, for an overlay)
  std::string root;    // within its file system
  std::string point;   // as the process sees it
  std::string type;    // "overlay", "tmpfs", ...
  std::string source;
  std::string options;        // of the mount
  std::string super_options;  // of the file system
};

absl::StatusOr<std::vector<Mount>> ParseMountInfo(absl::string_view text);
// Of a process of the host.
absl::StatusOr<std::vector<Mount>> ReadMounts(const std::string& proc, pid_t pid);
// Of a process of a container: NotFound for one that has ended or is about to, ResourceExhausted when it has
// more than about 5000 mounts, as nobody needs. The kernel takes a time for the list that grows with its
// square.
absl::StatusOr<std::vector<Mount>> ReadContainerMounts(const std::string& proc, pid_t pid);

// Mount::device of what is at `path`.
absl::StatusOr<std::string> DeviceOf(const std::string& path);

// upperdir of the file system with this device. FailedPrecondition when it is no overlay or read-only without
// one. What a container sees is its own word: see layer.h.
absl::StatusOr<std::string> WritableLayer(const std::vector<Mount>& mounts, absl::string_view device);

}  // namespace godwit::runtime
