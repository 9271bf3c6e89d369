// SPDX-License-Identifier: Apache-2.0
// What the agent's API does, route by route (agent/api/messages.h, docs/agent-api.md); the server knows only this.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/messages.h"
#include "base/json.h"

namespace godwit::api {

// Called from several threads at a time. `uid` is 36 characters of [0-9a-f-], and a spec's UID is the one of the path. A
// status becomes the HTTP code that docs/agent-api.md names for it.
class Service {
 public:
  virtual ~Service() = default;
  virtual absl::StatusOr<agent_api::NodeInfo> Node() = 0;
  virtual absl::StatusOr<agent_api::PreflightReport> Preflight(const agent_api::PreflightRequest& request) = 0;

  virtual absl::StatusOr<agent_api::TargetStatus> PutTarget(const agent_api::TargetSpec& spec) = 0;
  virtual absl::StatusOr<agent_api::TargetStatus> GetTarget(const std::string& uid) = 0;
  virtual absl::Status AbortTarget(const std::string& uid, const agent_api::AbortRequest& why) = 0;
  virtual absl::Status ForgetTarget(const std::string& uid) = 0;

  virtual absl::StatusOr<agent_api::SourceStatus> PutSource(const agent_api::SourceSpec& spec) = 0;
  virtual absl::StatusOr<agent_api::SourceStatus> GetSource(const std::string& uid) = 0;
  virtual absl::Status AbortSource(const std::string& uid, const agent_api::AbortRequest& why) = 0;
  virtual absl::Status FinishSource(const std::string& uid) = 0;
  virtual absl::Status ForgetSource(const std::string& uid) = 0;

  virtual absl::StatusOr<agent_api::CheckpointStatus> PutCheckpoint(const agent_api::CheckpointSpec& spec) = 0;
  virtual absl::StatusOr<agent_api::CheckpointStatus> GetCheckpoint(const std::string& uid) = 0;
  virtual absl::StatusOr<json::Raw> GetManifest(const std::string& uid) = 0;
  virtual absl::Status RemoveCheckpoint(const std::string& uid) = 0;

  virtual absl::StatusOr<agent_api::TargetStatus> PutRestore(const agent_api::RestoreSpec& spec) = 0;
  virtual absl::StatusOr<agent_api::TargetStatus> GetRestore(const std::string& uid) = 0;
  virtual absl::Status AbortRestore(const std::string& uid, const agent_api::AbortRequest& why) = 0;
  virtual absl::Status ForgetRestore(const std::string& uid) = 0;
};

}  // namespace godwit::api
