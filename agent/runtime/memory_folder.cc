// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/memory_folder.h"

#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

absl::Status CannotMake(const char* call) {
  return absl::FailedPreconditionError(
      absl::StrCat("cannot make a folder in memory: ", ErrnoStatus(call).message()));
}

std::atomic<int> alive_now = 0;

}  // namespace

MemoryFolder::MemoryFolder(UniqueFd mount, std::string path)
    : mount_(std::move(mount)), path_(std::move(path)) {
  ++alive_now;
}

MemoryFolder& MemoryFolder::operator=(MemoryFolder&& other) noexcept {
  if (this != &other) {
    Close();
    mount_ = std::move(other.mount_);
    path_ = std::move(other.path_);
  }
  return *this;
}

void MemoryFolder::Close() {
  if (!mount_.ok()) return;
  mount_.Reset();
  --alive_now;
}

int MemoryFolder::alive() { return alive_now; }

absl::StatusOr<MemoryFolder> MemoryFolder::Make(int64_t bytes) {
  const UniqueFd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context.ok()) return CannotMake("fsopen");
  const std::string size = absl::StrCat(bytes);
  if (fsconfig(context.get(), FSCONFIG_SET_STRING, "size", size.c_str(), 0) != 0 ||
      fsconfig(context.get(), FSCONFIG_SET_STRING, "mode", "0700", 0) != 0 ||
      fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return CannotMake("fsconfig");
  UniqueFd mount(
      fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
  if (!mount.ok()) return CannotMake("fsmount");
  std::string path = absl::StrCat("/proc/", getpid(), "/fd/", mount.get());
  return MemoryFolder(std::move(mount), std::move(path));
}

}  // namespace godwit::runtime
