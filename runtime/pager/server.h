// SPDX-License-Identifier: Apache-2.0
// A pager's course: CRIU connects and hands over the tasks' memory; faults are answered from then on; once
// the container was thawed for the first time, its memory is filled; then nothing is left of this process.
//
// The thread that calls Run answers; two threads of its own fill and give back.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <semaphore>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "base/file.h"
#include "runtime/pager/keeper.h"
#include "runtime/pager/ledger.h"
#include "runtime/pager/pager.h"
#include "runtime/pager/pull_link.h"

namespace godwit::pager {

// A pager's ends of what leads to others; each may be missing.
struct Links {
  UniqueFd leash;     // who started it: hangs up when there is nobody left who will restore the container
  UniqueFd listener;  // where CRIU is to connect, until it has
  UniqueFd criu;
};

class Server {
 public:
  static absl::StatusOr<std::unique_ptr<Server>> Make(const agent_api::PagerSpec& spec,
                                                      std::unique_ptr<Ledger> ledger, Links links);
  ~Server();

  // Until nothing is left to do; no file is left then. An error: the container's memory could not be filled,
  // and it was killed; the status file stays and says so.
  absl::Status Run();

 private:
  Server(const agent_api::PagerSpec& spec, std::unique_ptr<Ledger> ledger, Links links);
  absl::Status Prepare();
  void Watch(int fd, uint32_t events);

  // These say false when nothing is left to do.
  absl::StatusOr<bool> Begin();
  absl::StatusOr<bool> Step();
  absl::StatusOr<bool> Dispatch(int fd, absl::Duration since);
  absl::StatusOr<bool> HearEndSignal();
  absl::StatusOr<bool> HearLeash();
  absl::StatusOr<bool> HearCriu();
  absl::StatusOr<bool> WatchCgroup();
  absl::StatusOr<bool> LookAtCgroup();

  absl::Status Accept();
  absl::Status GetStores();
  absl::Status StartPulling(std::optional<LineChannel> channel);
  absl::Status StartFilling();
  void RestartKeeper();
  void Fill();
  void Punch();
  void StopThreads();
  void KillContainer(const absl::Status& why);
  void WriteStatus(const absl::Status& failure = absl::OkStatus()) ABSL_LOCKS_EXCLUDED(status_mutex_);

  const agent_api::PagerSpec spec_;
  const std::unique_ptr<Ledger> ledger_;
  Milestones& milestones_;
  Links links_;
  UniqueFd cgroup_events_;
  UniqueFd epoll_, end_signal_;
  UniqueFd filled_event_;  // readable when the filling thread has ended
  std::unique_ptr<Pager> pager_;
  std::unique_ptr<PullLink> pull_;  // of a post-copy
  std::unique_ptr<Keeper> keeper_;
  std::atomic<pid_t> keeper_pid_{0};
  absl::Mutex status_mutex_;

  std::atomic<bool> stop_{false};
  absl::Status filled_;  // of the filling thread, once it has ended
  std::counting_semaphore<> punch_{0};
  std::thread fill_thread_, punch_thread_;
};

}  // namespace godwit::pager
