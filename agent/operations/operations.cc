// SPDX-License-Identifier: Apache-2.0
#include "agent/operations/operations.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "agent/operations/bring.h"
#include "agent/permits/source_hold.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::operations {
namespace {

using agent_api::AbortRequest;
using agent_api::PreCopyLimits;
using agent_api::RestoreSpec;
using agent_api::SourceSpec;
using agent_api::SourceStatus;
using agent_api::TargetSpec;
using agent_api::TargetStatus;
using migration::Source;
using migration::Target;
using migration::TargetRequest;

// How long the processes of a frozen source may take to die.
constexpr absl::Duration kKillLimit = absl::Seconds(20);
// What a node must keep when images arrive, beside them.
constexpr int64_t kSpareBytes = int64_t{64} << 20;

absl::Status None(absl::string_view what, const std::string& uid) {
  return absl::NotFoundError(absl::StrCat("this node has no part in ", what, " ", uid));
}

absl::Status Check(const PreCopyLimits& limits) {
  if (limits.freeze_budget <= absl::ZeroDuration() || limits.pre_copy_timeout <= absl::ZeroDuration() ||
      limits.bandwidth_limit < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "limits of a pre-copy must be positive: freezeBudget ", absl::FormatDuration(limits.freeze_budget),
        ", preCopyTimeout ", absl::FormatDuration(limits.pre_copy_timeout), ", bandwidthLimit ",
        limits.bandwidth_limit));
  }
  return absl::OkStatus();
}

bool Same(const SourceSpec& a, const SourceSpec& b) { return a == b; }
bool Same(const TargetRequest& a, const TargetRequest& b) { return json::Encode(a) == json::Encode(b); }

// The side of a UID, or null.
template <class Sides>
auto Find(const Sides& sides, const std::string& uid) {
  absl::MutexLock lock(&sides.mutex);
  auto found = sides.by_uid.find(uid);
  return found == sides.by_uid.end() ? nullptr : found->second;
}

absl::Status NotTakenUp(const std::string& uid, const absl::Status& why) {
  return absl::InternalError(
      absl::StrCat("what an earlier agent left of ", uid, " could not be taken up: ", why.message()));
}

// What a side says of itself; `kind` of operation.
template <class Sides>
auto StatusOf(const Sides& sides, const char* kind, const std::string& uid)
    -> decltype(absl::StatusOr<decltype(Find(sides, uid)->status())>()) {
  if (auto side = Find(sides, uid); side != nullptr) return side->status();
  absl::MutexLock lock(&sides.mutex);
  const auto left = sides.left.find(uid);
  return left == sides.left.end() ? None(kind, uid) : NotTakenUp(uid, left->second);
}

// Without its spec first: what is left, should this be cut off, is nobody's.
absl::Status RemoveSide(const std::string& folder) {
  if (unlink(absl::StrCat(folder, "/spec.json").c_str()) == 0) GODWIT_RETURN_IF_ERROR(SyncFolder(folder));
  return RemoveTree(folder);
}

// Begins a side, or answers for the one there is. `asked_for` gives its spec, `start` makes it in the folder.
template <class Sides, class Spec, class AskedFor, class Start>
auto Begin(Sides& sides, const std::string& uid, const Spec& spec, const std::string& folder,
           AskedFor asked_for, Start start)
    -> decltype(absl::StatusOr<decltype(Find(sides, uid)->status())>()) {
  absl::MutexLock lock(&sides.mutex);
  if (const auto left = sides.left.find(uid); left != sides.left.end()) return NotTakenUp(uid, left->second);
  auto& side = sides.by_uid[uid];
  if (side != nullptr) {
    if (Same(asked_for(*side), spec)) return side->status();
    return absl::AlreadyExistsError(absl::StrCat(uid, " was asked for already, and differently"));
  }
  absl::Status made = MakeFolders(folder, 0700);
  auto started = made.ok() ? start() : decltype(start())(made);
  if (!started.ok()) {
    sides.by_uid.erase(uid);
    RemoveSide(folder).IgnoreError();
    return started.status();
  }
  side = *std::move(started);
  return side->status();
}

// Forgets a side that has ended.
template <class Sides>
absl::Status Forget(Sides& sides, const std::string& uid, const std::string& folder) {
  auto side = Find(sides, uid);
  if (side == nullptr) return absl::OkStatus();
  if (!side->final()) {
    return absl::FailedPreconditionError(
        absl::StrCat(uid, " is still in work (", json::Name(side->status().state), "): abort it first"));
  }
  GODWIT_RETURN_IF_ERROR(RemoveSide(folder));
  {
    absl::MutexLock lock(&sides.mutex);
    sides.by_uid.erase(uid);
  }
  side.reset();
  malloc_trim(0);  // some 5 MiB of each thread that worked for it
  return absl::OkStatus();
}

