// SPDX-License-Identifier: Apache-2.0
// What this node is and has, as the agent tells it: read from the host's files and from the programs on it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "agent/api/messages.h"
#include "agent/runtime/containers.h"
#include "base/process.h"

namespace godwit::serve {

// Thread-safe after Make.
class NodeFacts {
 public:
  struct Options {
    std::string node;
    runtime::HostView host;
    std::string host_namespaces;  // "/proc/1/ns"; empty on the host itself
    std::string install_folder;   // host path
    std::string state_folder;
    std::string cri_socket;  // host path
    bool memory_tracking = true;
    int disk_reserve_percent = 0;
  };
  // Reads etc/runtime.json, asks runc and CRIU for their versions and CRIU what it thinks of the node.
  static absl::StatusOr<NodeFacts> Make(Options options);

  const agent_api::RuntimeConfig& runtime() const { return runtime_; }
  // Why no memory can be tracked here: the kernel's fault, or somebody's wish.
  absl::Status CheckTracking() const;
  // Bytes of the state folder's file system that archives leave free: kubelet evicts pods of others when less
  // is left. Images of migrations may take them, for they go when the pod has: a node whose disk is full must
  // be left all the same.
  int64_t DiskReserve() const;
  // As it is now; whether the handler is live is asked at most every two seconds.
  agent_api::NodeInfo Info() const ABSL_LOCKS_EXCLUDED(live_->mutex);

 private:
  struct Live {
    absl::Mutex mutex;
    absl::Time asked ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
    bool ready ABSL_GUARDED_BY(mutex) = false;
  };
  explicit NodeFacts(Options options) : options_(std::move(options)) {}
  // In the host's mount namespace.
  absl::StatusOr<RunResult> RunOnHost(const std::vector<std::string>& command) const;
  absl::StatusOr<std::string> VersionOf(const std::string& program) const;
  std::string CriuCheck(const std::string& criu) const;
  bool RuntimeReady() const;

  Options options_;
  agent_api::RuntimeConfig runtime_;
  agent_api::NodeInfo fixed_;
  std::unique_ptr<Live> live_ = std::make_unique<Live>();
};

// MemAvailable of <proc>/meminfo in bytes; 0 when it cannot be read.
int64_t MemoryAvailable(const std::string& proc);

}  // namespace godwit::serve
