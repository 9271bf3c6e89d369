// SPDX-License-Identifier: Apache-2.0
// Where a container's processes are counted: cgroup v2 paths as runtimes write them and as the kernel shows
// them.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::runtime {

// linux.cgroupsPath of a bundle's config.json as a path below the cgroup2 mount, beginning with '/'. Both
// drivers' forms: cgroupfs "/kubepods/besteffort/podX/ID", systemd
// "kubepods-besteffort-podX.slice:cri-containerd:ID" (OCI runtime's notation: slice, prefix, name).
// InvalidArgument for anything else, also for ".." in it.
absl::StatusOr<std::string> ResolveCgroupsPath(absl::string_view cgroups_path);

// The cgroup2 path of a process below the mount, from <proc>/<pid>/cgroup. NotFound when the process is gone;
// FailedPrecondition when it lies outside of the reader's cgroup namespace, where its path means nothing.
absl::StatusOr<std::string> CgroupOfProcess(const std::string& proc, pid_t pid);

// The folder of the pod that a container's cgroup folder lies in, as kubelet names it: ".../podUID", by
// systemd
// "...-podUID.slice" with '_' for '-'. Empty when it is another folder.
std::string PodCgroup(absl::string_view container_cgroup, absl::string_view pod_uid);

// Processes in the cgroup2 folder and the folders below it, sorted.
absl::StatusOr<std::vector<pid_t>> ProcessesInCgroup(const std::string& folder);

}  // namespace godwit::runtime
