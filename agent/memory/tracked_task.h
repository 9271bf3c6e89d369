// SPDX-License-Identifier: Apache-2.0
// One process under the tracker. A look at it has three steps, so that the looks at many processes can share
// threads: Plan, Scan of each piece, Take.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/memory/maps.h"
#include "agent/memory/pagemap_scan.h"
#include "agent/memory/range.h"
#include "agent/memory/task_status.h"
#include "agent/memory/tracker.h"
#include "agent/memory/uffd.h"

namespace godwit::memory {

// kOwned: which mappings are carried, no page is looked at.
enum class LookKind { kRound, kOwned, kLast };

class TrackedTask {
 public:
  TrackedTask(std::string proc, pid_t pid) : proc_(std::move(proc)), pid_(pid) {}
  ~TrackedTask() { Detach(); }
  TrackedTask(const TrackedTask&) = delete;
  TrackedTask& operator=(const TrackedTask&) = delete;

  // Part of a mapping, small enough to share the work.
  struct Piece {
    Range range;
    bool known = false;  // looked at before, so that what is not written since need not be sent again
    // What Scan finds.
    bool owned = true;
    bool armed = false;
    PagemapScan::Pages pages;  // `written` is what is dirty
    absl::Status status;
  };

  pid_t pid() const { return pid_; }
  bool attached() const { return protection_.has_value(); }

  // Injects and registers all that there is. Errors as of InjectUserfaultfd; FailedPrecondition also when a
  // userfaultfd is on the memory already.
  absl::Status Attach(absl::Duration limit);
  // A little at a time (WriteProtection::Unregister), but for what was mapped since the last look that went
  // well.
  void Detach();
  // All memory counts as never looked at.
  void Forget() { known_.clear(); }

  // Finds the pieces. NotFound: the process is gone. A process that is not attached is looked at as a whole.
  absl::Status Plan(LookKind kind);
  std::vector<Piece>& pieces() { return pieces_; }
  // The shared memory that Plan saw mapped.
  const std::vector<SharedMapping>& shared() const { return shared_; }
  // May run for several pieces at the same time.
  void Scan(LookKind kind, Piece& piece) const;

  // Whether an exec gave the process other memory in between. It is detached then, and to be looked at again.
  bool DetachIfMemoryGone();
  // NotFound: the process has ended since.
  absl::StatusOr<TaskPages> Take(LookKind kind);

 private:
  absl::Status RegisterAll();
  absl::StatusOr<AddressSpace> ReadMappings() const;
  void ScanKnown(LookKind kind, Piece& piece) const;
  void LookWhetherOwned(Piece& piece) const;
  void ScanWhole(LookKind kind, Piece& piece) const;

  const std::string proc_;
  const pid_t pid_;
  std::optional<WriteProtection> protection_;
  // With protection_, as Attach found it or the last look that went well. No more than that: before
  // Linux 6.17 one userfaultfd could end another's registration, one of the task's own perhaps.
  Ranges registered_;
  Ranges known_;  // registered, looked at and armed at the last Round
  Ranges told_;   // what the last look for kOwned found; kLast must find it, too

  // Of the look that is going on.
  TaskStatus status_;
  std::optional<PagemapScan> scan_;
  std::vector<Piece> pieces_;
  std::vector<SharedMapping> shared_;
  mutable std::atomic<bool> memory_gone_ = false;
};

}  // namespace godwit::memory
