// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/mounts.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

constexpr size_t kMostContainerMounts = size_t{512} << 10;  // bytes of text

std::string MountInfo(const std::string& proc, pid_t pid) {
  return absl::StrCat(proc, "/", pid, "/mountinfo");
}

// The kernel writes space, tab, newline and backslash as \ooo.
std::string Unescape(absl::string_view text) {
  const auto octal = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      out.push_back(
          static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

// "36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
absl::StatusOr<Mount> ParseLine(absl::string_view line) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  const auto dash = std::find(words.begin(), words.end(), "-");
  Mount mount;
  if (words.size() < 10 || dash - words.begin() < 6 || words.end() - dash < 4 ||
      !absl::SimpleAtoi(words[0], &mount.id) || !absl::SimpleAtoi(words[1], &mount.parent)) {
    return absl::InvalidArgumentError(absl::StrCat("no line of mountinfo: ", line.substr(0, 200)));
  }
  mount.device = std::string(words[2]);
  mount.root = Unescape(words[3]);
  mount.point = Unescape(words[4]);
  mount.options = std::string(words[5]);
  mount.type = std::string(dash[1]);
  mount.source = Unescape(dash[2]);
  mount.super_options = std::string(dash[3]);
  return mount;
}

}  // namespace

absl::StatusOr<std::vector<Mount>> ParseMountInfo(absl::string_view text) {
  std::vector<Mount> mounts;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    GODWIT_ASSIGN_OR_RETURN(Mount mount, ParseLine(line));
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

absl::StatusOr<std::vector<Mount>> ReadMounts(const std::string& proc, pid_t pid) {
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(MountInfo(proc, pid)));
  return ParseMountInfo(text);
}

absl::StatusOr<std::vector<Mount>> ReadContainerMounts(const std::string& proc, pid_t pid) {
  const absl::StatusOr<std::string> text = ReadFile(MountInfo(proc, pid), kMostContainerMounts);
  if (absl::IsResourceExhausted(text.status()))
    return absl::ResourceExhaustedError(absl::StrCat("process ", pid, " has thousands of mounts"));
  // EINVAL: it has given its mount namespace back already.
  if (absl::IsInvalidArgument(text.status()))
    return absl::NotFoundError(absl::StrCat("process ", pid, " is ending"));
  GODWIT_RETURN_IF_ERROR(text.status());
  return ParseMountInfo(*text);
}

absl::StatusOr<std::string> DeviceOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return ErrnoStatus(absl::StrCat("cannot stat ", path));
  return absl::StrCat(major(status.st_dev), ":", minor(status.st_dev));
}

absl::StatusOr<std::string> WritableLayer(const std::vector<Mount>& mounts, absl::string_view device) {
  const auto root = std::find_if(mounts.begin(), mounts.end(),
                                 [device](const Mount& mount) { return mount.device == device; });
  if (root == mounts.end() || root->type != "overlay") {
    return absl::FailedPreconditionError(absl::StrCat(
        "the container's root file system is ", root == mounts.end() ? "unknown" : root->type,
        ", not overlay: its writable layer cannot be found (the node's container runtime needs the overlayfs "
        "snapshotter)"));
  }
  for (absl::string_view option : absl::StrSplit(root->super_options, ',')) {
    if (!absl::ConsumePrefix(&option, "upperdir=")) continue;
    std::string path = Unescape(option);
    if (absl::StartsWith(path, "/") && !absl::StrContains(path, "/../")) return path;
    return absl::FailedPreconditionError(
        absl::StrCat("the overlay's upperdir is not an absolute path: ", path));
  }
  return absl::FailedPreconditionError("the container's root overlay has no upperdir: it is read-only");
}

}  // namespace godwit::runtime
