// SPDX-License-Identifier: Apache-2.0
// The memory of a pod's containers on its way to the target, while they run and at last while they stand
// still: one tracker and one sender for each container. Knows nothing of stages; source_copy.cc drives it.
// One thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/memory/tracker.h"
#include "agent/migration/convergence.h"
#include "agent/runtime/weight.h"
#include "agent/transfer/page_sender.h"
#include "agent/transfer/stream.h"

namespace godwit::migration {

// memory::Tracker as a pre-copy sees it; a seam for tests.
class TrackedMemory {
 public:
  virtual ~TrackedMemory() = default;
  virtual absl::StatusOr<memory::Look> Round() = 0;
  virtual absl::StatusOr<memory::Look> Owned() = 0;
  virtual absl::StatusOr<memory::Look> Last() = 0;
  virtual const char* SharedMemory(pid_t key) const = 0;
  virtual std::vector<memory::Pinned> FindPinned() const = 0;
};

struct MemoryNode {
  // Attaches to the tasks of a cgroup2 folder; FailedPrecondition when they cannot be tracked.
  std::function<absl::StatusOr<std::unique_ptr<TrackedMemory>>(const std::string& cgroup)> track;
  transfer::PageSender::Read read;
  // The tasks of a cgroup2 folder: pids here, by their pids inside the container.
  std::function<absl::StatusOr<std::map<pid_t, pid_t>>(const std::string& cgroup)> tasks;
  // Opens the memory of a task. When that ends the reader finds nothing any more, whoever gets its pid then.
  using ReadOne = std::function<absl::StatusOr<size_t>(uint64_t address, char* to, size_t size)>;
  std::function<absl::StatusOr<ReadOne>(pid_t task)> open;
  // FailedPrecondition where the tasks of a cgroup2 folder would not fit its limit if each had memory of its
  // own (memory::FitsUnshared). Empty: not asked.
  std::function<absl::Status(const std::string& cgroup)> fits;
  // What CRIU will have to look at in a cgroup2 folder. Empty: not known.
  std::function<agent_api::Weight(const std::string& cgroup)> weigh;
  // What CRIU would have to copy of a cgroup2 folder if nobody else carried any of it, as far as it is seen
  // within `limit`. Empty: not known.
  std::function<runtime::Contents(const std::string& cgroup, absl::Duration limit)> contents;
  // The private memory of its processes now, `but` for these. Empty: not known.
  std::function<std::map<pid_t, runtime::Contents::Private>(const std::string& cgroup,
                                                            const std::set<pid_t>& but)>
      private_memory;
};
// What `memory` tracks: of a task by `node`, of a shared object (memory::IsShared) where the tracker has it
// mapped.
absl::StatusOr<size_t> ReadTracked(const MemoryNode& node, const TrackedMemory& memory, pid_t task,
                                   uint64_t address, char* to, size_t size);
// The real one. `proc` with the host's process ids.
MemoryNode RealMemory(const std::string& proc, const memory::Tracker::Options& options);

// Attaches to what a migration can carry: its tasks have memory of their own at the target.
// FailedPrecondition says why not.
absl::StatusOr<std::unique_ptr<TrackedMemory>> Track(const MemoryNode& node, const std::string& cgroup);

// FailedPrecondition while the container has memory that the kernel writes past its page tables. nullptr:
// none is tracked, and it does not matter.
absl::Status CheckPinned(const TrackedMemory* memory, absl::string_view container);

// A process' memory, as looks have told of it.
struct Told {
  memory::Ranges pages;    // with content, that are mapped and carried
  int64_t criu_bytes = 0;  // private memory beyond, that CRIU has to copy
};
// For what processes have mapped and open in a container, before the first look, when nothing presses.
inline constexpr absl::Duration kFirstContentsLimit = absl::Seconds(1);

// A round of `memory`, and what CRIU would have to copy: of each process' private memory the less of what it
// had before the look and after it, for what it takes or gives back while it goes on is not CRIU's.
struct LookAndContents {
  memory::Look look;
  runtime::Contents contents;
};
absl::StatusOr<LookAndContents> LookAround(const MemoryNode& node, TrackedMemory& memory,
                                           const std::string& cgroup, absl::Duration limit);

// How many bytes CRIU has to copy of a container that had `contents` just before this look. `told`: of the
// looks before, by host pid; takes this one's.
int64_t LeftToCriu(const runtime::Contents& contents, const memory::Look& look, std::map<pid_t, Told>& told);

class PreCopy {
 public:
  struct Container {
    std::string name;
    std::string cgroup;  // cgroup2 folder as seen from here
  };
  // `bucket` outlives it; nullptr: no limit.
  PreCopy(std::vector<Container> containers, const MemoryNode& node, transfer::TokenBucket* bucket);

