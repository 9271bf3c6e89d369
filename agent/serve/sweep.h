// SPDX-License-Identifier: Apache-2.0
// Looks over the node for promises of the hand-over that are broken here (docs/security.md): by what lies on
// the disk and what the kernel says, not by what the agent believes. What is found is told once, and only
// when a look of at least kConfirm later still finds it: guards and agents that come and go pass through such
// states.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "agent/runtime/containers.h"

namespace godwit::serve {

struct BrokenPromise {
  std::string invariant;  // "I2", "I5", "I6"
  std::string uid;        // of the Migration, Checkpoint or Restore
  std::string message;
};

class Sweep {
 public:
  struct Options {
    runtime::HostView host;
    std::string state_folder;  // as seen from here
    std::string run_folder;
    // Whether this agent has an operation of that UID, in work or ended and not forgotten.
    std::function<bool(const std::string& uid)> knows;
  };
  // Above the five seconds in which a pod without an agent is thawed.
  static constexpr absl::Duration kConfirm = absl::Seconds(10);
  // What a guard may take, beyond a freeze's limit, to thaw.
  static constexpr absl::Duration kGrace = absl::Seconds(30);

  explicit Sweep(Options options) : options_(std::move(options)) {}

  // What is found, and was not told before. One thread at a time.
  std::vector<BrokenPromise> Look(absl::Time now);

 private:
  void LookAtGuard(const std::string& spec_file, absl::Time now, std::vector<BrokenPromise>& found) const;
  void LookForStrangers(std::vector<BrokenPromise>& found) const;
  bool GuardLives(const std::string& uid) const;
  bool Says(const std::string& cgroup, const char* event) const;  // a line of cgroup.events

  const Options options_;
  std::map<std::pair<std::string, std::string>, absl::Time> suspected_;  // by invariant and uid: since when
  std::set<std::pair<std::string, std::string>> told_;
};

}  // namespace godwit::serve
