// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/permit_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::permits {

using agent_api::PermitFile;
using agent_api::PermitState;
using agent_api::RuntimeAction;
using agent_api::RuntimeOp;
using agent_api::RuntimeReply;
using agent_api::RuntimeRequest;

namespace {

void Refuse(const std::shared_ptr<RuntimePeer>& peer, absl::string_view message) {
  peer->Reply({.action = RuntimeAction::kRefuse, .message = std::string(message)});
}

// A path below the cgroup mount, and not the mount itself.
bool ValidCgroup(absl::string_view cgroup) {
  if (cgroup.size() < 2 || cgroup.size() > 4096 || cgroup.front() != '/') return false;
  for (absl::string_view part : absl::StrSplit(cgroup.substr(1), '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return cgroup.find('\0') == absl::string_view::npos;
}

absl::Status CheckRequest(const RuntimeRequest& request) {
  if (!ValidSandboxUid(request.sandbox_uid)) return absl::InvalidArgumentError("no usable sandbox UID");
  if (!ValidContainerName(request.container)) return absl::InvalidArgumentError("no usable container name");
  if (!ValidCgroup(request.cgroup)) return absl::InvalidArgumentError("no usable cgroup");
  if (request.bundle.empty() || request.bundle.front() != '/')
    return absl::InvalidArgumentError("no usable bundle");
  return absl::OkStatus();
}

absl::Status Timeout(absl::string_view what, const std::string& container, absl::Duration limit) {
  return absl::DeadlineExceededError(
      absl::StrCat(what, " container ", container, " within ", absl::FormatDuration(limit)));
}

}  // namespace

absl::Status PermitTable::Add(const PermitSpec& spec) {
  if (spec.containers.empty()) return absl::InvalidArgumentError("a permit for no container");
  absl::MutexLock lock(&mutex_);
  if (auto known = migrations_.find(spec.migration_uid); known != migrations_.end()) {
    const bool same = known->second.spec.sandbox_uid == spec.sandbox_uid &&
                      known->second.spec.containers == spec.containers;
    return same ? absl::OkStatus()
                : absl::FailedPreconditionError(absl::StrCat("migration ", spec.migration_uid,
                                                             " holds permits for another pod already"));
  }
  Migration migration;
  migration.spec = spec;
  GODWIT_ASSIGN_OR_RETURN(std::vector<StoredPermit> stored, store_.ListSandbox(spec.sandbox_uid));
  for (const StoredPermit& old : stored) {
    if (old.permit.migration_uid != spec.migration_uid || old.permit.state != PermitState::kWaiting) {
      return absl::FailedPreconditionError(
          absl::StrCat("container ", old.container, " of pod ", spec.sandbox_uid, " holds a permit already: ",
                       json::Name(old.permit.state), ", of migration ", old.permit.migration_uid));
    }
    migration.permits[old.container].copy_cgroup = old.permit.copy_cgroup;
  }
  for (const std::string& container : spec.containers) migration.permits[container];
  GODWIT_RETURN_IF_ERROR(WriteAll(migration, PermitState::kWaiting, ""));
  migrations_.emplace(spec.migration_uid, std::move(migration));
  return absl::OkStatus();
}

absl::StatusOr<Claim> PermitTable::WaitForClaim(const std::string& migration_uid,
                                                const std::string& container, absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  absl::MutexLock lock(&mutex_);
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(Permit * permit, FindLive(migration_uid, container));
    if (permit->stage == Stage::kWaiting) return permit->claim;
    if (changed_.WaitWithDeadline(&mutex_, deadline)) return Timeout("nobody started", container, limit);
  }
}

absl::StatusOr<Restored> PermitTable::Restore(const std::string& migration_uid, const std::string& container,
                                              const std::string& images, const std::string& work,
                                              absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  absl::MutexLock lock(&mutex_);
  GODWIT_ASSIGN_OR_RETURN(Permit * permit, FindLive(migration_uid, container));
  if (permit->stage != Stage::kWaiting) {
    return absl::FailedPreconditionError(absl::StrCat("no `create` of container ", container, " waits"));
  }
  permit->stage = Stage::kRestoring;
  permit->peer->Reply({.action = RuntimeAction::kRestore, .images = images, .work = work});
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(permit, FindLive(migration_uid, container));
    if (permit->stage == Stage::kRestored) return Restored{permit->claim, permit->pid};
    if (changed_.WaitWithDeadline(&mutex_, deadline)) return Timeout("could not restore", container, limit);
  }
}

