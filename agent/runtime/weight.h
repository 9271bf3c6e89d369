// SPDX-License-Identifier: Apache-2.0
// How many things CRIU has to look at in each process of a container: what its part of a freeze depends on
// when the memory is not its business.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "agent/api/messages.h"

namespace godwit::runtime {

// Of these processes, as `proc` (with the host's process ids) shows them now. One that ends meanwhile counts
// as what was seen of it. What a process may have without end is counted up to a million.
agent_api::Weight Weigh(const std::string& proc, const std::vector<pid_t>& processes);

// Bytes of files without a name that these processes have open, each file once: CRIU's images have them as
// they are. A file system that does not answer (FUSE, NFS) is not waited for. What is not seen until the
// deadline (SteadyNow) does not count.
struct Held {
  int64_t deleted = 0;
  int64_t memfds = 0;  // what is mapped of them is resident memory, too
};
Held HeldBytes(const std::string& proc, const std::vector<pid_t>& processes,
               absl::Time deadline = absl::InfiniteFuture());

// Of all processes of a cgroup2 folder; nothing when that is gone.
agent_api::Weight WeighCgroup(const std::string& proc, const std::string& cgroup);

}  // namespace godwit::runtime
