// SPDX-License-Identifier: Apache-2.0
// Permits in the agent: who may become a restore, which `create` waits for it now, and how far its restore
// is.
//
// A permit is for one (sandbox UID, container) and single use. On the disk it is Waiting, Aborted or Spent
// (permit_store.h). While it is Waiting, a `create` that comes is its claim:
//
//   none -> waiting -> restoring -> restored -> confirmed
//
// Confirmed: `create` has returned, all stands still.
//
// A newer claim ends an older one that only waits. When a claim that restores or has restored is lost, by its
// runtime's death or a newer `create`, the restored copy can never become whole: the whole migration has
// failed here, which every call about it says from then on, until Abort settles it on the disk.
//
// How the target side of a migration uses it (every call may be repeated):
//   - Add(spec), before the pod can be started.
//   - WaitForClaim(uid, container): kubelet starts containers one after another.
//   - Restore(uid, container, ...) answers the waiting runtime; returns when the container stands restored.
//   - Confirm(uid, container) lets `create` return; the next container's `create` comes after that.
//   - CheckStanding(uid), before PREPARED is journaled.
//   - Spend(spec), after RUNNING is journaled, before the first thaw; WriteSpent(spec), after it.
//   - Abort(uid, message), before RUNNING; OK: no restored process is left, ABORTED may be journaled.
//   - Forget(uid), at last.
#pragma once

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
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "agent/permits/permit_store.h"

namespace godwit::permits {

struct PermitSpec {
  std::string migration_uid;  // of the Migration or Restore
  std::string sandbox_uid;    // the target pod's
  std::vector<std::string> containers;
  absl::Duration create_limit;  // the longest that one `create` may take
};

// What a `create` said of itself; paths are the host's.
struct Claim {
  std::string container;
  std::string container_id;
  std::string bundle;
  std::string cgroup;  // below the host's cgroup2 mount
};

struct Restored {
  Claim claim;
  int64_t pid = 0;  // the container's init in the host's pid namespace; frozen
};

// How a container is restored, beyond where from; as in RuntimeReply.
struct RestoreOptions {
  std::string gate;           // FIFO (host path) at which CRIU waits for the images, or empty
  bool lazy_pages = false;    // godwit-pager fills the memory
  std::string shared_memory;  // file of the shared memory that the agent holds, or empty
};

// A godwit-runtime at the other end of a connection. Its connection closes only when nothing of its restore
// lives any more, or all of it was handed to the container runtime.
class RuntimePeer {
 public:
  virtual ~RuntimePeer() = default;
  virtual void Reply(const agent_api::RuntimeReply& reply) = 0;
};

// Kills what is in a container's cgroup (a path as in Claim) and returns when nothing is left there.
// KillCgroup (cgroup_end.h) with the host's cgroup mount is the real one.
using DestroyCgroup = std::function<absl::Status(const std::string& cgroup)>;

// Whether a restored container still stands there, frozen. CheckStandsFrozen (cgroup_end.h) is the real one.
using CheckCgroup = std::function<absl::Status(const std::string& cgroup)>;

// Whether what was restored for a claim is of the pod that the permit is for (I7). CheckIsOfPod (pod_check.h)
// is the real one.
using CheckPod = std::function<absl::Status(const std::string& sandbox_uid, const Claim& claim, int64_t pid)>;

// Thread-safe.
class PermitTable {
 public:
  PermitTable(PermitStore store, DestroyCgroup destroy, CheckCgroup check, CheckPod check_pod = nullptr)
      : store_(std::move(store)),
        destroy_(std::move(destroy)),
        check_(std::move(check)),
        check_pod_(std::move(check_pod)) {}

  // Writes the permits, Waiting; also takes those of the same migration up again after a restart of the
  // agent. FailedPrecondition: a container of that pod has a permit that is used up or of another migration.
  // `standing`: cgroups (as in Claim) of copies that an earlier agent restored and confirmed, by container.
  absl::Status Add(const PermitSpec& spec, const std::map<std::string, std::string>& standing = {})
      ABSL_LOCKS_EXCLUDED(mutex_);

  // The calls below: NotFound for a migration that was not added; its failure once it has failed or is
  // aborted; DeadlineExceeded after `limit`.

