// SPDX-License-Identifier: Apache-2.0
// Memory that processes share since fork(2), page by page until one of them writes. Pages move by process: at
// the target each has its own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace godwit::memory {

// How many bytes more these processes would take if none shared anonymous memory with another: what each maps
// of it less its share, by /proc/PID/smaps_rollup (proc(5)). Processes that cannot be read count for nothing.
int64_t SharedByFork(const std::string& proc, const std::vector<pid_t>& pids);

// Whether the processes of a cgroup2 folder would still fit its limit (memory.max) then. FailedPrecondition,
// with the figures, where they would not; OK where there is no limit, or none can be read.
absl::Status FitsUnshared(const std::string& proc, const std::string& cgroup);

}  // namespace godwit::memory
