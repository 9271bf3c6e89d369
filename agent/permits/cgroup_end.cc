// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/cgroup_end.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::permits {

absl::Status KillCgroup(const std::string& root, const std::string& cgroup, absl::Duration limit) {
  const std::string folder = absl::StrCat(root, cgroup);
  const absl::Time deadline = absl::Now() + limit;
  absl::Status killed = WriteKernelFile(absl::StrCat(folder, "/cgroup.kill"), "1");
  if (absl::IsNotFound(killed)) return absl::OkStatus();
  GODWIT_RETURN_IF_ERROR(killed);
  // cgroup.events raises POLLPRI whenever `populated` changes; opened before it is read, so that no change is
  // missed.
  absl::StatusOr<UniqueFd> events = OpenFile(absl::StrCat(folder, "/cgroup.events"), O_RDONLY);
  if (absl::IsNotFound(events.status())) return absl::OkStatus();
  GODWIT_RETURN_IF_ERROR(events.status());
  while (true) {
    absl::StatusOr<std::string> text = ReadFile(absl::StrCat(folder, "/cgroup.events"));
    // A folder that goes while it is read answers ENODEV.
    if (!text.ok()) return FileExists(folder) ? text.status() : absl::OkStatus();
    if (absl::StrContains(*text, "populated 0")) {
      // An empty cgroup that is still frozen makes runc call the dead container "paused" and refuse to delete
      // it.
      (void)WriteKernelFile(absl::StrCat(folder, "/cgroup.freeze"), "0");
      return absl::OkStatus();
    }
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(absl::StrCat("processes in cgroup ", cgroup, " still live ",
                                                      absl::FormatDuration(limit), " after cgroup.kill"));
    }
    pollfd wait = {.fd = events->get(), .events = POLLPRI, .revents = 0};
    poll(&wait, 1, static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(left), 1, 1000)));
  }
}

absl::Status CheckStandsFrozen(const std::string& root, const std::string& cgroup) {
  absl::StatusOr<std::string> events = ReadFile(absl::StrCat(root, cgroup, "/cgroup.events"));
  if (!events.ok() || absl::StrContains(*events, "populated 0")) {
    return absl::FailedPreconditionError(absl::StrCat("no process is left in its cgroup ", cgroup));
  }
  if (!absl::StrContains(*events, "frozen 1")) {
    return absl::FailedPreconditionError(absl::StrCat("its cgroup ", cgroup, " is not frozen"));
  }
  return absl::OkStatus();
}

}  // namespace godwit::permits
