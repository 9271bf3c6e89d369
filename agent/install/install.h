// SPDX-License-Identifier: Apache-2.0
// Prepares a node for Godwit, and undoes it. Both can be repeated, and interrupted anywhere: the next run
// goes on.
//
// Installing: the host tree (host_tree.h); etc/runtime.json with the node's ordinary runtime; the drop-in
// with the runtime handler, which is taken back when containerd does not read it or when it changes anything
// else; a restart of containerd, only when the handler is not live and nothing is in flight; then it is
// checked that containerd is back.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/install/containerd.h"
#include "base/clock.h"

namespace godwit::install {

// Paths as the host has them; tests have their own.
struct Options {
  std::string source;  // the host tree in the agent's image
  std::string folder;  // agent_api::kInstallFolder
  std::string state;   // agent_api::kStateFolder
  std::string run;     // /run/godwit: does not outlive a boot, as containerd does not
  std::string guards;  // the cgroup that godwit-guards make theirs in
  std::string pagers;  // the same of godwit-pagers
  std::string drop_in_folder;
  std::string config;  // containerd's main configuration, for messages
  std::string proc = "/proc";
  std::string tasks = "/run/containerd/io.containerd.runtime.v2.task";
  std::string handler = "godwit";
  bool may_restart = true;
  absl::Duration quiet_limit = absl::Minutes(5);  // how long a node may be busy before a restart is given up
  absl::Duration back_limit = absl::Minutes(1);   // how long containerd may take to be back
};

// What was done, for a person.
struct Report {
  bool handler_live = false;
  std::vector<std::string> lines;
};

absl::StatusOr<Report> Install(const Options& options, Containerd& containerd, Clock& clock);

// Pods behind the handler keep godwit-runtime and the handler; the report says so. Archives of checkpoints
// are kept.
absl::StatusOr<Report> Uninstall(const Options& options, Containerd& containerd, Clock& clock);

}  // namespace godwit::install
