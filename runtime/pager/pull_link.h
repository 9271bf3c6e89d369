// SPDX-License-Identifier: Apache-2.0
// The pager's connection to the agent that pulls missing pages (agent/api/host_protocol.h: PagerWord,
// AgentWord), in a thread of its own: says which are waited for, hears which have come. When it breaks it is
// made again; an agent that was restarted gets the stores back over it.
#pragma once

#include <atomic>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "base/file.h"
#include "base/socket.h"
#include "runtime/pager/pager.h"

namespace godwit::pager {

class PullLink {
 public:
  PullLink(const agent_api::PagerSpec& spec, Pager& pager);
  // Tells the agent that nobody needs it any more.
  ~PullLink();

  // `channel`: the connection over which the stores came; else one is made.
  absl::Status Start(std::optional<LineChannel> channel);
  // The container was killed: the agent hears why when this goes.
  void Killed(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);
  // There is something to ask for. Does not wait.
  void Wake();
  // Readable once it has failed: the missing pages will not come.
  int failed_event() const { return failed_event_.get(); }
  absl::Status failure() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run(std::optional<LineChannel> channel);
  absl::StatusOr<LineChannel> Connect();
  absl::Status Exchange(LineChannel& channel);
  absl::Status Hear(LineChannel& channel);
  absl::Status Ask(LineChannel& channel, bool again);
  absl::Status Say(LineChannel& channel, bool ended);
  void Fail(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);
  void Pause(absl::Duration duration);

  const agent_api::PagerSpec& spec_;
  Pager& pager_;
  UniqueFd wake_, failed_event_;
  std::atomic<bool> ending_{false};
  mutable absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Status killed_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace godwit::pager