template <class Sides, class Make>
void TakeUp(Sides& sides, const std::string& uid, const std::string& folder, Make make) {
  if (!FileExists(absl::StrCat(folder, "/spec.json"))) {
    RemoveTree(folder).IgnoreError();  // cut off before anything was promised
    absl::MutexLock lock(&sides.mutex);
    sides.left.erase(uid);
    return;
  }
  auto side = make(folder);
  if (!side.ok()) {
    LOG(ERROR) << Log("cannot take up what an earlier agent left")
                      .With("migration", uid)
                      .With("folder", folder)
                      .With(side.status());
  }
  absl::MutexLock lock(&sides.mutex);
  if (side.ok()) {
    sides.by_uid[uid] = *std::move(side);
    sides.left.erase(uid);
  } else {
    sides.left[uid] = side.status();
  }
}

template <class Sides>
std::vector<std::string> LeftIn(const Sides& sides) {
  std::vector<std::string> uids;
  absl::MutexLock lock(&sides.mutex);
  for (const auto& [uid, why] : sides.left) uids.push_back(uid);
  return uids;
}

std::vector<std::string> Names(const std::string& folder) {
  auto names = ListFolder(folder);
  return names.ok() ? *std::move(names) : std::vector<std::string>();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Operations>> Operations::Open(Options options) {
  std::unique_ptr<Operations> operations(new Operations(std::move(options)));
  GODWIT_RETURN_IF_ERROR(operations->Recover());
  return operations;
}

std::string Operations::MigrationFolder(const std::string& uid, const char* side) const {
  return absl::StrCat(options_.folder, "/migrations/", uid, "/", side);
}

std::string Operations::RestoreFolder(const std::string& uid) const {
  return absl::StrCat(options_.folder, "/restores/", uid);
}

absl::Status Operations::Recover() {
  for (const char* folder : {"/migrations", "/restores"}) {
    GODWIT_RETURN_IF_ERROR(MakeFolders(absl::StrCat(options_.folder, folder), 0700));
  }
  for (const std::string& uid : Names(absl::StrCat(options_.folder, "/migrations"))) {
    TakeUpSource(uid);
    TakeUpTarget(uid);
  }
  for (const std::string& uid : Names(absl::StrCat(options_.folder, "/restores"))) TakeUpRestore(uid);
  return absl::OkStatus();
}

void Operations::TakeUpSource(const std::string& uid) {
  TakeUp(sources_, uid, MigrationFolder(uid, "source"),
         [this](const std::string& folder) { return Source::Recover(folder, options_.source); });
}

void Operations::TakeUpTarget(const std::string& uid) {
  TakeUp(targets_, uid, MigrationFolder(uid, "target"),
         [this](const std::string& folder) { return Target::Recover(folder, options_.target); });
}

void Operations::TakeUpRestore(const std::string& uid) {
  TakeUp(restores_, uid, RestoreFolder(uid),
         [this](const std::string& folder) { return Target::Recover(folder, options_.target); });
}

void Operations::TakeUpAgain() {
  for (const std::string& uid : LeftIn(sources_)) TakeUpSource(uid);
  for (const std::string& uid : LeftIn(targets_)) TakeUpTarget(uid);
  for (const std::string& uid : LeftIn(restores_)) TakeUpRestore(uid);
}

// --- target
// --------------------------------------------------------------------------------------------------------

absl::StatusOr<TargetStatus> Operations::PutTarget(const TargetSpec& spec) {
  const std::string& uid = spec.migration.uid;
  if (spec.containers.empty()) return absl::InvalidArgumentError("a migration of no container");
  if (Find(targets_, uid) == nullptr) {
    GODWIT_ASSIGN_OR_RETURN(const int64_t disk, FreeBytes(absl::StrCat(options_.folder, "/migrations")));
    const int64_t needed = spec.expected_bytes + kSpareBytes;
    if (disk < needed || options_.memory_available() < spec.expected_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the pod needs ", (needed >> 20) + 1, " MiB on node ", options_.node, ", which has ", disk >> 20,
          " MiB of disk and ", options_.memory_available() >> 20, " MiB of memory free"));
    }
  }
  TargetRequest request{.uid = uid,
                        .pod = spec.pod,
                        .containers = spec.containers,
                        .source_node = spec.source_node,
                        .create_limit = spec.create_limit};
  const std::string folder = MigrationFolder(uid, "target");
  return Begin(
      targets_, uid, request, folder, [](const Target& target) { return target.request(); },
      [&] { return Target::Start(request, folder, options_.target, nullptr); });
}

