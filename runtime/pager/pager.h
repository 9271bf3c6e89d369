// SPDX-License-Identifier: Apache-2.0
// The memory of one container's restored tasks, and how it is filled from their stores.
//
// Two threads: one reads what the tasks say (Serve), one fills (FillNext), and a third may give back what was
// filled (PunchNext). One lock is held over every reading of a message together with what follows from it,
// and over every installation together with the decision for it. This is what keeps pages from coming back
// that a task has dropped: reading the message lets the task go on. A fault goes before the filling, which
// takes the lock for one chunk at a time.
//
// Stores are filled from the lowest offset up, each chunk in every task that still wants it; only then it is
// given back. So a forked child, which wants what its parent wanted at the moment of the fork, needs nothing
// that was given back: what the parent had by then, the child has by copy-on-write.
//
// In a post-copy some pages are missing: what the store has of them is old, or nothing, and is never
// installed. Filling passes over them, and faults on them wait. A page that has come is late until it was
// filled: what waits for it gets it at once, and where the filling has passed by, it goes back for it, with
// the same rule.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/memory/page_set.h"
#include "agent/memory/range.h"
#include "base/clock.h"
#include "base/file.h"
#include "runtime/pager/agent_pages.h"
#include "runtime/pager/latencies.h"
#include "runtime/pager/layout.h"
#include "runtime/pager/ledger.h"
#include "runtime/pager/store.h"
#include "runtime/pager/userfault.h"

namespace godwit::pager {

// What is filled at a time, and a fault waits for at most: some 50 microseconds.
inline constexpr uint64_t kChunk = uint64_t{128} << 10;

struct Progress {
  int64_t remaining_bytes = 0;
  int64_t missing_bytes = 0;
  int64_t faults = 0;
  absl::Duration fault_p50, fault_p99;
  // Of those, faults on missing pages alone, from the fault until the page had come and was installed.
  int64_t pulled_faults = 0;
  absl::Duration pulled_p50, pulled_p99;
};

// Pages of a task's store.
struct StorePages {
  pid_t pid = 0;
  memory::Range offsets;
};

class Pager {
 public:
  // `watch` is called with each new userfaultfd, from any thread; it is non-blocking. `wanted` when there is
  // something for TakeWanted; it must not wait, nor call this object.
  Pager(Ledger& ledger, std::function<void(int)> watch, std::function<void()> wanted,
        Clock& clock = Clock::Real());
  ~Pager();

  // Takes over what an earlier pager has left in the ledger, and answers the message it died over.
  // `connection`: CRIU's, or -1.
  absl::Status Recover(int connection) ABSL_LOCKS_EXCLUDED(mutex_);
  // What the tasks' memory is in. A task without a store has no memory but zeros.
  absl::Status SetStores(std::vector<TaskStore> stores) ABSL_LOCKS_EXCLUDED(mutex_);

  // Missing pages. They have come: their content is in the store. InvalidArgument: there is no such store.
  absl::Status Arrived(const StorePages& pages) ABSL_LOCKS_EXCLUDED(mutex_);
  // All have come but those that this map names.
  absl::Status Narrow(pid_t pid, int map) ABSL_LOCKS_EXCLUDED(mutex_);
  // Those that were faulted on and not yet taken here, `most` at most. With `again`, first all that are
  // waited for count as not taken.
  std::vector<StorePages> TakeWanted(size_t most, bool again) ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether any is missing.
  bool missing() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The stores that have a map.
  std::vector<GivenStore> GivenStores() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes what CRIU has to say. False: it has closed the connection.
  absl::StatusOr<bool> ReceiveFromCriu(int connection) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes the messages of a userfaultfd; `since` is when they were noticed (Clock::Monotonic).
  absl::Status Serve(int uffd, absl::Duration since) ABSL_LOCKS_EXCLUDED(mutex_);

  // Fills the next chunk. False: all is filled, and the tasks' userfaultfds are closed. May take as long as
  // it takes a task to be through with a change of its mappings, or until `stop`.
  absl::StatusOr<bool> FillNext(const std::atomic<bool>& stop) ABSL_LOCKS_EXCLUDED(mutex_);
  // Gives back to the node what has been filled. False: that is not enough to be worth it.
  absl::StatusOr<bool> PunchNext() ABSL_LOCKS_EXCLUDED(mutex_);

