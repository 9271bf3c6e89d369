// SPDX-License-Identifier: Apache-2.0
// Taking one checkpoint: freeze, dump, read the files, thaw, then write the archives. The pod stands still
// only until its memory and files are read; everything after that is done while it runs.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/host_protocol.h"
#include "agent/migration/guard_port.h"
#include "agent/runtime/containers.h"

namespace godwit::checkpoint {

// What taking a checkpoint needs of the node.
struct Node {
  runtime::HostView host;
  std::string runtime;        // runc, host path
  std::string criu_folder;    // host path
  std::string guards_folder;  // sockets and journals of guards; the same path here and on the host
  std::string criu_version;
  // As of migration::SourceNode.
  std::function<absl::Status(const std::string& cgroup, const std::string& folder)> write_smaps;
};

// Starts a guard for a pod (migration::RealGuards(...).start).
using StartGuard =
    std::function<absl::StatusOr<std::unique_ptr<migration::Guard>>(const agent_api::GuardSpec& spec)>;

// Takes the checkpoint and writes its archives into `folder`, which exists; `folder`/work holds what is
// needed meanwhile and is gone afterwards. The status is Ready or Failed, with reason and message. However it
// ends, the pod runs.
agent_api::CheckpointStatus Take(const agent_api::CheckpointSpec& spec, const Node& node,
                                 const StartGuard& start_guard, const std::string& folder);

}  // namespace godwit::checkpoint
