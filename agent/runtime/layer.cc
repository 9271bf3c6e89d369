// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/layer.h"

#include <sys/stat.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/runtime/mounts.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

// Links of /proc lead to the thing itself. Two paths to the same one?
absl::StatusOr<bool> Same(const std::string& a, const std::string& b) {
  struct stat first, second;
  if (stat(a.c_str(), &first) != 0) return ErrnoStatus(absl::StrCat("cannot stat ", a));
  if (stat(b.c_str(), &second) != 0) return ErrnoStatus(absl::StrCat("cannot stat ", b));
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

absl::Status Elsewhere(const Container& container, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("the first process of container ", container.name,
                                                    " has ", what,
                                                    ", not the one that the container runtime gave it"));
}

}  // namespace

absl::Status CheckInPlace(const HostView& host, const Container& container) {
  const std::string init = absl::StrCat(host.proc, "/", container.init_pid);
  GODWIT_ASSIGN_OR_RETURN(const bool same_root, Same(absl::StrCat(init, "/root"), host.At(container.rootfs)));
  if (!same_root) return Elsewhere(container, "a root file system of its own");
  const struct {
    const char *link, *oci;
  } kinds[] = {{"user", "user"}, {"net", "network"}, {"ipc", "ipc"}, {"uts", "uts"}};
  for (const auto& kind : kinds) {
    const auto named = container.namespaces.find(kind.oci);
    if (named != container.namespaces.end() && named->second.empty()) continue;  // made with the container
    const std::string expected = named == container.namespaces.end()
                                     ? absl::StrCat(host.proc, "/1/ns/", kind.link)
                                     : host.At(named->second);
    GODWIT_ASSIGN_OR_RETURN(const bool same, Same(absl::StrCat(init, "/ns/", kind.link), expected));
    if (!same) return Elsewhere(container, absl::StrCat("a ", kind.oci, " namespace of its own"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FindWritableLayer(const HostView& host, const Container& container) {
  GODWIT_RETURN_IF_ERROR(CheckInPlace(host, container));
  GODWIT_ASSIGN_OR_RETURN(const std::string device, DeviceOf(host.At(container.rootfs)));
  GODWIT_ASSIGN_OR_RETURN(const std::vector<Mount> mounts, ReadMounts(host.proc, 1));
  return WritableLayer(mounts, device);
}

absl::StatusOr<std::vector<InnerOverlay>> FindInnerOverlays(const std::string& proc,
                                                            const std::string& root_device,
                                                            const std::vector<pid_t>& processes) {
  std::vector<InnerOverlay> found;
  for (const pid_t pid : processes) {
    const absl::StatusOr<std::vector<Mount>> mounts = ReadMounts(proc, pid);
    if (absl::IsNotFound(mounts.status())) continue;  // it has ended
    GODWIT_RETURN_IF_ERROR(mounts.status());
    for (const Mount& mount : *mounts) {
      if (mount.type == "overlay" && mount.device != root_device) found.push_back({pid, mount.point});
    }
  }
  return found;
}

absl::Status CheckNoInnerOverlay(const std::string& proc, const std::string& root_device,
                                 const std::vector<pid_t>& processes) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<InnerOverlay> found,
                          FindInnerOverlays(proc, root_device, processes));
  if (found.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("process ", found.front().pid, " has an overlay mounted at ", found.front().point));
}

}  // namespace godwit::runtime