absl::Status PermitTable::Confirm(const std::string& migration_uid, const std::string& container,
                                  absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  absl::MutexLock lock(&mutex_);
  GODWIT_ASSIGN_OR_RETURN(Permit * permit, FindLive(migration_uid, container));
  if (permit->stage == Stage::kRestored) {
    permit->stage = Stage::kConfirming;
    permit->peer->Reply({.action = RuntimeAction::kDone});
  } else if (permit->stage != Stage::kConfirming && permit->stage != Stage::kConfirmed) {
    return absl::FailedPreconditionError(absl::StrCat("container ", container, " is not restored"));
  }
  while (permit->stage != Stage::kConfirmed) {
    if (changed_.WaitWithDeadline(&mutex_, deadline))
      return Timeout("`create` did not return for", container, limit);
    GODWIT_ASSIGN_OR_RETURN(permit, FindLive(migration_uid, container));
  }
  return CheckStands(migrations_.at(migration_uid), *permit);
}

absl::Status PermitTable::CheckStands(Migration& migration, const Permit& permit) {
  if (absl::Status status = check_(permit.claim.cgroup); !status.ok()) {
    Fail(migration, absl::StrCat("container ", permit.claim.container,
                                 " was restored, but stands no more: ", status.message()));
  }
  return migration.failure;
}

absl::Status PermitTable::CheckStandingLocked(const std::string& migration_uid) {
  GODWIT_ASSIGN_OR_RETURN(Migration * migration, Find(migration_uid));
  GODWIT_RETURN_IF_ERROR(migration->failure);
  for (const auto& [container, permit] : migration->permits) {
    if (permit.stage != Stage::kConfirmed) {
      return absl::FailedPreconditionError(absl::StrCat("container ", container, " does not stand restored"));
    }
    GODWIT_RETURN_IF_ERROR(CheckStands(*migration, permit));
  }
  return absl::OkStatus();
}

absl::Status PermitTable::CheckStanding(const std::string& migration_uid) {
  absl::MutexLock lock(&mutex_);
  return CheckStandingLocked(migration_uid);
}

absl::Status PermitTable::MarkSpent(const std::string& migration_uid) {
  absl::MutexLock lock(&mutex_);
  GODWIT_ASSIGN_OR_RETURN(Migration * migration, Find(migration_uid));
  if (migration->state == PermitState::kSpent) return absl::OkStatus();
  GODWIT_RETURN_IF_ERROR(CheckStandingLocked(migration_uid));
  for (auto& [container, permit] : migration->permits) permit.copy_cgroup.clear();
  return WriteAll(*migration, PermitState::kSpent, "");
}

absl::Status PermitTable::MarkSpentOnDisk(const PermitSpec& spec) {
  absl::MutexLock lock(&mutex_);
  Migration migration;
  migration.spec = spec;
  for (const std::string& container : spec.containers) migration.permits[container];
  GODWIT_RETURN_IF_ERROR(WriteAll(migration, PermitState::kSpent, ""));
  migrations_.insert_or_assign(spec.migration_uid, std::move(migration));
  return absl::OkStatus();
}

absl::Status PermitTable::Abort(const std::string& migration_uid, const std::string& message,
                                absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  std::vector<std::string> copies;
  {
    absl::MutexLock lock(&mutex_);
    GODWIT_ASSIGN_OR_RETURN(Migration * migration, Find(migration_uid));
    if (migration->state == PermitState::kSpent) {
      return absl::FailedPreconditionError(
          absl::StrCat("migration ", migration_uid, " has run: too late to abort"));
    }
    if (migration->state == PermitState::kWaiting) {
      GODWIT_RETURN_IF_ERROR(WriteAll(*migration, PermitState::kAborted, message));
      migration->failure = absl::AbortedError(message);
      changed_.SignalAll();
    }
    for (auto& [container, permit] : migration->permits) {
      if (permit.peer != nullptr) Refuse(permit.peer, migration->failure.message());
    }
    // A runtime closes its connection when nothing of its restore lives; only then is the cgroup's emptiness
    // final.
    while (std::any_of(migration->permits.begin(), migration->permits.end(),
                       [](const auto& entry) { return entry.second.peer != nullptr; })) {
      if (changed_.WaitWithDeadline(&mutex_, deadline)) {
        return absl::DeadlineExceededError(absl::StrCat("a restore of migration ", migration_uid,
                                                        " did not end within ", absl::FormatDuration(limit)));
      }
      GODWIT_ASSIGN_OR_RETURN(migration, Find(migration_uid));
    }
    for (const auto& [container, permit] : migration->permits) {
      if (!permit.copy_cgroup.empty()) copies.push_back(permit.copy_cgroup);
    }
  }
  for (const std::string& cgroup : copies) GODWIT_RETURN_IF_ERROR(destroy_(cgroup));
  return absl::OkStatus();
}

