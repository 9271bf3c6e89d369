// SPDX-License-Identifier: Apache-2.0
// The checkpoints on this node: taken one thread each, remembered on the disk, served to peers, removed.
//
//   <folder>/<uid>/spec.json      what was asked for
//   <folder>/<uid>/status.json    once it is Ready or Failed
//   <folder>/<uid>/checkpoint-*.tar
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "agent/api/messages.h"
#include "agent/checkpoint/take.h"

namespace godwit::checkpoint {

// Thread-safe.
class Checkpoints {
 public:
  // Called at the end of each checkpoint, for metrics; from its thread.
  using Finished = std::function<void(const agent_api::CheckpointStatus&)>;

  // Reads what is in `folder` (made when missing). A checkpoint without a status was cut off by the agent's
  // end: its guard has thawed the pod; it becomes Failed, and what was written of it goes.
  static absl::StatusOr<std::unique_ptr<Checkpoints>> Open(std::string folder, Node node,
                                                           StartGuard start_guard, Finished finished);
  // Ends the checkpoints under way.
  ~Checkpoints();

  // Begins, or says how far it is when it is known. AlreadyExists: this UID was used for another spec.
  absl::StatusOr<agent_api::CheckpointStatus> Take(const agent_api::CheckpointSpec& spec)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // NotFound for a UID that is not here.
  absl::StatusOr<agent_api::CheckpointStatus> Get(const std::string& uid) const ABSL_LOCKS_EXCLUDED(mutex_);
  // The pod's manifest from the archive. FailedPrecondition unless Ready.
  absl::StatusOr<json::Raw> Manifest(const std::string& uid) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Where the archive of this file name lies. NotFound unless Ready and there; both arguments may be a peer's
  // word.
  absl::StatusOr<std::string> FindArchive(const std::string& uid, const std::string& file_name) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // The same for another agent, which must name the archive's digest: PermissionDenied else.
  absl::StatusOr<std::string> FindArchiveFor(const std::string& uid, const std::string& file_name,
                                             const std::string& digest) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes archives and memory of it. One that runs is ended first, which takes as long as its freeze at
  // most, or the disk a few writes; FailedPrecondition when it has not ended within some seconds: try again.
  // OK when nothing is there.
  absl::Status Remove(const std::string& uid) ABSL_LOCKS_EXCLUDED(mutex_);

  struct Totals {
    int64_t archives = 0;
    int64_t bytes = 0;
    int running = 0;
  };
  Totals Count() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Entry {
    agent_api::CheckpointSpec spec;
    agent_api::CheckpointStatus status;
    std::atomic<bool> stop = false;  // it is to end, and no longer wanted
    bool working = false;            // the last that the thread does is to say that it is not
    std::thread thread;              // joined by Remove or the destructor
  };

  Checkpoints(std::string folder, Node node, StartGuard start_guard, Finished finished)
      : folder_(std::move(folder)),
        node_(std::move(node)),
        start_guard_(std::move(start_guard)),
        finished_(std::move(finished)) {}
  absl::Status Load() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status LoadOne(const std::string& uid) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status RemoveUnfinished(const std::string& uid);
  absl::StatusOr<agent_api::Archive> ArchiveOf(const std::string& uid, const std::string& file_name) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Work(const agent_api::CheckpointSpec& spec, const std::atomic<bool>& stop) ABSL_LOCKS_EXCLUDED(mutex_);
  std::string FolderOf(const std::string& uid) const { return folder_ + "/" + uid; }

  const std::string folder_;
  const Node node_;
  const StartGuard start_guard_;
  const Finished finished_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::unique_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::checkpoint