absl::StatusOr<TargetStatus> Operations::GetTarget(const std::string& uid) const {
  return StatusOf(targets_, "migration", uid);
}

absl::Status Operations::AbortTarget(const std::string& uid, const AbortRequest& why) {
  auto target = Find(targets_, uid);
  return target == nullptr ? None("migration", uid) : target->Abort(why.reason, why.message);
}

absl::Status Operations::TakeOver(const std::string& uid) {
  auto target = Find(targets_, uid);
  return target == nullptr ? None("migration", uid) : target->TakeOver();
}

absl::Status Operations::ForgetTarget(const std::string& uid) {
  GODWIT_RETURN_IF_ERROR(Forget(targets_, uid, MigrationFolder(uid, "target")));
  GODWIT_RETURN_IF_ERROR(options_.target.permits->Forget(uid));
  return Find(sources_, uid) == nullptr ? RemoveTree(absl::StrCat(options_.folder, "/migrations/", uid))
                                        : absl::OkStatus();
}

// --- source
// --------------------------------------------------------------------------------------------------------

absl::StatusOr<SourceStatus> Operations::PutSource(const SourceSpec& spec) {
  const std::string& uid = spec.migration.uid;
  if (spec.containers.empty()) return absl::InvalidArgumentError("a migration of no container");
  if (spec.mode != agent_api::CopyMode::kStopAndCopy) GODWIT_RETURN_IF_ERROR(Check(spec.limits));
  const std::string folder = MigrationFolder(uid, "source");
  return Begin(
      sources_, uid, spec, folder, [](const Source& source) { return source.spec(); },
      [&] { return Source::Start(spec, folder, options_.source); });
}

absl::StatusOr<SourceStatus> Operations::GetSource(const std::string& uid) const {
  return StatusOf(sources_, "migration", uid);
}

absl::Status Operations::SwitchSource(const std::string& uid) {
  auto source = Find(sources_, uid);
  return source == nullptr ? None("migration", uid) : source->Switch();
}

absl::Status Operations::SetSourceLimits(const std::string& uid, const PreCopyLimits& limits) {
  GODWIT_RETURN_IF_ERROR(Check(limits));
  auto source = Find(sources_, uid);
  return source == nullptr ? None("migration", uid) : source->SetLimits(limits);
}

absl::Status Operations::AbortSource(const std::string& uid, const AbortRequest& why) {
  auto source = Find(sources_, uid);
  return source == nullptr ? None("migration", uid) : source->Abort(why.reason, why.message);
}

absl::Status Operations::ReclaimSource(const std::string& uid, const AbortRequest& why) {
  auto source = Find(sources_, uid);
  return source == nullptr ? None("migration", uid) : source->Reclaim(why.reason, why.message);
}

absl::Status Operations::FinishSource(const std::string& uid, const agent_api::FinishRequest& request) {
  auto source = Find(sources_, uid);
  return source == nullptr ? None("migration", uid) : source->Finish(kKillLimit, request);
}

absl::Status Operations::ForgetSource(const std::string& uid) {
  const auto source = Find(sources_, uid);
  if (source != nullptr && source->final() && !options_.source.holds.empty()) {
    GODWIT_RETURN_IF_ERROR(
        permits::RemoveSourceHold(options_.source.holds, source->spec().pod.uid, uid));  // before its journal
  }
  GODWIT_RETURN_IF_ERROR(Forget(sources_, uid, MigrationFolder(uid, "source")));
  return Find(targets_, uid) == nullptr ? RemoveTree(absl::StrCat(options_.folder, "/migrations/", uid))
                                        : absl::OkStatus();
}

// --- restores
// ------------------------------------------------------------------------------------------------------

migration::BringState Operations::BringFrom(const RestoreSpec& spec) const {
  return [this, spec] {
    return Bring(spec, options_.node, options_.fetch, options_.find_archive, RestoreFolder(spec.restore.uid),
                 SteadyNow() + spec.create_limit);
  };
}

absl::StatusOr<TargetStatus> Operations::PutRestore(const RestoreSpec& spec) {
  if (spec.archives.empty()) return absl::InvalidArgumentError("a restore of no container");
  const std::string& uid = spec.restore.uid;
  TargetRequest request{.uid = uid, .pod = spec.pod, .create_limit = spec.create_limit};
  for (const agent_api::Archive& archive : spec.archives) request.containers.push_back(archive.container);
  const std::string folder = RestoreFolder(uid);
  return Begin(
      restores_, uid, request, folder, [](const Target& target) { return target.request(); },
      [&] { return Target::Start(request, folder, options_.target, BringFrom(spec)); });
}