  // remaining_bytes: that the stores still hold, never too few.
  absl::StatusOr<Progress> GetProgress() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Source;
  // The memory of one task.
  struct Space {
    int uffd = -1;
    Source* source = nullptr;
    Layout layout;
    bool forked = false;  // out of another one's; not every mapping is inherited
    bool gone = false;
  };
  // A store and the memories that are filled from it.
  struct Source {
    explicit Source(int fd) : store(fd) {}
    Store store;
    std::vector<std::unique_ptr<Space>> spaces;  // only grows
    std::atomic<uint64_t> punched{0};            // everything below
    memory::Range run;                           // without holes, that is being filled
    std::atomic<uint64_t> filled{0};             // everywhere below, but for what is late
    std::atomic<uint64_t> may_be_punched{0};     // below, too
    std::atomic<bool> done{false};
    // Of a post-copy; under the lock.
    int map = -1;                       // where `missing` is for a pager to come
    memory::PageSet missing;            // has not come
    memory::PageSet late;               // the same, or has come and is not filled everywhere
    std::deque<memory::Range> arrived;  // of `late`, to be filled
    memory::PageSet asked;              // of `missing`, taken by TakeWanted or about to be
    std::map<uint64_t, absl::Duration>
        awaited;          // of `missing`: offsets of pages that are waited for, since when
    bool passed = false;  // filled up to its end but for what is late
  };
  // What FillNext does next.
  struct Work {
    Source* source = nullptr;              // nullptr: nothing before some page arrives
    std::optional<memory::Range> arrived;  // no more than a chunk; else the next in order
  };

  void AddSource(pid_t pid, int fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Space& AddSpace(int uffd, Source& source) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddTask(const Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What a record that was kept means; without effects outside of this object.
  void Apply(const Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Forget(Space& space) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // CRIU's word is in the ledger's next record.
  absl::Status HandleWord(int connection, Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReceiveDescriptor(int connection, Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How many messages there were.
  absl::StatusOr<int> ReadMessages(Space& space, absl::Duration since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Handle(Space& space, const Record& record, absl::Duration since)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ServeFault(Space& space, uint64_t address, absl::Duration since)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether a page was installed.
  absl::StatusOr<bool> Install(Space& space, uint64_t page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // nullopt: the page at this address may be installed.
  std::optional<uint64_t> MissingOffset(const Space& space, uint64_t page) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Await(Source& source, uint64_t offset, absl::Duration since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Ask(Source& source, uint64_t offset) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WakeWaiting(const Source& source) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AddMap(pid_t pid, int map) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status HaveArrived(Source& source, memory::Range offsets) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  pid_t PidOf(const Source& source) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Installation> InstallAround(Space& space, uint64_t page)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<bool> IsWanted(const Space& space, memory::Range addresses) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status NoteMemory(bool enough) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::optional<Work> NextWork() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status FillInOrder(Source& source, const std::atomic<bool>& stop) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status FillArrived(Source& source, memory::Range offsets, const std::atomic<bool>& stop)
      ABSL_LOCKS_EXCLUDED(mutex_);
  memory::Range WithoutLate(Source& source, memory::Range chunk) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status EndIfFilled(Source& source) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status FillEverywhere(Source& source, memory::Range offsets, const char* pages,
                              const std::atomic<bool>& stop) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status FillSpace(Space& space, memory::Range offsets, const char* pages,
                         const std::atomic<bool>& stop) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Lets go of the lock until the space has messages, or some time has passed.
  absl::Status WaitForMessages(Space& space, absl::Duration waiting_since)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WaitForMemory() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Ledger& ledger_ ABSL_GUARDED_BY(mutex_);
  Milestones& milestones_;
  const std::function<void(int)> watch_;
  const std::function<void()> wanted_callback_;
  Clock& clock_;
  mutable absl::Mutex mutex_;
  std::atomic<int> urgent_{0};  // threads with messages that want the lock
  std::map<pid_t, Source*> by_pid_ ABSL_GUARDED_BY(mutex_);
  std::map<int, Space*> by_uffd_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Source>> sources_ ABSL_GUARDED_BY(mutex_);  // only grows
  std::optional<absl::Duration> out_of_memory_since_ ABSL_GUARDED_BY(mutex_);
  Latencies latencies_ ABSL_GUARDED_BY(mutex_);
  Latencies pulled_latencies_ ABSL_GUARDED_BY(mutex_);
  std::deque<StorePages> wanted_ ABSL_GUARDED_BY(mutex_);
  int arrivals_ ABSL_GUARDED_BY(mutex_) = 0;      // in all sources' `arrived`
  const std::unique_ptr<char[]> arrived_buffer_;  // of the thread that fills
  const std::unique_ptr<char[]> fault_buffer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::pager
