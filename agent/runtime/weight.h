// SPDX-License-Identifier: Apache-2.0
// How many things CRIU has to look at in each process of a container: what its part of a freeze depends on
// when the memory is not its business. And how much memory is its business when nobody else carries it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
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

// What CRIU's images have of processes unless somebody else carries it: bytes that are there, never the
// length of a mapping.
struct Contents {
  struct Private {
    std::string command;  // printable
    int64_t bytes = 0;    // in private mappings, also of files: RssAnon and VmSwap (proc_pid_status(5))
  };
  std::map<pid_t, Private> processes;
  // Objects that are mapped, made by mmap(MAP_SHARED | MAP_ANONYMOUS), by inode number.
  std::map<uint64_t, int64_t> anonymous;
  bool complete = true;  // there was time for all of it
  // Memfds, SysV segments and files in /dev/shm that are mapped, memfds and deleted files that are open: each
  // once.
  int64_t files = 0;
};

// Of these processes; one that has ended counts for nothing, nor does what is not seen until the deadline
// (SteadyNow). Where this process may not ask for what others have mapped (it takes a privilege over the
// whole machine, agent/memory/shared_objects.h), `files` is at least the most shared memory that one of them
// has resident.
Contents ContentsOf(const std::string& proc, const std::vector<pid_t>& processes,
                    absl::Time deadline = absl::InfiniteFuture());

// The processes' private memory alone: microseconds for each.
std::map<pid_t, Contents::Private> PrivateBytes(const std::string& proc, const std::vector<pid_t>& processes);

}  // namespace godwit::runtime
