// SPDX-License-Identifier: Apache-2.0
// Sends pages of running or frozen tasks over a stream: PAGES frames (docs/stream.md), compressed where that
// is faster than the link, zero pages as ranges, and pages whose content was sent before and is the same not
// at all.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/memory/range.h"
#include "agent/transfer/stream.h"
#include "agent/transfer/token_bucket.h"

namespace godwit::transfer {

struct PageTotals {
  int64_t looked_at = 0;  // bytes of pages given to Send
  int64_t sent = 0;       // bytes of pages whose content went over, before compression
  int64_t zero = 0;       // bytes of pages that went as zeros
  int64_t unchanged = 0;  // bytes of pages that were not sent: the target has that content
  int64_t wire = 0;       // bytes of frames
  PageTotals& operator+=(const PageTotals& more);
};

// One for each container and stream pair; not thread-safe. What was sent is known by 8 bytes a page. Over
// several lanes (Stream::AddSide) pages go by as many threads.
class PageSender {
 public:
  // Reads `size` bytes of memory at `address` of a task into `to`; returns the bytes read, fewer where a
  // mapping ends. NotFound: the task is gone. Called by several threads at a time. ReadTaskMemory is the
  // real one.
  using Read = std::function<absl::StatusOr<size_t>(pid_t task, uint64_t address, char* to, size_t size)>;

  // `bucket` is waited for before each frame and outlives the sender.
  PageSender(std::string container, Read read, TokenBucket* bucket);
  ~PageSender();

  // The stream to send over from now on, with its sides, if any; it must outlive its use. With a new one
  // after a cut, everything sent since the last Acknowledge is forgotten: it must be given to Send again
  // (Unacknowledged).
  void SetStream(Stream* stream);

  // These will be given to Send, whatever comes between: until one that holds them succeeds they count as not
  // acknowledged.
  void Owe(pid_t container_pid, const memory::Ranges& pages);

  // From now on the tasks stand still: nothing of them goes away, and where something is gone all the same
  // (killed, or not to be read), Send fails with DataLoss.
  void ExpectAll();

  // Sends what of `pages` the target lacks. `task` is read from, `container_pid` names it to the target.
  // Pages that have gone meanwhile are sent as zeros; a task that has gone is forgotten, which is no error.
  // Each page is read: `pages` must not hold what was only reserved. An error is the stream's or the
  // reader's.
  absl::Status Send(pid_t task, pid_t container_pid, const memory::Ranges& pages, absl::Time deadline,
                    PageTotals* totals);

  // Which of `pages` the target is not known to have as they are at this moment in `memory`, where offset 0
  // of them is: what there is to Send of memory of which nobody knows where it was written. By several
  // threads.
  memory::Ranges Differing(pid_t container_pid, const memory::Ranges& pages, const char* memory) const;

  // After the last look: `populated` is all that the task has (KEEP_PAGES, as many frames as it takes). What
  // the target holds of it beyond is dropped there.
  absl::Status KeepPages(pid_t container_pid, const memory::Ranges& populated, absl::Time deadline);
  // The same for a post-copy, before KeepPages: these pages the target gets later (MISSING, as many frames as
  // it takes).
  absl::Status MissPages(pid_t container_pid, const memory::Ranges& missing, absl::Time deadline);
  // After all of a container's KeepPages: these are its tasks, others are dropped at the target (one
  // KEEP_PAGES).
  absl::Status KeepTasks(const std::vector<pid_t>& container_pids, absl::Time deadline);

  // Everything sent so far has arrived.
  void Acknowledge();
  // Pages given to Send, not known to be at the target and not acknowledged, and those that are owed, by
  // container_pid: to be sent again over another stream. After a Send that failed, all pages it was given and
  // did not find unchanged.
  std::vector<std::pair<pid_t, memory::Ranges>> Unacknowledged() const;
  // Forgets a task that is gone.
  void Forget(pid_t container_pid);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Also of pages that the task itself may not read (PROT_NONE). PermissionDenied: this process may not read
// the task.
absl::StatusOr<size_t> ReadTaskMemory(pid_t task, uint64_t address, char* to, size_t size);

}  // namespace godwit::transfer
