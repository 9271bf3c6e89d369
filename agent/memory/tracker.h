// SPDX-License-Identifier: Apache-2.0
// Which pages of a running container were written since the last look. Userfaultfd in asynchronous
// write-protect mode, made in each task by ptrace injection (inject.h), read and re-armed by PAGEMAP_SCAN
// (kernel >= 6.7; Documentation/admin-guide/mm/pagemap.rst). Needs no soft-dirty.
//
//   Attach -> Round, Round, ... (the container runs) -> freeze -> Last -> (destroyed: detached)
//
// What is tracked: private anonymous mappings of all tasks ("owned" memory: the page engine carries it, CRIU
// does not), but for those that CRIU cannot restore empty (maps.h). `owned` is of the moment of its look.
// Every page of `dirty` and `populated` could be read through /proc/PID/mem, but not all by
// process_vm_readv(2), which minds PROT_NONE. A task or a mapping that appears between two looks is all dirty
// at the next. Where it is asked for, also the objects of anonymous shared memory that tasks map
// (shared_objects.h): which of their pages were written is not known, so that a look says what they hold, to
// be compared with what was sent. The tracker's userfaultfds are the agent's alone: when it goes, by
// intention or not, the kernel drops the registrations and the tasks run on as if nothing had been. Not
// thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/memory/range.h"

namespace godwit::memory {

// Whether this kernel can track: nothing is touched to find out. FailedPrecondition says what is missing
// ("kernel 6.1 has no PAGEMAP_SCAN (6.7 and newer have)").
absl::Status CheckTrackerSupport();

// One task's memory at one look, or an object's of shared memory; for that, both ids are its key
// (shared_key.h), and addresses are offsets in it.
struct TaskPages {
  pid_t pid = 0;            // in the reader's pid namespace (the host's)
  pid_t container_pid = 0;  // in the innermost one, by which CRIU names its images
  Ranges owned;             // the mappings that the engine carries
  Ranges dirty;             // pages to be sent: written since the last look, or never looked at
  Ranges populated;         // of Last alone: pages that have content; all other owned pages read as zeros
};

struct Look {
  std::vector<TaskPages> tasks;   // sorted by container_pid
  std::vector<TaskPages> shared;  // dirty is all that has content; sorted by key
  uint64_t dirty_bytes() const;   // of tasks
  uint64_t owned_bytes() const;   // of all
  absl::Duration took;
};

// Frozen tasks can be killed. OK when the last look tells of all whose memory CRIU was told to leave out (by
// pid, or an object's key); DataLoss names one that has ended: nobody has its memory.
absl::Status CheckNoneEnded(const Look& last, const std::map<pid_t, Ranges>& left_out);

// Why a container's memory cannot be tracked though the kernel could (pinned memory defeats write protection:
// O_DIRECT descriptors, AIO rings, io_uring, RDMA). Empty: nothing found.
struct Pinned {
  std::string what;  // for a person: "process 12 (postgres) has 3 files open with O_DIRECT"
};

class Tracker {
 public:
  // Attaches to every task of the cgroup2 folder. Each task stands still for less than a millisecond.
  // FailedPrecondition: it cannot be tracked (a tracer is there already, a userfaultfd is on its memory), and
  // nothing was changed. DeadlineExceeded: a task did not stop within a second (it waits for a disk). Locked
  // memory is no obstacle: it is not owned. Pinned memory is not looked for: FindPinned.
  struct Options {
    bool shared_memory = false;  // looks tell of it as well
  };
  static absl::StatusOr<std::unique_ptr<Tracker>> Attach(const std::string& proc, const std::string& cgroup,
                                                         const Options& options);
  static absl::StatusOr<std::unique_ptr<Tracker>> Attach(const std::string& proc, const std::string& cgroup) {
    return Attach(proc, cgroup, Options());
  }
  // Detaches. Also right when the container is frozen, or gone.
  ~Tracker();

  // One look at a running container: reports what was written since the last look and re-arms it before it
  // returns, so that a page that is read afterwards and written meanwhile is dirty in the next look.
  // Processes that are new, and do not stop within 100 ms each and two seconds together, are all dirty in it
  // and are tried again in the next.
  absl::StatusOr<Look> Round();

  // Of a frozen container, which mappings are carried (TaskPages::owned alone is filled): no page is looked
  // at, so it costs microseconds, and CRIU can begin while Last looks at the pages.
  absl::StatusOr<Look> Owned();

  // The last look, at a container whose cgroup is frozen; nothing is injected and nothing re-armed. What
  // could not be registered before (new mappings, new tasks) is dirty as a whole. Shared memory is that of
  // the look before. Where the container is thawed after all, rounds may go on.
  absl::StatusOr<Look> Last();

  // All of an object of shared memory, to be read; valid until the next Round or Owned. Null: the last look
  // did not tell of it. To read what has no content takes memory.
  const char* SharedMemory(pid_t key) const;

  // Memory that is written past the page tables, as far as /proc tells; looked at anew in each call.
  std::vector<Pinned> FindPinned() const;

 private:
  class Impl;
  explicit Tracker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::memory