  // Returns when a `create` of the container waits.
  absl::StatusOr<Claim> WaitForClaim(const std::string& migration_uid, const std::string& container,
                                     absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);
  // Tells the waiting `create` to restore from the folder `images` (host path), CRIU's log going to `work`,
  // and returns when the container stands restored. FailedPrecondition: nobody waits (any more): WaitForClaim
  // again.
  absl::StatusOr<Restored> Restore(const std::string& migration_uid, const std::string& container,
                                   const std::string& images, const std::string& work, absl::Duration limit,
                                   const RestoreOptions& options = {}) ABSL_LOCKS_EXCLUDED(mutex_);
  // Lets the `create` of a restored container return, waits until its runtime has gone, and checks that the
  // container still stands: a runtime that is killed takes it along.
  absl::Status Confirm(const std::string& migration_uid, const std::string& container, absl::Duration limit)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // OK when every container of the migration was restored and confirmed, none was started anew since, and all
  // stand.
  absl::Status CheckStanding(const std::string& migration_uid) ABSL_LOCKS_EXCLUDED(mutex_);

  // RUNNING is journaled: from now on every `create` of these containers is an ordinary start, as far as this
  // agent is asked. Takes no time; also after a restart of the agent, when the journal, not this table, knows
  // that the migration ran.
  void Spend(const PermitSpec& spec) ABSL_LOCKS_EXCLUDED(mutex_);
  // The same on the disk, for runtimes that find no agent.
  absl::Status WriteSpent(const PermitSpec& spec) ABSL_LOCKS_EXCLUDED(mutex_);

  // Writes Aborted, refuses every `create` that waits, destroys every restored copy. An error: perhaps
  // something of a copy is left, frozen; try again. FailedPrecondition: the permits are spent.
  absl::Status Abort(const std::string& migration_uid, const std::string& message, absl::Duration limit)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Drops a migration that is aborted or spent. Spent permits stay on the disk: a running pod's containers
  // may be started again (RemoveSpent). OK when it is not known.
  absl::Status Forget(const std::string& migration_uid) ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes the spent permits of sandboxes that are gone.
  absl::Status RemoveSpent(const std::function<bool(const std::string& sandbox_uid)>& sandbox_exists)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Containers whose `create` waits now (also while it restores), and those that stand restored, by name.
  std::vector<std::string> Waiting(const std::string& migration_uid) const ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<std::string> Standing(const std::string& migration_uid) const ABSL_LOCKS_EXCLUDED(mutex_);

  // What comes from the runtimes' connections (permit_server.h). A peer's requests come one after another,
  // OnClosed last.
  void OnRequest(const std::shared_ptr<RuntimePeer>& peer, const agent_api::RuntimeRequest& request)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void OnClosed(const std::shared_ptr<RuntimePeer>& peer) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  enum class Stage { kNone, kWaiting, kRestoring, kRestored, kConfirming, kConfirmed };
  struct Permit {
    Stage stage = Stage::kNone;
    Claim claim;
    int64_t pid = 0;
    std::shared_ptr<RuntimePeer> peer;
    std::string
        copy_cgroup;  // where a restored copy may be; on the disk too, for Abort after a restart of the agent
  };
  struct Migration {
    PermitSpec spec;
    agent_api::PermitState state = agent_api::PermitState::kWaiting;
    absl::Status failure;  // of its own accord, or Aborted
    std::map<std::string, Permit> permits;
  };

  // With a permit a container that nobody has claimed yet.
  static Migration Fresh(const PermitSpec& spec);
  absl::StatusOr<Migration*> Find(const std::string& migration_uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The permit while its migration can still go on.
  absl::StatusOr<Permit*> FindLive(const std::string& migration_uid, const std::string& container)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Migration* FindBySandbox(const std::string& sandbox_uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::pair<Migration*, Permit*> FindByPeer(const RuntimePeer* peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteAll(Migration& migration, agent_api::PermitState state, const std::string& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckStandingLocked(const std::string& migration_uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckStands(Migration& migration, const Permit& permit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::string> Named(const std::string& migration_uid, std::initializer_list<Stage> stages) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Create(const std::shared_ptr<RuntimePeer>& peer, const agent_api::RuntimeRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(Migration& migration, const std::string& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const PermitStore store_;
  const DestroyCgroup destroy_;
  const CheckCgroup check_;
  const CheckPod check_pod_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  std::map<std::string, Migration> migrations_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::permits
