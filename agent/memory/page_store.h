// SPDX-License-Identifier: Apache-2.0
// The memory of one container on its way to be restored: a memfd for each task, sparse, in which a page lies
// at the offset of its address. A page that is not there reads as zeros. godwit-pager gets the memfds
// (page_server.h) and punches what it has installed, so that memory is not held twice for long. The memory is
// charged to the cgroup of whoever writes. Thread-safe; writes to one task wait for each other.
//
// In a post-copy pages may be missing: the task had them, and what the file holds of them is old, or nothing.
// They count as held. Arrive brings them, one after the other, while the pager fills from the file.
//
// Objects of shared memory are kept beside the tasks, under their keys (shared_key.h), a page at its offset.
// Such a memory file is what mmap(MAP_SHARED | MAP_ANONYMOUS) makes: the restore gives it to the tasks
// themselves (HandOver), and nothing is copied. So none of their pages is ever missing.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "agent/memory/range.h"
#include "base/file.h"

namespace godwit::memory {

// No task has memory there or beyond (x86-64 with five levels of page tables; arm64 ends at 2^52).
inline constexpr uint64_t kAddressEnd = uint64_t{1} << 57;

class PageStore {
 public:
  static constexpr size_t kMaxTasks = 100'000;

  // Bytes that are free on this node now, without those that stores hold already.
  using Free = std::function<uint64_t()>;
  static constexpr uint64_t kGrant = uint64_t{64} << 20;  // bytes that are taken before it is asked again

  // `limit`: bytes of pages that may be held; more is ResourceExhausted, and so is a task too many. With
  // `free` it is ResourceExhausted, too, when less than an eighth of `limit` would be left free: others take
  // memory meanwhile, stores of other pods among them.
  explicit PageStore(uint64_t limit, size_t max_tasks = kMaxTasks, Free free = nullptr)
      : limit_(limit), max_tasks_(max_tasks), free_(std::move(free)) {}

  // `bytes` is whole pages, `address` the first one's. After an error the content of these pages is
  // undefined.
  absl::Status Write(pid_t task, uint64_t address, absl::string_view bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // The pages are zeros now: what was held of them is dropped.
  absl::Status Zero(pid_t task, Range range) ABSL_LOCKS_EXCLUDED(mutex_);
  // Drops every page of the task in `window` that is outside of `ranges`, and with Keep(task, {}) the task
  // itself.
  absl::Status Keep(pid_t task, const Ranges& ranges, Range window = {0, kAddressEnd})
      ABSL_LOCKS_EXCLUDED(mutex_);
  // From now on these pages are missing, which only a task's can be. Errors as of Write.
  absl::Status Miss(pid_t task, const Ranges& ranges) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes the content of those of the pages in `range` that are missing; `bytes` is all of its content, or
  // empty for zeros. Returns which came by that: they are in the file. What is not missing is left alone.
  absl::StatusOr<Ranges> Arrive(pid_t task, Range range, absl::string_view bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes over a task's file, and the map of what is missing (page_set.h), from a pager that got them of an
  // earlier agent. What it holds is not known, and not counted.
  absl::Status Adopt(pid_t task, UniqueFd file, int map) ABSL_LOCKS_EXCLUDED(mutex_);

  // Drops every task and every object that is not among `tasks`.
  void KeepTasks(const std::vector<pid_t>& tasks) ABSL_LOCKS_EXCLUDED(mutex_);

  // Pages held of a task, by address, those that are missing too; kept in memory, not asked of the file.
  Ranges Held(pid_t task) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Of them, those that are missing.
  Ranges Missing(pid_t task) const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t missing_bytes() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The same as a map (page_set.h), in a new memfd.
  absl::StatusOr<UniqueFd> MapOf(pid_t task) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Tasks of which a page was written or is missing, sorted; and the keys of objects of which one was
  // written.
  std::vector<pid_t> Tasks() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<pid_t> Objects() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t bytes() const { return bytes_; }
  // The object's file as restored tasks are to map it, to be opened by that path for as long as it is in this
  // store. From now on its pages are theirs: whatever would change them is FailedPrecondition.
  struct SharedFile {
    std::string path;    // "/proc/PID/fd/N" of this process
    uint64_t inode = 0;  // which it must have
  };
  absl::StatusOr<SharedFile> HandOver(pid_t key) ABSL_LOCKS_EXCLUDED(mutex_);

  // A copy of the task's descriptor, for the pager or for an archive; the file spans all addresses. NotFound
  // when no page of the task was written.
  absl::StatusOr<UniqueFd> FileOf(pid_t task) const ABSL_LOCKS_EXCLUDED(mutex_);
  // `size` bytes of it. NotFound as of FileOf.
  absl::Status Read(pid_t task, uint64_t address, char* to, size_t size) const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Task;
  std::shared_ptr<Task> Find(pid_t task) const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::shared_ptr<Task>> FindOrMake(pid_t task) ABSL_LOCKS_EXCLUDED(mutex_);
  // Counts `more` bytes, or ResourceExhausted.
  absl::Status Reserve(pid_t task, uint64_t more);

  const uint64_t limit_;
  const size_t max_tasks_;
  const Free free_;
  std::atomic<uint64_t> granted_ = 0;  // of `bytes_`
  std::atomic<uint64_t> bytes_ = 0;
  mutable absl::Mutex mutex_;
  std::map<pid_t, std::shared_ptr<Task>> tasks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::memory
