// SPDX-License-Identifier: Apache-2.0
// Makes the processes of cgroups stand still, all cgroups together, and go on again.
// Kernel: Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze and cgroup.events.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace godwit::runtime {

// Cgroups that stand still; thaws them when it goes, unless released.
class FrozenCgroups {
 public:
  FrozenCgroups() = default;
  FrozenCgroups(FrozenCgroups&& other) noexcept;
  FrozenCgroups& operator=(FrozenCgroups&& other) noexcept;
  ~FrozenCgroups();

  // Thaws all of them, also when one fails; the first error is returned, and those that failed can be thawed
  // again. A cgroup that is gone needs no thawing.
  absl::Status Thaw();
  // Leaves them frozen: somebody else answers for them from here on.
  void Release() { folders_.clear(); }

 private:
  friend absl::StatusOr<FrozenCgroups> FreezeCgroups(std::vector<std::string>, absl::Duration);
  friend FrozenCgroups AdoptFrozen(std::vector<std::string>);
  explicit FrozenCgroups(std::vector<std::string> folders) : folders_(std::move(folders)) {}

  std::vector<std::string> folders_;
};

// Freezes all of `folders` (cgroup2 folders) at once and returns when every task in them stands still. When
// that takes longer than `limit` or fails, all are thawed again: DeadlineExceeded names the cgroup that did
// not stand still.
absl::StatusOr<FrozenCgroups> FreezeCgroups(std::vector<std::string> folders, absl::Duration limit);

// Takes over cgroups that another process has frozen.
FrozenCgroups AdoptFrozen(std::vector<std::string> folders);

// Waits until all of them stand still (DeadlineExceeded otherwise). Changes nothing.
absl::Status WaitFrozen(const std::vector<std::string>& folders, absl::Duration limit);

// OK when nobody has thawed the cgroup, and all of it stands still. For a moment it may not, frozen as it is:
// when a tracer lets go of its tasks the kernel counts each of them as running until it has come to its place
// in the freezer (kernel/cgroup/freezer.c, cgroup_leave_frozen), without a line of its own; that long is
// waited, up to 2 s. FailedPrecondition otherwise.
absl::Status CheckStandsStill(const std::string& folder);

// Kills everything in the cgroup, frozen or not, and waits until nothing is left. The processes run no more
// code of their own. OK when the cgroup is gone or empty.
absl::Status KillCgroup(const std::string& folder, absl::Duration limit);

}  // namespace godwit::runtime
