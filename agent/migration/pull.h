// SPDX-License-Identifier: Apache-2.0
// One container of a post-copy whose target runs, between the stream that brings its missing pages and the
// pager that waits for them (agent/api/host_protocol.h: PagerWord, AgentWord). The pager's end of the
// connection may go and come back; so may, in Target, the stream. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "agent/memory/page_server.h"
#include "agent/memory/page_set.h"
#include "agent/memory/page_store.h"
#include "agent/transfer/page_frame.h"
#include "base/socket.h"

namespace godwit::migration {

class Pull {
 public:
  // Asks the source for pages before all others; from a thread of this object's.
  using Want = std::function<void(const transfer::TaskRanges&)>;
  // `known`: what is missing is what `store`, which outlives this, says. Else an earlier agent knew, and the
  // store is empty until the pager has given what it got of that one.
  Pull(std::string container, memory::PageStore* store, bool known, Want want);
  // Hangs up.
  ~Pull();

  // The answer to a pager that asks for the container's memory.
  absl::StatusOr<memory::PageServer::Found> Open() ABSL_LOCKS_EXCLUDED(mutex_);
  // These are in the store now.
  void Arrived(const transfer::TaskRanges& pages) ABSL_LOCKS_EXCLUDED(mutex_);
  // The rest will never come. The pager kills the container; the first reason counts.
  void Lose(const std::string& why) ABSL_LOCKS_EXCLUDED(mutex_);
  // The container was killed, for no pager of it is left.
  void Killed(const std::string& why) ABSL_LOCKS_EXCLUDED(mutex_);

  bool known() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The pager has all; or that, or its container has ended.
  bool complete() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool over() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Why the pager has killed the container; empty: it has not.
  std::string failed() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Since when no pager is connected; InfiniteFuture while one is.
  absl::Time alone_since() const ABSL_LOCKS_EXCLUDED(mutex_);
  // What processes wait for and has not come yet: to be asked for anew over another stream.
  std::vector<transfer::TaskRanges> Wanted() const ABSL_LOCKS_EXCLUDED(mutex_);

  struct Faults {
    int64_t count = 0;
    absl::Duration p50, p99;
  };
  Faults faults() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Channel = std::shared_ptr<LineChannel>;
  void Attach(LineChannel channel) ABSL_LOCKS_EXCLUDED(mutex_);
  void Serve(const Channel& channel) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status TakeStores(LineChannel& channel) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Hear(const std::string& line) ABSL_LOCKS_EXCLUDED(mutex_);
  void Tell(const transfer::TaskRanges& arrived) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Write(const agent_api::AgentWord& word) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string container_;
  memory::PageStore* const store_;
  const Want want_;
  mutable absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool known_ ABSL_GUARDED_BY(mutex_);
  bool complete_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  std::string lost_ ABSL_GUARDED_BY(mutex_);
  std::string failed_ ABSL_GUARDED_BY(mutex_);
  Faults faults_ ABSL_GUARDED_BY(mutex_);
  std::map<pid_t, memory::Ranges> told_ ABSL_GUARDED_BY(mutex_);  // missing, in the maps of the last Open
  std::map<pid_t, memory::PageSet> wanted_ ABSL_GUARDED_BY(mutex_);
  Channel channel_ ABSL_GUARDED_BY(mutex_);
  absl::Time alone_since_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);  // one for each connection there has been
};

}  // namespace godwit::migration
