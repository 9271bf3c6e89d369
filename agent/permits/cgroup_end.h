// SPDX-License-Identifier: Apache-2.0
// The cgroup of a restored container: does it stand still there, and how it ends when it may not run.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace godwit::permits {

// Kills what is in the cgroup `cgroup` ("/kubepods/...") of the cgroup2 mount at `root`, below it too, and
// returns when nothing is left there: frozen tasks die without running a line of their own. The empty cgroup
// is thawed. OK when the cgroup is not there; DeadlineExceeded when something still lives after `limit`.
absl::Status KillCgroup(const std::string& root, const std::string& cgroup, absl::Duration limit);

// OK when processes are in the cgroup and all of them are frozen.
absl::Status CheckStandsFrozen(const std::string& root, const std::string& cgroup);

}  // namespace godwit::permits
