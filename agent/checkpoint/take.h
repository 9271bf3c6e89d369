// SPDX-License-Identifier: Apache-2.0
// Taking one checkpoint: copy the files and the memory in rounds while the pod runs; freeze, dump, copy what
// was written last of both, thaw; then write the archives. The pod stands still for what does not grow with
// its memory, nor with the number of its files but for a look at each.
//
// Where the memory cannot be tracked (this kernel, O_DIRECT and the like, another's userfaultfd or tracer),
// CRIU dumps it in the freeze, and the status says why.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/host_protocol.h"
#include "agent/api/messages.h"
#include "agent/migration/guard_port.h"
#include "agent/migration/pre_copy.h"
#include "agent/runtime/containers.h"

namespace godwit::checkpoint {

// What taking a checkpoint needs of the node.
struct Node {
  runtime::HostView host;
  std::string runtime;        // runc, host path
  std::string criu_folder;    // host path
  std::string guards_folder;  // sockets and journals of guards; the same path here and on the host
  std::string criu_version;
  migration::MemoryNode memory;
  // Bytes of this node's memory that may be used for the pages that are copied in the freeze.
  std::function<uint64_t()> memory_for_pages;
  int64_t disk_reserve = 0;  // bytes of the disk that archives leave free
  // As of migration::SourceNode.
  std::function<absl::Status(const std::string& cgroup, const std::string& folder)> write_smaps;
  std::function<absl::Status(const runtime::Container&, const std::vector<std::string>& addresses)>
      check_addresses;
};

// Starts a guard for a pod (migration::RealGuards(...).start).
using StartGuard =
    std::function<absl::StatusOr<std::unique_ptr<migration::Guard>>(const agent_api::GuardSpec& spec)>;

// What the guard of a checkpoint and this agent leave each other; gone afterwards.
std::string GuardFolder(const Node& node, const std::string& uid);

// Takes the checkpoint and writes its archives into `folder`, which exists; `folder`/work holds what is
// needed meanwhile and is gone afterwards. The status is Ready or Failed, with reason and message; soon after
// `stop` has become true it is Failed, unless all was done. However it ends, the pod runs.
agent_api::CheckpointStatus Take(const agent_api::CheckpointSpec& spec, const Node& node,
                                 const StartGuard& start_guard, const std::string& folder,
                                 const std::atomic<bool>& stop);

}  // namespace godwit::checkpoint