absl::StatusOr<TargetStatus> Operations::GetRestore(const std::string& uid) const {
  return StatusOf(restores_, "restore", uid);
}

absl::Status Operations::AbortRestore(const std::string& uid, const AbortRequest& why) {
  auto restore = Find(restores_, uid);
  return restore == nullptr ? None("restore", uid) : restore->Abort(why.reason, why.message);
}

absl::Status Operations::ForgetRestore(const std::string& uid) {
  GODWIT_RETURN_IF_ERROR(Forget(restores_, uid, RestoreFolder(uid)));
  return options_.target.permits->Forget(uid);
}

// --- the rest
// ------------------------------------------------------------------------------------------------------

absl::StatusOr<memory::PageServer::Found> Operations::FindPages(const std::string& sandbox_uid,
                                                                const std::string& container) const {
  std::shared_ptr<Target> found;
  {
    absl::MutexLock lock(&targets_.mutex);
    for (const auto& [uid, target] : targets_.by_uid) {
      if (target != nullptr && target->request().pod.uid == sandbox_uid && !target->final()) found = target;
    }
  }
  if (found == nullptr)
    return absl::NotFoundError(absl::StrCat("no memory of pod ", sandbox_uid, " is kept on this node"));
  absl::StatusOr<memory::PageServer::Found> pages = found->Pages(container);
  if (pages.ok() && pages->pull)
    pages->pull = [found, pull = std::move(pages->pull)](LineChannel channel) { pull(std::move(channel)); };
  return pages;
}

void Operations::LoseMemory(const std::string& migration_uid, const std::string& container,
                            const std::string& why) const {
  if (auto target = Find(targets_, migration_uid); target != nullptr) target->LoseMemory(container, why);
}

void Operations::ServeMigration(const std::shared_ptr<transfer::Stream>& stream,
                                const transfer::Hello& hello) {
  auto target = Find(targets_, hello.uid);
  if (target == nullptr) {
    const transfer::Reason why{
        .reason = "NotFound",
        .message = absl::StrCat("node ", options_.node, " expects no migration ", hello.uid)};
    stream->SendMessage(transfer::FrameType::kRefused, why, SteadyNow() + absl::Seconds(5)).IgnoreError();
    return;
  }
  target->Serve(stream, hello);
}

bool Operations::Knows(const std::string& uid) const {
  return Find(sources_, uid) != nullptr || Find(targets_, uid) != nullptr || Find(restores_, uid) != nullptr;
}

Operations::Working Operations::Count() const {
  Working working;
  {
    absl::MutexLock lock(&sources_.mutex);
    for (const auto& [uid, source] : sources_.by_uid) {
      const SourceStatus status = source->status();
      working.sources += !source->final();
      if (status.state == agent_api::SourceState::kOpen) {
        working.dirty_rate += status.pre_copy.dirty_rate;
        working.predicted_freeze = std::max(working.predicted_freeze, status.pre_copy.predicted_freeze);
      }
      working.frozen +=
          status.state == agent_api::SourceState::kFrozen || status.state == agent_api::SourceState::kCeded;
    }
  }
  auto count = [](const Sides<Target>& sides) {
    absl::MutexLock lock(&sides.mutex);
    int in_work = 0;
    for (const auto& [uid, target] : sides.by_uid) in_work += !target->final();
    return in_work;
  };
  {
    absl::MutexLock lock(&targets_.mutex);
    for (const auto& [uid, target] : targets_.by_uid) {
      const agent_api::PullStatus pull = target->status().pull;
      if (!pull.pulling) continue;
      working.missing_bytes += pull.missing_bytes;
      working.slow_fault = std::max(working.slow_fault, pull.fault_p99);
    }
  }
  working.targets = count(targets_);
  working.restores = count(restores_);
  return working;
}

int64_t Operations::ImagesBytes() const {
  int64_t bytes = 0;
  for (const char* folder : {"/migrations", "/restores"}) {
    std::error_code error;
    for (std::filesystem::recursive_directory_iterator at(absl::StrCat(options_.folder, folder), error), end;
         !error && at != end; at.increment(error)) {
      std::error_code ignored;
      if (at->is_regular_file(ignored)) bytes += static_cast<int64_t>(at->file_size(ignored));
    }
  }
  return bytes;
}

}  // namespace godwit::operations