absl::Status PermitTable::Forget(const std::string& migration_uid) {
  absl::MutexLock lock(&mutex_);
  auto found = migrations_.find(migration_uid);
  if (found == migrations_.end()) return absl::OkStatus();
  Migration& migration = found->second;
  if (migration.state == PermitState::kWaiting) {
    return absl::FailedPreconditionError(
        absl::StrCat("the permits of migration ", migration_uid, " are in use: abort it first"));
  }
  if (migration.state == PermitState::kAborted) {
    for (const std::string& container : migration.spec.containers) {
      GODWIT_RETURN_IF_ERROR(store_.Remove(migration.spec.sandbox_uid, container));
    }
  }
  migrations_.erase(found);
  return absl::OkStatus();
}

absl::Status PermitTable::RemoveSpent(const std::function<bool(const std::string&)>& sandbox_exists) {
  absl::MutexLock lock(&mutex_);
  GODWIT_ASSIGN_OR_RETURN(std::vector<StoredPermit> stored, store_.List());
  for (const StoredPermit& permit : stored) {
    if (permit.permit.state != PermitState::kSpent || migrations_.contains(permit.permit.migration_uid))
      continue;
    if (sandbox_exists(permit.sandbox_uid)) continue;
    GODWIT_RETURN_IF_ERROR(store_.Remove(permit.sandbox_uid, permit.container));
  }
  return absl::OkStatus();
}

std::vector<std::string> PermitTable::Named(const std::string& migration_uid,
                                            std::initializer_list<Stage> stages) const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> names;
  auto found = migrations_.find(migration_uid);
  if (found == migrations_.end()) return names;
  for (const std::string& container : found->second.spec.containers) {
    const Stage stage = found->second.permits.at(container).stage;
    if (std::find(stages.begin(), stages.end(), stage) != stages.end()) names.push_back(container);
  }
  return names;
}

std::vector<std::string> PermitTable::Waiting(const std::string& migration_uid) const {
  return Named(migration_uid, {Stage::kWaiting, Stage::kRestoring});
}

std::vector<std::string> PermitTable::Standing(const std::string& migration_uid) const {
  return Named(migration_uid, {Stage::kRestored, Stage::kConfirming, Stage::kConfirmed});
}

bool PermitTable::Busy() const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [uid, migration] : migrations_) {
    for (const auto& [container, permit] : migration.permits) {
      if (permit.peer != nullptr) return true;
    }
  }
  return false;
}

void PermitTable::OnRequest(const std::shared_ptr<RuntimePeer>& peer, const RuntimeRequest& request) {
  absl::MutexLock lock(&mutex_);
  if (request.op == RuntimeOp::kCreate) return Create(peer, request);
  auto [migration, permit] = FindByPeer(peer.get());
  if (permit == nullptr) return Refuse(peer, "this `create` holds no permit (any more)");
  const std::string container = permit->claim.container;
  if (request.op == RuntimeOp::kFailed) {
    Fail(*migration, absl::StrCat("container ", container, " was not restored: ", request.message));
    return Refuse(peer, migration->failure.message());
  }
  if (!migration->failure.ok()) return Refuse(peer, migration->failure.message());
  if (permit->stage != Stage::kRestoring || request.pid <= 1) {
    Fail(*migration, absl::StrCat("the runtime of container ", container, " broke the protocol"));
    return Refuse(peer, migration->failure.message());
  }
  permit->pid = request.pid;
  permit->stage = Stage::kRestored;
  changed_.SignalAll();
}

