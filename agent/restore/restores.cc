// SPDX-License-Identifier: Apache-2.0
#include "agent/restore/restores.h"

#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/checkpoint/archive.h"
#include "agent/runtime/freezer.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::restore {
namespace {

using agent_api::AbortRequest;
using agent_api::RestoreSpec;
using agent_api::TargetState;
using agent_api::TargetStatus;

constexpr absl::Duration kAbortLimit = absl::Seconds(20);

bool Ended(TargetState state) { return state == TargetState::kRunning || state == TargetState::kAborted; }

absl::string_view ReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDataLoss: return "ArchiveDamaged";
    case absl::StatusCode::kNotFound: return "ArchiveNotFound";
    case absl::StatusCode::kUnavailable: return "ArchiveUnreachable";
    case absl::StatusCode::kResourceExhausted: return "NoRoom";
    case absl::StatusCode::kDeadlineExceeded: return "TimedOut";
    default: return "RestoreFailed";
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Restores>> Restores::Open(RestoresOptions options, permits::PermitTable& permits, Fetch fetch) {
  std::unique_ptr<Restores> restores(new Restores(std::move(options), permits, std::move(fetch)));
  GODWIT_RETURN_IF_ERROR(restores->Load());
  return restores;
}

Restores::~Restores() {
  std::vector<std::string> uids;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [uid, entry] : entries_) uids.push_back(uid);
  }
  for (const std::string& uid : uids) {
    Abort(uid, {.reason = "AgentStopped", .message = "the node's agent was stopped"}).IgnoreError();
    std::thread thread;
    {
      absl::MutexLock lock(&mutex_);
      thread = std::move(entries_.at(uid)->thread);
    }
    if (thread.joinable()) thread.join();
  }
}

permits::PermitSpec Restores::PermitsOf(const RestoreSpec& spec) {
  permits::PermitSpec permit{
      .migration_uid = spec.restore.uid, .sandbox_uid = spec.pod.uid, .create_limit = spec.create_limit};
  for (const agent_api::Archive& archive : spec.archives) permit.containers.push_back(archive.container);
  return permit;
}

absl::Status Restores::Load() {
  GODWIT_RETURN_IF_ERROR(MakeFolders(options_.folder, 0700));
  GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> uids, ListFolder(options_.folder));
  for (const std::string& uid : uids) {
    absl::Status loaded = LoadOne(uid);
    if (!loaded.ok()) LOG(ERROR) << Log("cannot take up a restore from the disk").With("restore", uid).With(loaded);
  }
  return absl::OkStatus();
}

absl::Status Restores::LoadOne(const std::string& uid) {
  auto entry = std::make_unique<Entry>();
  GODWIT_ASSIGN_OR_RETURN(std::string text, ReadFile(absl::StrCat(FolderOf(uid), "/spec.json")));
  GODWIT_ASSIGN_OR_RETURN(entry->spec, json::Decode<RestoreSpec>(text));
  GODWIT_ASSIGN_OR_RETURN(auto journal, journal::TargetJournal::Open(absl::StrCat(FolderOf(uid), "/journal")));
  if (journal.state() == TargetState::kRunning) {
    // The journal says that it ran; the permits on the disk may not yet.
    GODWIT_RETURN_IF_ERROR(permits_.MarkSpentOnDisk(PermitsOf(entry->spec)));
  } else if (journal.state() != TargetState::kAborted) {
    const std::string message = "the node's agent ended while it restored the pod; create the Restore again";
    GODWIT_RETURN_IF_ERROR(permits_.Add(PermitsOf(entry->spec)));
    GODWIT_RETURN_IF_ERROR(permits_.Abort(uid, message, kAbortLimit));
    GODWIT_RETURN_IF_ERROR(journal.Append({.state = TargetState::kAborted, .reason = "AgentRestarted", .message = message}));
  }
  entry->status.state = journal.state();
  entry->status.reason = journal.records().back().reason;
  entry->status.message = journal.records().back().message;
  absl::MutexLock lock(&mutex_);
  entries_[uid] = std::move(entry);
  return absl::OkStatus();
}

