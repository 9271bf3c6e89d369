// SPDX-License-Identifier: Apache-2.0
// What /proc says of a container's processes, as far as a freeze depends on it. `proc` is where procfs is
// mounted, with the host's process ids.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace godwit::runtime {

struct Process {
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t tracer = 0;
  char state = '?';      // R, S, D, T, t, Z, ...
  std::string command;   // comm: at most 15 characters that the process chose
  uint64_t pending = 0;  // signals pending for the whole process or one of its threads; bit n-1 is signal n
  int64_t resident_bytes = 0;  // anonymous and shared memory (RssAnon + RssShmem)
  int64_t shared_bytes = 0;    // of that shared (RssShmem): all of it that its page tables have
  int64_t swapped_bytes = 0;   // anonymous memory in the swap (VmSwap)
};

// What its status says, without a look at its threads: of `pending` only what is for the whole process.
// NotFound when the process is gone.
absl::StatusOr<Process> ReadProcessStatus(const std::string& proc, pid_t pid);

// NotFound when the process is gone.
absl::StatusOr<Process> ReadProcess(const std::string& proc, pid_t pid);

// The processes of a cgroup2 folder; such as end meanwhile are left out.
absl::StatusOr<std::vector<Process>> ReadProcesses(const std::string& proc, const std::string& cgroup);

// Those of `processes` that do not descend from `init`: an exec probe or `kubectl exec` in flight, which CRIU
// cannot take along.
std::vector<Process> OutsideTree(const std::vector<Process>& processes, pid_t init);

// Those with SIGTERM or SIGKILL pending: they are being ended, and CRIU would carry the signal to the target.
std::vector<Process> BeingEnded(const std::vector<Process>& processes);

// "12 (sleep), 13 (sh)", at most five.
std::string Describe(const std::vector<Process>& processes);

}  // namespace godwit::runtime
