// SPDX-License-Identifier: Apache-2.0
// The agents of the nodes, as the controller talks to them (agent/api/messages.h). An interface because a
// node is crossed: agents over HTTPS in production, stateful fakes in tests.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/messages.h"

namespace godwit::controller {

// One node's agent. Thread-safe; every call has a deadline. Errors: NotFound (the agent knows nothing of the
// uid), InvalidArgument, FailedPrecondition, ResourceExhausted, PermissionDenied as the agent said;
// Unauthenticated when one side does not trust the other's certificate; Unavailable or DeadlineExceeded when
// there was no answer.
class Agent {
 public:
  virtual ~Agent() = default;

  virtual absl::StatusOr<agent_api::NodeInfo> Node() = 0;
  virtual absl::StatusOr<agent_api::PreflightReport> Preflight(
      const agent_api::PreflightRequest& request) = 0;
  // Takes some seconds.
  virtual absl::StatusOr<agent_api::RehearsalReport> Rehearse(const agent_api::RehearsalRequest& request) = 0;

  virtual absl::StatusOr<agent_api::TargetStatus> PutTarget(const std::string& uid,
                                                            const agent_api::TargetSpec& spec) = 0;
  virtual absl::StatusOr<agent_api::TargetStatus> GetTarget(const std::string& uid) = 0;
  virtual absl::Status AbortTarget(const std::string& uid, const agent_api::AbortRequest& why) = 0;
  virtual absl::Status TakeOver(const std::string& uid) = 0;
  virtual absl::Status ForgetTarget(const std::string& uid) = 0;  // OK when there is nothing to forget

  virtual absl::StatusOr<agent_api::SourceStatus> PutSource(const std::string& uid,
                                                            const agent_api::SourceSpec& spec) = 0;
  virtual absl::StatusOr<agent_api::SourceStatus> GetSource(const std::string& uid) = 0;
  virtual absl::Status SetSourceLimits(const std::string& uid, const agent_api::PreCopyLimits& limits) = 0;
  virtual absl::Status SwitchSource(const std::string& uid) = 0;
  virtual absl::Status AbortSource(const std::string& uid, const agent_api::AbortRequest& why) = 0;
  virtual absl::Status ReclaimSource(const std::string& uid, const agent_api::AbortRequest& why) = 0;
  virtual absl::Status FinishSource(const std::string& uid, const agent_api::FinishRequest& request) = 0;
  virtual absl::Status ForgetSource(const std::string& uid) = 0;  // OK when there is nothing to forget

  virtual absl::StatusOr<agent_api::CheckpointStatus> PutCheckpoint(
      const std::string& uid, const agent_api::CheckpointSpec& spec) = 0;
  virtual absl::StatusOr<agent_api::CheckpointStatus> GetCheckpoint(const std::string& uid) = 0;
  virtual absl::StatusOr<std::string> GetManifest(const std::string& uid) = 0;  // JSON of the pod
  virtual absl::Status RemoveCheckpoint(const std::string& uid) = 0;            // OK when there is none

  virtual absl::StatusOr<agent_api::TargetStatus> PutRestore(const std::string& uid,
                                                             const agent_api::RestoreSpec& spec) = 0;
  virtual absl::StatusOr<agent_api::TargetStatus> GetRestore(const std::string& uid) = 0;
  virtual absl::Status AbortRestore(const std::string& uid, const agent_api::AbortRequest& why) = 0;
  virtual absl::Status ForgetRestore(const std::string& uid) = 0;  // OK when there is nothing to forget
};

// Thread-safe.
class Agents {
 public:
  virtual ~Agents() = default;
  // The agent at `address` (the host's IP), which must prove to be that of `node`. Never null.
  virtual std::shared_ptr<Agent> At(const std::string& node, const std::string& address) = 0;
};

// "ip:port", with brackets for IPv6.
std::string HostPort(const std::string& ip, int port);

}  // namespace godwit::controller