void PermitTable::Create(const std::shared_ptr<RuntimePeer>& peer, const RuntimeRequest& request) {
  if (absl::Status status = CheckRequest(request); !status.ok()) return Refuse(peer, status.message());
  if (FindByPeer(peer.get()).second != nullptr) return Refuse(peer, "one connection is for one `create`");
  absl::StatusOr<PermitFile> file = store_.Read(request.sandbox_uid, request.container);
  if (file.ok() && file->state == PermitState::kSpent) return peer->Reply({.action = RuntimeAction::kRun});
  if (file.ok() && file->state == PermitState::kAborted) return Refuse(peer, file->message);
  Migration* migration = FindBySandbox(request.sandbox_uid);
  if (!file.ok() || migration == nullptr || !migration->permits.contains(request.container)) {
    return Refuse(peer,
                  absl::StrCat("container ", request.container, " of pod ", request.sandbox_uid,
                               " has no state to be restored from on this node: no migration or restore of "
                               "this agent is for it"));
  }
  if (!migration->failure.ok()) return Refuse(peer, migration->failure.message());
  Permit& permit = migration->permits[request.container];
  if (permit.stage != Stage::kNone && permit.stage != Stage::kWaiting) {
    Fail(*migration,
         absl::StrCat("container ", request.container, " was started anew after its restore had begun"));
    return Refuse(peer, migration->failure.message());
  }
  if (permit.peer != nullptr) Refuse(permit.peer, "a newer `create` of this container took its place");
  file->copy_cgroup = request.cgroup;
  if (absl::Status status = store_.Write(request.sandbox_uid, request.container, *file); !status.ok()) {
    return Refuse(peer, status.message());
  }
  permit = {.stage = Stage::kWaiting,
            .claim = {request.container, request.container_id, request.bundle, request.cgroup},
            .peer = peer,
            .copy_cgroup = request.cgroup};
  LOG(INFO) << Log("a create waits for its state")
                   .With("migration", migration->spec.migration_uid)
                   .With("container", request.container)
                   .With("id", request.container_id);
  changed_.SignalAll();
}

void PermitTable::OnClosed(const std::shared_ptr<RuntimePeer>& peer) {
  std::string lost_copy;
  {
    absl::MutexLock lock(&mutex_);
    auto [migration, permit] = FindByPeer(peer.get());
    if (permit == nullptr) return;
    permit->peer = nullptr;
    const Stage stage = permit->stage;
    const bool failed = !migration->failure.ok();
    permit->stage = stage == Stage::kConfirming && !failed ? Stage::kConfirmed : Stage::kNone;
    if (stage == Stage::kRestoring || stage == Stage::kRestored) {
      Fail(*migration, absl::StrCat("godwit-runtime ended before container ", permit->claim.container,
                                    " stood restored (killed at kubelet's deadline, or by a restart of the "
                                    "container runtime)"));
      lost_copy = permit->copy_cgroup;
    }
    changed_.SignalAll();
  }
  if (lost_copy.empty()) return;
  // At once, not only at the abort: nothing thaws it, but it is nobody's.
  if (absl::Status status = destroy_(lost_copy); !status.ok()) {
    LOG(ERROR) << Log("a lost copy could not be destroyed").With("cgroup", lost_copy).With(status);
  }
}

absl::StatusOr<PermitTable::Migration*> PermitTable::Find(const std::string& migration_uid) {
  auto found = migrations_.find(migration_uid);
  if (found != migrations_.end()) return &found->second;
  return absl::NotFoundError(absl::StrCat("no permit of migration ", migration_uid));
}

absl::StatusOr<PermitTable::Permit*> PermitTable::FindLive(const std::string& migration_uid,
                                                           const std::string& container) {
  GODWIT_ASSIGN_OR_RETURN(Migration * migration, Find(migration_uid));
  GODWIT_RETURN_IF_ERROR(migration->failure);
  auto found = migration->permits.find(container);
  if (found != migration->permits.end()) return &found->second;
  return absl::NotFoundError(absl::StrCat("migration ", migration_uid, " has no container ", container));
}

PermitTable::Migration* PermitTable::FindBySandbox(const std::string& sandbox_uid) {
  for (auto& [uid, migration] : migrations_) {
    if (migration.spec.sandbox_uid == sandbox_uid) return &migration;
  }
  return nullptr;
}

std::pair<PermitTable::Migration*, PermitTable::Permit*> PermitTable::FindByPeer(const RuntimePeer* peer) {
  for (auto& [uid, migration] : migrations_) {
    for (auto& [container, permit] : migration.permits) {
      if (permit.peer.get() == peer) return {&migration, &permit};
    }
  }
  return {nullptr, nullptr};
}

absl::Status PermitTable::WriteAll(Migration& migration, PermitState state, const std::string& message) {
  for (const auto& [container, permit] : migration.permits) {
    const PermitFile file = {.state = state,
                             .migration_uid = migration.spec.migration_uid,
                             .message = message,
                             .create_limit = migration.spec.create_limit,
                             .copy_cgroup = permit.copy_cgroup};
    GODWIT_RETURN_IF_ERROR(store_.Write(migration.spec.sandbox_uid, container, file));
  }
  migration.state = state;
  return absl::OkStatus();
}

void PermitTable::Fail(Migration& migration, const std::string& message) {
  if (migration.failure.ok()) {
    migration.failure = absl::AbortedError(message);
    LOG(WARNING)
        << Log("restoring failed").With("migration", migration.spec.migration_uid).With("message", message);
  }
  changed_.SignalAll();
}

}  // namespace godwit::permits