  // Tracks all containers, or none: FailedPrecondition says why the memory of one cannot be.
  absl::Status Attach();

  // The stream to send over; after a cut, a new one: what had not been acknowledged is sent again with the
  // next round.
  void SetStream(transfer::Stream* stream);

  // Looks at all containers and sends what was written since the last look; `nice`: giving way to whoever
  // else wants the processors, the pod itself among them. Tells, too, what nobody but CRIU will carry.
  absl::StatusOr<RoundFigures> Round(bool nice, absl::Time deadline);
  // All that was sent so far has arrived.
  void Acknowledge();

  // The containers stand still. What CRIU is to leave out (criu_environment.h: kHiddenPagesVariable); then,
  // while it dumps, the last pages and what the memory is made of. `leave`: pages of tasks are not sent but
  // named, for the target to pull; returns how many bytes they are, else 0.
  absl::StatusOr<std::string> LookOwned(size_t container);
  absl::StatusOr<int64_t> SendLast(size_t container, bool leave, absl::Time deadline);

  // What no round makes shorter, as the containers are now.
  FixedPart Fixed() const;

  // Memory that would be lost: it is written behind the tracker's back. OK when there is none.
  absl::Status CheckPinned() const;

  const transfer::PageTotals& totals() const { return totals_; }
  // What CRIU would have had to copy itself at the last round, that of small processes included. nullopt: not
  // all of it was seen.
  std::optional<int64_t> criu_bytes() const { return criu_bytes_; }
  // Whether any memory that was carried was shared.
  bool carries_shared() const { return carries_shared_; }
  // The processes that are there now and that no round has seen, in all containers: what they have goes over
  // whole.
  struct Unseen {
    int64_t bytes = 0;
    std::string which;  // for a person: "process 12 (redis-server) of container app", the largest
  };
  Unseen FindUnseen() const;

 private:
  struct Part {
    Container container;
    std::unique_ptr<TrackedMemory> memory;
    std::unique_ptr<transfer::PageSender> sender;
    // By host pid, or an object's key: what CRIU was told to leave out.
    std::map<pid_t, memory::Ranges> owned;
    std::map<pid_t, Told> told;  // by host pid: all processes that the last round has seen
    runtime::Contents contents;  // as the last round has seen them
  };
  // What comparing shared memory with what was sent has found and taken.
  struct Compared {
    int64_t different = 0;  // bytes
    absl::Duration took;
  };
  absl::Status SendLook(Part& part, const memory::Look& look, absl::Time deadline);
  absl::StatusOr<Compared> SendShared(Part& part, const std::vector<memory::TaskPages>& shared,
                                      absl::Time deadline);
  absl::Status SendAgain(Part& part, const memory::Look& look, absl::Time deadline);
  absl::StatusOr<int64_t> LeaveLast(Part& part, const memory::Look& look, absl::Time deadline);

  const MemoryNode node_;
  std::vector<Part> parts_;
  transfer::Stream* stream_ = nullptr;
  bool again_ = false;  // the stream is a new one
  absl::Time looked_at_ = absl::InfinitePast();
  transfer::PageTotals totals_;
  std::optional<int64_t> criu_bytes_;
  bool carries_shared_ = false;
};

}  // namespace godwit::migration
