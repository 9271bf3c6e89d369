// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/checkpoints.h"

#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "agent/checkpoint/archive.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::checkpoint {
namespace {

using agent_api::CheckpointSpec;
using agent_api::CheckpointState;
using agent_api::CheckpointStatus;

constexpr absl::Duration kEndLimit = absl::Seconds(5);  // below what the controller waits for an answer

void LogEnd(const CheckpointSpec& spec, const CheckpointStatus& status) {
  if (status.state == CheckpointState::kReady) {
    LOG(INFO) << Log("checkpoint taken")
                     .With("checkpoint", spec.checkpoint.uid)
                     .With("pod", spec.pod.uid)
                     .With("freeze", status.freeze)
                     .With("memory",
                           status.fallback.empty() ? "copied while the pod ran" : "dumped in the freeze")
                     .With("archives", status.archives.size());
  } else {
    LOG(ERROR) << Log("checkpoint failed")
                      .With("checkpoint", spec.checkpoint.uid)
                      .With("pod", spec.pod.uid)
                      .With("reason", status.reason)
                      .With("message", status.message);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoints>> Checkpoints::Open(std::string folder, Node node,
                                                               StartGuard start_guard, Finished finished) {
  std::unique_ptr<Checkpoints> checkpoints(
      new Checkpoints(std::move(folder), std::move(node), std::move(start_guard), std::move(finished)));
  GODWIT_RETURN_IF_ERROR(checkpoints->Load());
  return checkpoints;
}

Checkpoints::~Checkpoints() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [uid, entry] : entries_) {
      entry->stop = true;
      if (entry->thread.joinable()) threads.push_back(std::move(entry->thread));
    }
  }
  for (std::thread& thread : threads) thread.join();
}

absl::Status Checkpoints::Load() {
  GODWIT_RETURN_IF_ERROR(MakeFolders(folder_, 0700));
  GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> uids, ListFolder(folder_));
  for (const std::string& uid : uids) {
    absl::Status loaded = LoadOne(uid);
    if (!loaded.ok())
      LOG(ERROR) << Log("cannot read a checkpoint on the disk").With("checkpoint", uid).With(loaded);
  }
  return absl::OkStatus();
}

absl::Status Checkpoints::LoadOne(const std::string& uid) {
  auto entry = std::make_unique<Entry>();
  GODWIT_ASSIGN_OR_RETURN(std::string text, ReadFile(absl::StrCat(FolderOf(uid), "/spec.json")));
  GODWIT_ASSIGN_OR_RETURN(entry->spec, json::Decode<CheckpointSpec>(text));
  const std::string status_file = absl::StrCat(FolderOf(uid), "/status.json");
  if (FileExists(status_file)) {
    GODWIT_ASSIGN_OR_RETURN(text, ReadFile(status_file));
    GODWIT_ASSIGN_OR_RETURN(entry->status, json::Decode<CheckpointStatus>(text));
  } else {
    if (absl::Status removed = RemoveUnfinished(uid); !removed.ok()) {
      LOG(WARNING)
          << Log("parts of a checkpoint stay until it is deleted").With("checkpoint", uid).With(removed);
    }
    entry->status.state = CheckpointState::kFailed;
    entry->status.reason = "AgentRestarted";
    entry->status.message =
        "the node's agent ended while it took the checkpoint; the pod goes on: create the Checkpoint again";
    GODWIT_RETURN_IF_ERROR(WriteFileDurably(status_file, json::Encode(entry->status)));
  }
  absl::MutexLock lock(&mutex_);
  entries_[uid] = std::move(entry);
  return absl::OkStatus();
}

// What an agent that ended in the middle has left; the pages that it had copied have gone with it.
absl::Status Checkpoints::RemoveUnfinished(const std::string& uid) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(FolderOf(uid)));
  absl::Status removed = RemoveTree(GuardFolder(node_, uid));
  for (const std::string& name : names) {
    if (name != "spec.json") removed.Update(RemoveTree(absl::StrCat(FolderOf(uid), "/", name)));
  }
  return removed;
}

absl::StatusOr<CheckpointStatus> Checkpoints::Take(const CheckpointSpec& spec) {
  if (spec.containers.empty()) return absl::InvalidArgumentError("a checkpoint of no container");
  const std::string& uid = spec.checkpoint.uid;
  absl::MutexLock lock(&mutex_);
  auto known = entries_.find(uid);
  if (known != entries_.end()) {
    if (json::Encode(known->second->spec) == json::Encode(spec)) return known->second->status;
    return absl::AlreadyExistsError(
        absl::StrCat("checkpoint ", uid, " was asked for already, and differently"));
  }
  GODWIT_RETURN_IF_ERROR(MakeFolders(FolderOf(uid), 0700));
  GODWIT_RETURN_IF_ERROR(WriteFileDurably(absl::StrCat(FolderOf(uid), "/spec.json"), json::Encode(spec)));
  auto entry = std::make_unique<Entry>();
  entry->spec = spec;
  entry->status.state = CheckpointState::kRunning;
  const CheckpointStatus status = entry->status;
  entry->working = true;
  entry->thread = std::thread([this, spec, &stop = entry->stop] { Work(spec, stop); });
  entries_[uid] = std::move(entry);
  return status;
}

