// SPDX-License-Identifier: Apache-2.0
// The source's end of a post-copy: sends the pages of frozen tasks that the target lacks. What a process
// there waits for goes first and at once; all else follows by address, within the bandwidth limit, and goes
// on behind what was waited for last: its neighbours are likely next. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/memory/page_set.h"
#include "agent/migration/pre_copy.h"
#include "agent/transfer/page_frame.h"
#include "agent/transfer/page_sender.h"
#include "agent/transfer/stream.h"
#include "agent/transfer/token_bucket.h"

namespace godwit::migration {

class PageService {
 public:
  // `bucket` outlives it.
  PageService(std::vector<PreCopy::Container> containers, const MemoryNode& node,
              transfer::TokenBucket* bucket);

  // Over which to send from now on, and which has not listed anything yet.
  void SetStream(transfer::Stream* stream);
  // Listed as missing. InvalidArgument: it makes no sense. DataLoss: there is no such task any more.
  absl::Status Add(const transfer::TaskRanges& missing);

  // All three: DataLoss when the pages cannot be read any more, which nothing mends; other errors are the
  // stream's, and SendUnlisted's are Add's too.
  // Whether they were listed or not: for a restore that is not complete without them.
  absl::Status SendUnlisted(const transfer::TaskRanges& pages, absl::Time deadline);
  // Of those listed.
  absl::Status SendWanted(const transfer::TaskRanges& wanted, absl::Time deadline);
  // The next ones. False: all that were listed have been sent. While the bucket is owed for earlier ones it
  // waits for that, and whoever wants a page meanwhile waits with it: call it when nothing is owed.
  absl::StatusOr<bool> SendNext(absl::Time deadline);

  int64_t left_bytes() const;
  const transfer::PageTotals& totals() const { return totals_; }

 private:
  struct Part {
    PreCopy::Container container;
    std::unique_ptr<transfer::PageSender> urgent, steady;
    std::map<pid_t, pid_t> tasks;  // pids here, by those inside
    std::map<pid_t, MemoryNode::ReadOne> open;
  };
  struct Task {
    Part* part = nullptr;
    pid_t pid = 0;
    pid_t container_pid = 0;
    memory::Ranges listed;
    memory::PageSet left;  // of those listed
    size_t next = 0;       // in listed
    uint64_t from = 0;     // within it
  };
  struct Found {
    Part* part;
    pid_t pid;
  };
  absl::StatusOr<Found> Find(const transfer::TaskRanges& pages);
  absl::Status OpenTasks(Part& part) const;
  memory::Ranges TakeNext(Task& task);

  const MemoryNode node_;
  transfer::TokenBucket unlimited_{0};
  std::map<std::string, Part> parts_;
  std::map<std::pair<std::string, pid_t>, size_t> index_;  // in tasks_
  std::vector<Task> tasks_;
  size_t at_ = 0;  // in tasks_
  size_t ranges_ = 0;
  transfer::PageTotals totals_;
};

}  // namespace godwit::migration
