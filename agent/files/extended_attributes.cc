// SPDX-License-Identifier: Apache-2.0
#include "agent/files/extended_attributes.h"

#include <sys/xattr.h>

#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace godwit::files {
namespace {

constexpr absl::string_view kOverlay = "trusted.overlay.";
constexpr size_t kMaxAttribute = 64u << 10;  // the kernel's own limit, XATTR_SIZE_MAX and XATTR_LIST_MAX

constexpr size_t kUsualAttribute = 512;

enum class Fate { kKeep, kDrop, kOpaque, kRefuse };

Fate FateOf(absl::string_view name) {
  if (absl::StartsWith(name, kOverlay)) {
    const absl::string_view what = name.substr(kOverlay.size());
    if (what == "opaque") return Fate::kOpaque;
    // Bookkeeping of that one overlay mount.
    if (what == "origin" || what == "impure" || what == "nlink" || what == "upper" || what == "uuid")
      return Fate::kDrop;
    return Fate::kRefuse;
  }
  return MayBeSet(name) ? Fate::kKeep
                        : Fate::kDrop;  // a label of the node's security module is not the pod's
}

// What `read` gives into a buffer; most files have little or nothing.
template <class Read>
ssize_t ReadAll(const Read& read, std::string& text) {
  text.resize(kUsualAttribute);
  ssize_t size = read(text.data(), text.size());
  if (size < 0 && errno == ERANGE) {
    text.resize(kMaxAttribute);
    size = read(text.data(), text.size());
  }
  if (size >= 0) text.resize(static_cast<size_t>(size));
  return size;
}

absl::StatusOr<std::vector<std::string>> Names(const std::string& path, bool follow) {
  std::string names;
  const ssize_t size = ReadAll(
      [&](char* to, size_t room) { return (follow ? listxattr : llistxattr)(path.c_str(), to, room); },
      names);
  if (size < 0 && errno == ENOTSUP) return std::vector<std::string>();
  if (size < 0) return ErrnoStatus("cannot list extended attributes");
  return std::vector<std::string>(absl::StrSplit(names, '\0', absl::SkipEmpty()));
}

}  // namespace

bool MayBeSet(absl::string_view name) {
  return absl::StartsWith(name, "user.") || name == "security.capability" ||
         name == "system.posix_acl_access" || name == "system.posix_acl_default" ||
         (absl::StartsWith(name, "trusted.") && !absl::StartsWith(name, kOverlay));
}

absl::StatusOr<std::vector<std::string>> SettableAttributes(const std::string& path, bool follow) {
  GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> names, Names(path, follow));
  std::erase_if(names, [](const std::string& name) { return !MayBeSet(name); });
  return names;
}

absl::StatusOr<Attributes> ReadAttributes(const std::string& path, bool follow) {
  Attributes attributes;
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, Names(path, follow));
  for (const std::string& name : names) {
    const Fate fate = FateOf(name);
    if (fate == Fate::kDrop) continue;
    std::string value;
    const ssize_t length = ReadAll(
        [&](char* to, size_t room) {
          return (follow ? getxattr : lgetxattr)(path.c_str(), name.c_str(), to, room);
        },
        value);
    if (length < 0 && errno == ENODATA) continue;  // taken off since it was listed, in a tree in motion
    if (length < 0) return ErrnoStatus(absl::StrCat("cannot read the extended attribute ", name));
    if (fate == Fate::kKeep) attributes.kept.emplace_back(name, value);
    if (fate == Fate::kOpaque && value == "y") attributes.opaque = true;
    if (fate == Fate::kRefuse || (fate == Fate::kOpaque && value != "y")) {
      return absl::FailedPreconditionError(
          absl::StrCat("overlayfs keeps it in a form that cannot be carried to another node (", name,
                       "; mount container roots without redirect_dir and metacopy, and let no container "
                       "mount overlays in its root)"));
    }
  }
  return attributes;
}

}  // namespace godwit::files