void Checkpoints::Work(const CheckpointSpec& spec, const std::atomic<bool>& stop) {
  const std::string& uid = spec.checkpoint.uid;
  CheckpointStatus status = checkpoint::Take(spec, node_, start_guard_, FolderOf(uid), stop);
  absl::Status written = WriteFileDurably(absl::StrCat(FolderOf(uid), "/status.json"), json::Encode(status));
  if (!written.ok()) {
    status.state = CheckpointState::kFailed;
    status.reason = "StorageFailed";
    status.message = std::string(written.message());
  }
  LogEnd(spec, status);
  finished_(status);
  absl::MutexLock lock(&mutex_);
  Entry& entry = *entries_.at(uid);  // Remove waits for this
  entry.status = status;
  entry.working = false;
}

absl::StatusOr<CheckpointStatus> Checkpoints::Get(const std::string& uid) const {
  absl::MutexLock lock(&mutex_);
  auto known = entries_.find(uid);
  if (known == entries_.end())
    return absl::NotFoundError(absl::StrCat("no checkpoint ", uid, " on this node"));
  return known->second->status;
}

absl::StatusOr<agent_api::Archive> Checkpoints::ArchiveOf(const std::string& uid,
                                                          const std::string& file_name) const {
  GODWIT_ASSIGN_OR_RETURN(CheckpointStatus status, Get(uid));
  for (const agent_api::Archive& archive : status.archives) {
    if (archive.path == absl::StrCat(FolderOf(uid), "/", file_name)) return archive;
  }
  return absl::NotFoundError(
      absl::StrCat("checkpoint ", uid, " has no archive ", file_name, " on this node"));
}

absl::StatusOr<std::string> Checkpoints::FindArchive(const std::string& uid,
                                                     const std::string& file_name) const {
  GODWIT_ASSIGN_OR_RETURN(agent_api::Archive archive, ArchiveOf(uid, file_name));
  return std::move(archive.path);
}

absl::StatusOr<std::string> Checkpoints::FindArchiveFor(const std::string& uid, const std::string& file_name,
                                                        const std::string& digest) const {
  GODWIT_ASSIGN_OR_RETURN(agent_api::Archive archive, ArchiveOf(uid, file_name));
  if (!digest.empty() && archive.digest == digest) return std::move(archive.path);
  return absl::PermissionDeniedError(
      absl::StrCat("whoever fetches archive ", file_name, " of checkpoint ", uid, " must name its digest"));
}

absl::StatusOr<json::Raw> Checkpoints::Manifest(const std::string& uid) const {
  GODWIT_ASSIGN_OR_RETURN(CheckpointStatus status, Get(uid));
  if (status.archives.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("checkpoint ", uid, " is ", json::Name(status.state), ", not Ready"));
  }
  return ReadPodManifest(status.archives.front().path);
}

absl::Status Checkpoints::Remove(const std::string& uid) {
  std::thread thread;
  {
    absl::MutexLock lock(&mutex_);
    if (const auto known = entries_.find(uid); known != entries_.end()) known->second->stop = true;
    // Another call may remove it meanwhile.
    auto ended = [this, &uid]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      const auto known = entries_.find(uid);
      return known == entries_.end() || !known->second->working;
    };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&ended), kEndLimit)) {
      return absl::FailedPreconditionError(
          absl::StrCat("checkpoint ", uid, " is being taken; it was told to end, and has not yet"));
    }
    const auto known = entries_.find(uid);
    if (known == entries_.end()) return absl::OkStatus();
    thread = std::move(known->second->thread);
  }
  if (thread.joinable()) thread.join();
  GODWIT_RETURN_IF_ERROR(RemoveTree(FolderOf(uid)));
  absl::MutexLock lock(&mutex_);
  entries_.erase(uid);
  return absl::OkStatus();
}

Checkpoints::Totals Checkpoints::Count() const {
  Totals totals;
  absl::MutexLock lock(&mutex_);
  for (const auto& [uid, entry] : entries_) {
    totals.running += entry->status.state == CheckpointState::kRunning;
    for (const agent_api::Archive& archive : entry->status.archives) {
      ++totals.archives;
      totals.bytes += archive.size;
    }
  }
  return totals;
}

}  // namespace godwit::checkpoint
