// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/permit_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"

namespace godwit::permits {

using agent_api::PermitFile;
using agent_api::PermitState;
using agent_api::RuntimeAction;

namespace {

void Refuse(const std::shared_ptr<RuntimePeer>& peer, absl::string_view message) {
  peer->Reply({.action = RuntimeAction::kRefuse, .message = std::string(message)});
}

absl::Status Timeout(absl::string_view what, const std::string& container, absl::Duration limit) {
  return absl::DeadlineExceededError(
      absl::StrCat(what, " container ", container, " within ", absl::FormatDuration(limit)));
}

}  // namespace

absl::Status PermitTable::Add(const PermitSpec& spec, const std::map<std::string, std::string>& standing) {
  if (spec.containers.empty()) return absl::InvalidArgumentError("a permit for no container");
  absl::MutexLock lock(&mutex_);
  if (auto known = migrations_.find(spec.migration_uid); known != migrations_.end()) {
    const bool same = known->second.spec.sandbox_uid == spec.sandbox_uid &&
                      known->second.spec.containers == spec.containers;
    return same ? absl::OkStatus()
                : absl::FailedPreconditionError(absl::StrCat("migration ", spec.migration_uid,
                                                             " holds permits for another pod already"));
  }
  Migration migration = Fresh(spec);
  GODWIT_ASSIGN_OR_RETURN(std::vector<StoredPermit> stored, store_.ListSandbox(spec.sandbox_uid));
  for (const StoredPermit& old : stored) {
    if (old.permit.migration_uid != spec.migration_uid || old.permit.state != PermitState::kWaiting) {
      return absl::FailedPreconditionError(
          absl::StrCat("container ", old.container, " of pod ", spec.sandbox_uid, " holds a permit already: ",
                       json::Name(old.permit.state), ", of migration ", old.permit.migration_uid));
    }
    migration.permits[old.container].copy_cgroup = old.permit.copy_cgroup;
  }
  for (const auto& [container, cgroup] : standing) {
    const auto permit = migration.permits.find(container);
    if (permit == migration.permits.end()) continue;
    permit->second = {.stage = Stage::kConfirmed,
                      .claim = {.container = container, .cgroup = cgroup},
                      .copy_cgroup = cgroup};
  }
  GODWIT_RETURN_IF_ERROR(WriteAll(migration, PermitState::kWaiting, ""));
  migrations_.emplace(spec.migration_uid, std::move(migration));
  return absl::OkStatus();
}

absl::StatusOr<Claim> PermitTable::WaitForClaim(const std::string& migration_uid,
                                                const std::string& container, absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  absl::MutexLock lock(&mutex_);
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(Permit * permit, FindLive(migration_uid, container));
    if (permit->stage == Stage::kWaiting) return permit->claim;
    if (changed_.WaitWithTimeout(&mutex_, deadline - SteadyNow()))
      return Timeout("nobody started", container, limit);
  }
}

absl::StatusOr<Restored> PermitTable::Restore(const std::string& migration_uid, const std::string& container,
                                              const std::string& images, const std::string& work,
                                              absl::Duration limit, const RestoreOptions& options) {
  const absl::Time deadline = SteadyNow() + limit;
  absl::MutexLock lock(&mutex_);
  GODWIT_ASSIGN_OR_RETURN(Permit * permit, FindLive(migration_uid, container));
  if (permit->stage != Stage::kWaiting) {
    return absl::FailedPreconditionError(absl::StrCat("no `create` of container ", container, " waits"));
  }
  permit->stage = Stage::kRestoring;
  permit->peer->Reply({.action = RuntimeAction::kRestore,
                       .images = images,
                       .work = work,
                       .gate = options.gate,
                       .lazy_pages = options.lazy_pages,
                       .shared_memory = options.shared_memory});
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(permit, FindLive(migration_uid, container));
    if (permit->stage == Stage::kRestored) return Restored{permit->claim, permit->pid};
    if (changed_.WaitWithTimeout(&mutex_, deadline - SteadyNow()))
      return Timeout("could not restore", container, limit);
  }
}

absl::Status PermitTable::Confirm(const std::string& migration_uid, const std::string& container,
                                  absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  absl::MutexLock lock(&mutex_);
  GODWIT_ASSIGN_OR_RETURN(Permit * permit, FindLive(migration_uid, container));
  if (permit->stage == Stage::kRestored) {
    permit->stage = Stage::kConfirming;
    permit->peer->Reply({.action = RuntimeAction::kDone});
  } else if (permit->stage != Stage::kConfirming && permit->stage != Stage::kConfirmed) {
    return absl::FailedPreconditionError(absl::StrCat("container ", container, " is not restored"));
  }
  while (permit->stage != Stage::kConfirmed) {
    if (changed_.WaitWithTimeout(&mutex_, deadline - SteadyNow()))
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

PermitTable::Migration PermitTable::Fresh(const PermitSpec& spec) {
  Migration migration;
  migration.spec = spec;
  for (const std::string& container : spec.containers) migration.permits[container];
  return migration;
}

void PermitTable::Spend(const PermitSpec& spec) {
  absl::MutexLock lock(&mutex_);
  Migration migration = Fresh(spec);
  migration.state = PermitState::kSpent;
  migrations_.insert_or_assign(spec.migration_uid, std::move(migration));
}

absl::Status PermitTable::WriteSpent(const PermitSpec& spec) {
  absl::MutexLock lock(&mutex_);
  Migration migration = Fresh(spec);
  return WriteAll(migration, PermitState::kSpent, "");
}

absl::Status PermitTable::Abort(const std::string& migration_uid, const std::string& message,
                                absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
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
      if (changed_.WaitWithTimeout(&mutex_, deadline - SteadyNow())) {
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

}  // namespace godwit::permits
