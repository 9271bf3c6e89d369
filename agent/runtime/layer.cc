// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/layer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "agent/runtime/mounts.h"
#include "base/clock.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

// Links of /proc lead to the thing itself.
absl::StatusOr<std::string> IdentityOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return ErrnoStatus(absl::StrCat("cannot stat ", path));
  return absl::StrCat(status.st_dev, ":", status.st_ino);
}

absl::Status Elsewhere(absl::string_view link) {
  return absl::FailedPreconditionError(absl::StrCat(
      "the first process of the container has a ",
      link == "root" ? "root file system" : absl::StrCat(absl::StripPrefix(link, "ns/"), " namespace"),
      " of its own, not the one that the container runtime gave it"));
}

// What decides which mounts a process sees: its mount namespace, and its root in it, by mount and inode (a
// folder that is mounted in two places is two roots). nullopt: not known.
using View = std::tuple<std::string, uint64_t, uint64_t>;

std::optional<View> ViewOf(const std::string& proc, pid_t pid) {
  char name_space[64];
  const ssize_t size =
      readlink(absl::StrCat(proc, "/", pid, "/ns/mnt").c_str(), name_space, sizeof(name_space));
  struct statx root{};
  constexpr unsigned kWanted = STATX_INO | STATX_MNT_ID;
  if (size <= 0 ||
      statx(AT_FDCWD, absl::StrCat(proc, "/", pid, "/root").c_str(), AT_STATX_DONT_SYNC, kWanted, &root) !=
          0 ||
      (root.stx_mask & kWanted) != kWanted)
    return std::nullopt;
  return View(std::string(name_space, static_cast<size_t>(size)), root.stx_mnt_id, root.stx_ino);
}

}  // namespace

absl::StatusOr<Place> PlaceOf(const HostView& host, const Container& container) {
  Place place;
  GODWIT_ASSIGN_OR_RETURN(place["root"], IdentityOf(host.At(container.rootfs)));
  const struct {
    const char *link, *oci;
  } kinds[] = {{"ns/user", "user"}, {"ns/net", "network"}, {"ns/ipc", "ipc"}, {"ns/uts", "uts"}};
  for (const auto& kind : kinds) {
    const auto named = container.namespaces.find(kind.oci);
    if (named != container.namespaces.end() && named->second.empty()) continue;  // made with the container
    const std::string expected = named == container.namespaces.end()
                                     ? absl::StrCat(host.proc, "/1/", kind.link)
                                     : host.At(named->second);
    GODWIT_ASSIGN_OR_RETURN(place[kind.link], IdentityOf(expected));
  }
  return place;
}

absl::Status CheckInPlace(const std::string& proc, const Place& place, pid_t init,
                          const std::vector<pid_t>& processes) {
  const std::string first = absl::StrCat(proc, "/", init, "/");
  for (const auto& [link, expected] : place) {
    GODWIT_ASSIGN_OR_RETURN(const std::string is, IdentityOf(absl::StrCat(first, link)));
    if (is != expected) return Elsewhere(link);
  }
  if (processes.empty()) return absl::OkStatus();
  GODWIT_ASSIGN_OR_RETURN(const std::string user, IdentityOf(absl::StrCat(first, "ns/user")));
  for (const pid_t pid : processes) {
    const absl::StatusOr<std::string> is = IdentityOf(absl::StrCat(proc, "/", pid, "/ns/user"));
    if (absl::IsNotFound(is.status())) continue;  // it has ended
    GODWIT_RETURN_IF_ERROR(is.status());
    if (*is != user) {
      return absl::FailedPreconditionError(
          absl::StrCat("process ", pid, " is in a user namespace that it made inside the container"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckInPlace(const HostView& host, const Container& container) {
  GODWIT_ASSIGN_OR_RETURN(const Place place, PlaceOf(host, container));
  return Annotate(CheckInPlace(host.proc, place, container.init_pid, {}),
                  absl::StrCat("container ", container.name));
}

absl::StatusOr<std::string> FindWritableLayer(const HostView& host, const Container& container) {
  GODWIT_RETURN_IF_ERROR(CheckInPlace(host, container));
  GODWIT_ASSIGN_OR_RETURN(const std::string device, DeviceOf(host.At(container.rootfs)));
  GODWIT_ASSIGN_OR_RETURN(const std::vector<Mount> mounts, ReadMounts(host.proc, 1));
  return WritableLayer(mounts, device);
}

absl::StatusOr<std::vector<InnerOverlay>> FindInnerOverlays(const std::string& proc,
                                                            const std::string& root_device,
                                                            const std::vector<pid_t>& processes,
                                                            absl::Time deadline) {
  std::vector<InnerOverlay> found;
  std::set<View> seen;
  for (const pid_t pid : processes) {
    if (SteadyNow() > deadline) return absl::DeadlineExceededError("not all mounts were looked at in time");
    const std::optional<View> view = ViewOf(proc, pid);
    if (view && !seen.insert(*view).second) continue;
    const absl::StatusOr<std::vector<Mount>> mounts = ReadContainerMounts(proc, pid);
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
