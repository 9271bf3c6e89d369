// SPDX-License-Identifier: Apache-2.0
// Pods that come back from a checkpoint on this node. One thread a restore:
//
//   None -> Open       the permit is given; archives are fetched and verified; `create` waits
//   Open -> Prepared   every container stands restored, none has run a line
//   Prepared -> Running   permits spent, journaled, thawed
//   Open, Prepared -> Aborted   an archive that is not what it was, a failed restore, the time limit, the controller's word;
//                               every `create` fails, no copy is ever thawed
//
//   <folder>/<uid>/spec.json, journal, and while it works: archives and their content
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
#include "agent/api/messages.h"
#include "agent/journal/journal.h"
#include "agent/permits/permit_table.h"
#include "agent/restore/bring_up.h"
#include "agent/runtime/containers.h"

namespace godwit::restore {

// Fetches one archive of the spec from the node that holds it to `path`, which does not exist; what came is verified afterwards.
using Fetch = std::function<absl::Status(const agent_api::RestoreSpec& spec, const agent_api::Archive& archive,
                                         const std::string& path, absl::Time deadline)>;

struct RestoresOptions {
  std::string folder;  // the same path here and on the host
  std::string node;    // this one's name
  runtime::HostView host;
  std::function<void(const agent_api::TargetStatus&)> finished;  // at each end, from its thread; for metrics
};

// Thread-safe.
class Restores {
 public:
  // Reads what an earlier agent left: a restore that was not Running is Aborted. `permits` must outlive it.
  static absl::StatusOr<std::unique_ptr<Restores>> Open(RestoresOptions options, permits::PermitTable& permits, Fetch fetch);
  // Aborts what is under way and waits for it.
  ~Restores();

  // Begins, or says how far it is. AlreadyExists for another spec of the same UID.
  absl::StatusOr<agent_api::TargetStatus> Put(const agent_api::RestoreSpec& spec) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<agent_api::TargetStatus> Get(const std::string& uid) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends it when it does not run yet; FailedPrecondition when it does.
  absl::Status Abort(const std::string& uid, const agent_api::AbortRequest& why) ABSL_LOCKS_EXCLUDED(mutex_);
  // Forgets a restore that has ended; one under way is aborted first. OK when there is none.
  absl::Status Remove(const std::string& uid) ABSL_LOCKS_EXCLUDED(mutex_);
  int Running() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Entry {
    agent_api::RestoreSpec spec;
    agent_api::TargetStatus status;
    std::thread thread;
  };

  Restores(RestoresOptions options, permits::PermitTable& permits, Fetch fetch)
      : options_(std::move(options)), permits_(permits), fetch_(std::move(fetch)) {}
  absl::Status Load() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status LoadOne(const std::string& uid) ABSL_LOCKS_EXCLUDED(mutex_);
  void Work(const agent_api::RestoreSpec& spec) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status WorkSteps(const agent_api::RestoreSpec& spec, journal::TargetJournal& journal) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<Content> Unpack(const agent_api::RestoreSpec& spec, const agent_api::Archive& archive, absl::Time deadline);
  absl::Status GoOn(const agent_api::RestoreSpec& spec, const std::vector<std::string>& cgroups, journal::TargetJournal& journal);
  void SetState(const std::string& uid, agent_api::TargetState state, const agent_api::AbortRequest& why = {})
      ABSL_LOCKS_EXCLUDED(mutex_);
  agent_api::TargetStatus WithPermits(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string FolderOf(const std::string& uid) const { return options_.folder + "/" + uid; }
  static permits::PermitSpec PermitsOf(const agent_api::RestoreSpec& spec);

  const RestoresOptions options_;
  permits::PermitTable& permits_;
  const Fetch fetch_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::unique_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::restore