absl::StatusOr<TargetStatus> Restores::Put(const RestoreSpec& spec) {
  if (spec.archives.empty()) return absl::InvalidArgumentError("a restore of no container");
  const std::string& uid = spec.restore.uid;
  absl::MutexLock lock(&mutex_);
  auto known = entries_.find(uid);
  if (known != entries_.end()) {
    if (known->second->spec == spec) return WithPermits(*known->second);
    return absl::AlreadyExistsError(absl::StrCat("restore ", uid, " was asked for already, and differently"));
  }
  GODWIT_RETURN_IF_ERROR(MakeFolders(FolderOf(uid), 0700));
  GODWIT_RETURN_IF_ERROR(WriteFileDurably(absl::StrCat(FolderOf(uid), "/spec.json"), json::Encode(spec)));
  GODWIT_RETURN_IF_ERROR(permits_.Add(PermitsOf(spec)));
  auto entry = std::make_unique<Entry>();
  entry->spec = spec;
  entry->status.state = TargetState::kOpen;
  TargetStatus status = entry->status;
  entry->thread = std::thread([this, spec] { Work(spec); });
  entries_[uid] = std::move(entry);
  return status;
}

void Restores::Work(const RestoreSpec& spec) {
  const std::string& uid = spec.restore.uid;
  AbortRequest why;
  auto journal = journal::TargetJournal::Open(absl::StrCat(FolderOf(uid), "/journal"));
  absl::Status status = journal.ok() ? WorkSteps(spec, *journal) : journal.status();
  if (status.ok() || (journal.ok() && journal->state() == TargetState::kRunning)) {
    if (!status.ok()) LOG(ERROR) << Log("restored pod could not be thawed whole").With("restore", uid).With(status);
    SetState(uid, TargetState::kRunning);
    LOG(INFO) << Log("pod restored from a checkpoint").With("restore", uid).With("pod", spec.pod.uid);
  } else {
    {
      absl::MutexLock lock(&mutex_);
      const TargetStatus& asked = entries_.at(uid)->status;
      why = {.reason = asked.reason, .message = asked.message};
    }
    if (why.reason.empty()) why = {.reason = std::string(ReasonOf(status)), .message = std::string(status.message())};
    LOG(ERROR) << Log("restore failed").With("restore", uid).With("pod", spec.pod.uid).With("reason", why.reason).With("message", why.message);
    absl::Status aborted = permits_.Abort(uid, why.message, kAbortLimit);
    if (!aborted.ok()) LOG(ERROR) << Log("cannot abort a restore whole; it stays frozen").With("restore", uid).With(aborted);
    if (journal.ok() && aborted.ok()) {
      aborted = journal->Append({.state = TargetState::kAborted, .reason = why.reason, .message = why.message});
    }
    SetState(uid, TargetState::kAborted, why);
  }
  RemoveTree(absl::StrCat(FolderOf(uid), "/content")).IgnoreError();
  options_.finished(*Get(uid));
}

absl::Status Restores::WorkSteps(const RestoreSpec& spec, journal::TargetJournal& journal) {
  const absl::Time deadline = absl::Now() + spec.create_limit;
  GODWIT_RETURN_IF_ERROR(journal.Append({.state = TargetState::kOpen}));
  std::vector<Content> contents;
  for (const agent_api::Archive& archive : spec.archives) {
    GODWIT_ASSIGN_OR_RETURN(Content content, Unpack(spec, archive, deadline));
    contents.push_back(std::move(content));
  }
  std::vector<std::string> cgroups;
  for (size_t i = 0; i < spec.archives.size(); ++i) {
    // Each `create` has a limit of its own, from when it came; so does each container here.
    GODWIT_ASSIGN_OR_RETURN(BroughtUp up, BringUp(permits_, options_.host, spec.restore.uid, spec.pod.uid,
                                                  spec.archives[i].container, contents[i], absl::Now() + spec.create_limit));
    cgroups.push_back(std::move(up.cgroup));
  }
  return GoOn(spec, cgroups, journal);
}

// The archive here, verified, unpacked.
absl::StatusOr<Content> Restores::Unpack(const RestoreSpec& spec, const agent_api::Archive& archive, absl::Time deadline) {
  const std::string folder = absl::StrCat(FolderOf(spec.restore.uid), "/content/", archive.container);
  GODWIT_RETURN_IF_ERROR(MakeFolders(absl::StrCat(folder, "/work"), 0700));
  GODWIT_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(folder));
  const bool here = spec.archive_node == options_.node;
  const int64_t needed = archive.size * (here ? 1 : 2);
  if (free < needed) {
    return absl::ResourceExhaustedError(absl::StrCat("restoring container ", archive.container, " needs ", needed >> 20,
                                                     " MiB on ", options_.node, ", ", free >> 20, " MiB are free there"));
  }
  std::string path = archive.path;
  if (!here) {
    path = absl::StrCat(folder, "/archive.tar");
    GODWIT_RETURN_IF_ERROR(Annotate(fetch_(spec, archive, path, deadline), absl::StrCat("fetching the archive of container ", archive.container, " from ", spec.archive_node)));
  }
  GODWIT_ASSIGN_OR_RETURN(checkpoint::Parts parts, checkpoint::ExtractArchive(archive, path, absl::StrCat(folder, "/unpacked")));
  if (!here) GODWIT_RETURN_IF_ERROR(RemoveTree(path));
  return Content{.images = parts.images, .work = absl::StrCat(folder, "/work"), .rootfs = parts.rootfs_diff, .volumes = parts.volumes};
}

