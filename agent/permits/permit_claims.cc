// SPDX-License-Identifier: Apache-2.0
// The side of the permit table that the runtimes' connections drive; permit_table.cc has the target side's.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/permits/permit_table.h"
#include "base/log.h"

namespace godwit::permits {

using agent_api::PermitFile;
using agent_api::PermitState;
using agent_api::RuntimeAction;
using agent_api::RuntimeOp;
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

}  // namespace

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
  const absl::Status of_pod =
      check_pod_ ? check_pod_(migration->spec.sandbox_uid, permit->claim, request.pid) : absl::OkStatus();
  if (!of_pod.ok()) {
    Fail(*migration,
         absl::StrCat("container ", container, " was restored for another pod: ", of_pod.message()));
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
  const bool runs = migration != nullptr && migration->state == PermitState::kSpent;
  if (runs && migration->permits.contains(request.container))
    return peer->Reply({.action = RuntimeAction::kRun});  // on the disk in a moment
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

void PermitTable::Fail(Migration& migration, const std::string& message) {
  if (migration.failure.ok()) {
    migration.failure = absl::AbortedError(message);
    LOG(WARNING)
        << Log("restoring failed").With("migration", migration.spec.migration_uid).With("message", message);
  }
  changed_.SignalAll();
}

}  // namespace godwit::permits
