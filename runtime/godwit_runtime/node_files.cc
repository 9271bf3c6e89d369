// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/node_files.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/runtime/mounts.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::godwit_runtime {
namespace {

bool IsReadOnly(const runtime::Mount& mount) {
  for (const absl::string_view option : absl::StrSplit(mount.options, ',')) {
    if (option == "ro") return true;
  }
  return false;
}

// In the other mount namespace; returns errno.
int MakeReadOnly(int mount_namespace, const std::vector<std::string>& points) {
  if (setns(mount_namespace, CLONE_NEWNS) != 0) return errno;
  mount_attr read_only{};
  read_only.attr_set = MOUNT_ATTR_RDONLY;
  for (const std::string& point : points) {
    if (syscall(SYS_mount_setattr, AT_FDCWD, point.c_str(), AT_SYMLINK_NOFOLLOW, &read_only,
                sizeof(read_only)) != 0)
      return errno;
  }
  return 0;
}

}  // namespace

absl::Status KeepNodesNull(pid_t restored) {
  GODWIT_ASSIGN_OR_RETURN(const std::string devices, runtime::DeviceOf("/dev"));
  GODWIT_ASSIGN_OR_RETURN(const std::vector<runtime::Mount> mounts,
                          runtime::ReadContainerMounts("/proc", restored));
  std::vector<std::string> points;
  for (const runtime::Mount& mount : mounts) {
    if (mount.device == devices && mount.root == "/null" && !IsReadOnly(mount)) points.push_back(mount.point);
  }
  if (points.empty()) return absl::OkStatus();
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd mount_namespace,
                          OpenFile(absl::StrCat("/proc/", restored, "/ns/mnt"), O_RDONLY));
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus("cannot fork");
  if (child == 0) _exit(MakeReadOnly(mount_namespace.get(), points));
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return ErrnoStatus("cannot wait for the child that changes mounts");
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(WIFEXITED(status) ? WEXITSTATUS(status) : EINTR,
                             "cannot make the node's /dev/null read-only in the restored container");
}

}  // namespace godwit::godwit_runtime
