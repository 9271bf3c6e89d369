// SPDX-License-Identifier: Apache-2.0
// Moves between cgroups that do not wait. The kernel lets whoever writes to cgroup.procs wait for an RCU
// grace period, 6 to 9 ms, unless the last writer left less than a grace period ago (kernel/cgroup/cgroup.c,
// cgroup_attach_lock; kernel/rcu/sync.c). CRIU and runc write there several times in a restore. So a thread
// writes there all the time: this process into the cgroup that it is in. The price, as of cgroup2's mount
// option favordynmods, which does the same for good: forks and exits on the machine take a slower path.
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "base/file.h"

namespace godwit::runtime {

class QuickMoves {
 public:
  // `procs`: the cgroup.procs of the cgroup2 folder that this process is in. Where it cannot be written to,
  // moves wait as ever.
  explicit QuickMoves(const std::string& procs);
  ~QuickMoves();
  QuickMoves(const QuickMoves&) = delete;
  QuickMoves& operator=(const QuickMoves&) = delete;

 private:
  void Write();

  UniqueFd procs_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace godwit::runtime
