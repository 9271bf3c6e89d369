// SPDX-License-Identifier: Apache-2.0
// Which files a container's processes have mapped shared and writable: they may change with no time of theirs
// telling (agent/files/changes.h).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/files/snapshot.h"

namespace godwit::migration {

// Adds those of `pids`, which are of one container; such as end meanwhile are left out. `proc` is procfs with
// the host's process ids; `layer` the container's writable layer (the upper folder of its root overlay),
// open.
//
// A mapping's device and inode are those of the file as the process sees it, which in an overlay are not
// those of the file in the upper folder (since Linux 6.8, and for files that were copied up): there the path
// counts.
absl::Status AddMappedFiles(const std::string& proc, const std::vector<pid_t>& pids, int layer,
                            files::MappedFiles& mapped);

}  // namespace godwit::migration
