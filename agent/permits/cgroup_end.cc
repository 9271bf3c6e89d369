// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/cgroup_end.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/runtime/freezer.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::permits {

absl::Status KillCgroup(const std::string& root, const std::string& cgroup, absl::Duration limit) {
  const std::string folder = absl::StrCat(root, cgroup);
  GODWIT_RETURN_IF_ERROR(runtime::KillCgroup(folder, limit));
  // An empty cgroup that is still frozen makes runc call the dead container "paused" and refuse to delete it.
  absl::Status thawed = WriteKernelFile(absl::StrCat(folder, "/cgroup.freeze"), "0");
  return absl::IsNotFound(thawed) ? absl::OkStatus() : thawed;
}

absl::Status CheckStandsFrozen(const std::string& root, const std::string& cgroup) {
  absl::StatusOr<std::string> events = ReadFile(absl::StrCat(root, cgroup, "/cgroup.events"));
  if (!events.ok() || absl::StrContains(*events, "populated 0")) {
    return absl::FailedPreconditionError(absl::StrCat("no process is left in its cgroup ", cgroup));
  }
  return runtime::CheckStandsStill(absl::StrCat(root, cgroup));
}

}  // namespace godwit::permits
