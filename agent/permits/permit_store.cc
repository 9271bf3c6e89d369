// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/permit_store.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::permits {
namespace {

constexpr size_t kMaxPermitBytes = 64u << 10;

absl::Status CheckNames(absl::string_view sandbox_uid, absl::string_view container) {
  if (!ValidSandboxUid(sandbox_uid)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", sandbox_uid, "\" cannot be the UID of a pod"));
  }
  if (!ValidContainerName(container)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", container, "\" cannot be the name of a container"));
  }
  return absl::OkStatus();
}

}  // namespace

bool ValidSandboxUid(absl::string_view uid) {
  // A UUID, or the hash that kubelet gives to static pods.
  return !uid.empty() && uid.size() <= 64 &&
         std::all_of(uid.begin(), uid.end(), [](char c) { return absl::ascii_isalnum(c) || c == '-'; });
}

bool ValidContainerName(absl::string_view name) {
  return !name.empty() && name.size() <= 63 && name.front() != '-' && name.back() != '-' &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-'; });
}

absl::Status PermitStore::Write(const std::string& sandbox_uid, const std::string& container,
                                const agent_api::PermitFile& permit) const {
  GODWIT_RETURN_IF_ERROR(CheckNames(sandbox_uid, container));
  const std::string sandbox = absl::StrCat(folder_, "/", sandbox_uid);
  if (!FileExists(sandbox)) {
    GODWIT_RETURN_IF_ERROR(MakeFolders(sandbox, 0700));
    GODWIT_RETURN_IF_ERROR(SyncFolder(folder_));
  }
  return WriteFileDurably(absl::StrCat(sandbox, "/", container), json::Encode(permit), 0600);
}

absl::StatusOr<agent_api::PermitFile> PermitStore::Read(const std::string& sandbox_uid,
                                                        const std::string& container) const {
  GODWIT_RETURN_IF_ERROR(CheckNames(sandbox_uid, container));
  const std::string path = absl::StrCat(folder_, "/", sandbox_uid, "/", container);
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxPermitBytes));
  absl::StatusOr<agent_api::PermitFile> permit = json::Decode<agent_api::PermitFile>(text);
  if (!permit.ok()) return Annotate(permit.status(), absl::StrCat("permit ", path));
  return permit;
}

absl::Status PermitStore::Remove(const std::string& sandbox_uid, const std::string& container) const {
  GODWIT_RETURN_IF_ERROR(CheckNames(sandbox_uid, container));
  const std::string sandbox = absl::StrCat(folder_, "/", sandbox_uid);
  GODWIT_RETURN_IF_ERROR(RemoveTree(absl::StrCat(sandbox, "/", container)));
  if (rmdir(sandbox.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY) {
    return ErrnoStatus(absl::StrCat("cannot remove ", sandbox));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StoredPermit>> PermitStore::ListSandbox(const std::string& sandbox_uid) const {
  if (!ValidSandboxUid(sandbox_uid)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", sandbox_uid, "\" cannot be the UID of a pod"));
  }
  absl::StatusOr<std::vector<std::string>> names = ListFolder(absl::StrCat(folder_, "/", sandbox_uid));
  if (absl::IsNotFound(names.status())) return std::vector<StoredPermit>();
  if (!names.ok()) return names.status();
  std::vector<StoredPermit> permits;
  for (const std::string& name : *names) {
    if (!ValidContainerName(name)) continue;  // what a crash left of a durable write
    absl::StatusOr<agent_api::PermitFile> permit = Read(sandbox_uid, name);
    if (absl::IsNotFound(permit.status())) continue;
    if (!permit.ok()) return permit.status();
    permits.push_back({sandbox_uid, name, *std::move(permit)});
  }
  return permits;
}

absl::StatusOr<std::vector<StoredPermit>> PermitStore::List() const {
  absl::StatusOr<std::vector<std::string>> sandboxes = ListFolder(folder_);
  if (absl::IsNotFound(sandboxes.status())) return std::vector<StoredPermit>();
  if (!sandboxes.ok()) return sandboxes.status();
  std::vector<StoredPermit> all;
  for (const std::string& sandbox : *sandboxes) {
    if (!ValidSandboxUid(sandbox)) continue;
    GODWIT_ASSIGN_OR_RETURN(std::vector<StoredPermit> permits, ListSandbox(sandbox));
    all.insert(all.end(), permits.begin(), permits.end());
  }
  return all;
}

}  // namespace godwit::permits