// All stand: from here the pod runs, whatever becomes of this agent.
absl::Status Restores::GoOn(const RestoreSpec& spec, const std::vector<std::string>& cgroups, journal::TargetJournal& journal) {
  const std::string& uid = spec.restore.uid;
  GODWIT_RETURN_IF_ERROR(permits_.CheckStanding(uid));
  GODWIT_RETURN_IF_ERROR(journal.Append({.state = TargetState::kPrepared}));
  SetState(uid, TargetState::kPrepared);
  {
    absl::MutexLock lock(&mutex_);
    const TargetStatus& status = entries_.at(uid)->status;
    if (!status.reason.empty()) return absl::CancelledError(status.message);
  }
  GODWIT_RETURN_IF_ERROR(journal.Append({.state = TargetState::kRunning}));
  GODWIT_RETURN_IF_ERROR(permits_.MarkSpent(uid));
  std::vector<std::string> folders;
  for (const std::string& cgroup : cgroups) folders.push_back(options_.host.At(cgroup));
  return runtime::AdoptFrozen(folders).Thaw();
}

void Restores::SetState(const std::string& uid, TargetState state, const AbortRequest& why) {
  absl::MutexLock lock(&mutex_);
  TargetStatus& status = entries_.at(uid)->status;
  status.state = state;
  if (!why.reason.empty()) status.reason = why.reason;
  if (!why.message.empty()) status.message = why.message;
  if (state == TargetState::kRunning) status.reason = status.message = "";
}

TargetStatus Restores::WithPermits(const Entry& entry) const {
  TargetStatus status = entry.status;
  if (!Ended(status.state)) {
    status.waiting = permits_.Waiting(entry.spec.restore.uid);
    status.restored = permits_.Standing(entry.spec.restore.uid);
  }
  return status;
}

absl::StatusOr<TargetStatus> Restores::Get(const std::string& uid) const {
  absl::MutexLock lock(&mutex_);
  auto known = entries_.find(uid);
  if (known == entries_.end()) return absl::NotFoundError(absl::StrCat("no restore ", uid, " on this node"));
  return WithPermits(*known->second);
}

absl::Status Restores::Abort(const std::string& uid, const AbortRequest& why) {
  {
    absl::MutexLock lock(&mutex_);
    auto known = entries_.find(uid);
    if (known == entries_.end()) return absl::NotFoundError(absl::StrCat("no restore ", uid, " on this node"));
    TargetStatus& status = known->second->status;
    if (status.state == TargetState::kAborted) return absl::OkStatus();
    if (status.state == TargetState::kRunning) return absl::FailedPreconditionError("the restored pod runs already: delete the pod");
    if (status.reason.empty()) {
      status.reason = why.reason;
      status.message = why.message.empty() ? why.reason : why.message;
    }
  }
  // Whoever waits on the permits wakes up with this; the thread does the rest. Too late when it has just gone on.
  absl::Status aborted = permits_.Abort(uid, why.message, kAbortLimit);
  return absl::IsFailedPrecondition(aborted) ? absl::OkStatus() : aborted;
}

absl::Status Restores::Remove(const std::string& uid) {
  Abort(uid, {.reason = "Removed", .message = "the Restore was deleted"}).IgnoreError();
  std::thread thread;
  {
    absl::MutexLock lock(&mutex_);
    auto known = entries_.find(uid);
    if (known == entries_.end()) return absl::OkStatus();
    thread = std::move(known->second->thread);
  }
  if (thread.joinable()) thread.join();
  GODWIT_RETURN_IF_ERROR(permits_.Forget(uid));
  GODWIT_RETURN_IF_ERROR(RemoveTree(FolderOf(uid)));
  absl::MutexLock lock(&mutex_);
  entries_.erase(uid);
  return absl::OkStatus();
}

int Restores::Running() const {
  absl::MutexLock lock(&mutex_);
  int running = 0;
  for (const auto& [uid, entry] : entries_) running += !Ended(entry->status.state);
  return running;
}

}  // namespace godwit::restore
