// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/source_hold.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/journal/journal.h"
#include "agent/permits/permit_store.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::permits {
namespace {

constexpr size_t kMaxHoldBytes = 16u << 10;

absl::StatusOr<std::string> PathOf(const std::string& folder, const std::string& sandbox_uid) {
  if (!ValidSandboxUid(sandbox_uid)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", sandbox_uid, "\" cannot be the UID of a pod"));
  }
  return absl::StrCat(folder, "/", sandbox_uid);
}

absl::StatusOr<SourceHold> ReadHold(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxHoldBytes));
  absl::StatusOr<SourceHold> hold = json::Decode<SourceHold>(text);
  return hold.ok() ? hold : Annotate(hold.status(), path);
}

}  // namespace

absl::Status WriteSourceHold(const std::string& folder, const std::string& sandbox_uid,
                             const SourceHold& hold) {
  GODWIT_ASSIGN_OR_RETURN(const std::string path, PathOf(folder, sandbox_uid));
  GODWIT_RETURN_IF_ERROR(MakeFolders(folder, 0700));
  const absl::StatusOr<SourceHold> before = ReadHold(path);
  if (!absl::IsNotFound(before.status()) && (!before.ok() || before->migration_uid != hold.migration_uid)) {
    GODWIT_ASSIGN_OR_RETURN(const std::string why, WhyHeld(folder, sandbox_uid));
    if (!why.empty()) return absl::FailedPreconditionError(why);
  }
  return WriteFileDurably(path, json::Encode(hold), 0600);
}

absl::Status RemoveSourceHold(const std::string& folder, const std::string& sandbox_uid,
                              const std::string& migration_uid) {
  GODWIT_ASSIGN_OR_RETURN(const std::string path, PathOf(folder, sandbox_uid));
  const absl::StatusOr<SourceHold> hold = ReadHold(path);
  if (absl::IsNotFound(hold.status()) || (hold.ok() && hold->migration_uid != migration_uid))
    return absl::OkStatus();
  return RemoveTree(path);
}

absl::StatusOr<std::string> WhyHeld(const std::string& folder, const std::string& sandbox_uid) {
  GODWIT_ASSIGN_OR_RETURN(const std::string path, PathOf(folder, sandbox_uid));
  const absl::StatusOr<SourceHold> hold = ReadHold(path);
  if (absl::IsNotFound(hold.status())) return "";
  if (!hold.ok()) return hold.status();
  const auto records = journal::ReplayJournal<agent_api::SourceState>(hold->journal);
  if (absl::IsNotFound(records.status())) return "";  // forgotten: it has ended
  if (!records.ok()) return records.status();
  const agent_api::SourceState state =
      records->empty() ? agent_api::SourceState::kNone : records->back().state;
  if (MayStartAfresh(state)) return "";
  return absl::StrCat("the pod ", state == agent_api::SourceState::kFrozen ? "is being" : "was",
                      " handed over to node ", hold->target_node, " by migration ", hold->migration_uid,
                      ": a container that was started here would be a second copy");
}

}  // namespace godwit::permits
