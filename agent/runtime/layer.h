// SPDX-License-Identifier: Apache-2.0
// Where on the host a container's own files are: by the host's word alone. A process with a mount namespace
// of its own can have any path of the host as its "upperdir", which agents read and write as root.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/runtime/containers.h"

namespace godwit::runtime {

// The folder on the host that holds what the container wrote to its root file system: upperdir of the overlay
// that the host has mounted at container.rootfs (the same file system, whatever links lead there).
// FailedPrecondition when there is none (another snapshotter), or when the init process does not live where
// the container runtime has put it (CheckInPlace).
absl::StatusOr<std::string> FindWritableLayer(const HostView& host, const Container& container);

// FailedPrecondition when the container's init process has another root file system, or another user,
// network, IPC or UTS namespace, than config.json says.
absl::Status CheckInPlace(const HostView& host, const Container& container);

// What config.json says of them, as "device:inode" by the names of their links in /proc/PID: "root",
// "ns/user", ... What was made with the container is not in it.
absl::StatusOr<Place> PlaceOf(const HostView& host, const Container& container);
// The same check with what was said before: of the init process all of it, and of the others that they are in
// its user namespace. What CRIU restores in another one would be made there, by a root that is not the
// container's.
absl::Status CheckInPlace(const std::string& proc, const Place& place, pid_t init,
                          const std::vector<pid_t>& processes);

// An overlay that one of these processes of a container sees mounted, and which is not the root file system
// that the container was given (`root_device`: DeviceOf(host.At(container.rootfs))): CRIU would mount it
// again on the target by the same paths, which are the target node's then. Every process counts, for each
// sees but what lies below its own root; those that have mount namespace and root in common are looked at
// once. ResourceExhausted: so many mounts that they are not looked at. DeadlineExceeded: not all was looked
// at until then (SteadyNow).
struct InnerOverlay {
  pid_t pid = 0;
  std::string point;  // as that process sees it
};
absl::StatusOr<std::vector<InnerOverlay>> FindInnerOverlays(const std::string& proc,
                                                            const std::string& root_device,
                                                            const std::vector<pid_t>& processes,
                                                            absl::Time deadline = absl::InfiniteFuture());
// FailedPrecondition when there is one.
absl::Status CheckNoInnerOverlay(const std::string& proc, const std::string& root_device,
                                 const std::vector<pid_t>& processes);

}  // namespace godwit::runtime
