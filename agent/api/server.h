// SPDX-License-Identifier: Apache-2.0
// The agent's API (messages.h, docs/agent-api.md): HTTPS with client certificates, for the controller alone.
// And, beside it, plain HTTP for what anybody may know: metrics and health.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/messages.h"
#include "agent/checkpoint/checkpoints.h"
#include "agent/operations/operations.h"
#include "agent/tls/identity.h"
#include "metrics/metrics.h"

namespace godwit::agent_api {

// What answers. All of it outlives the server and may be called from several threads.
struct Backend {
  operations::Operations* operations = nullptr;
  checkpoint::Checkpoints* checkpoints = nullptr;
  std::function<NodeInfo()> node;
  std::function<absl::StatusOr<PreflightReport>(const PreflightRequest&)> preflight;
  std::function<absl::StatusOr<RehearsalReport>(const RehearsalRequest&)> rehearse;
  metrics::AgentMetrics* metrics = nullptr;
};

class ApiServer {
 public:
  // Port 0 takes a free one. Callers must show a certificate of our authority for controller.godwit.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Start(tls::Identity& identity, const std::string& address,
                                                          int port, Backend backend);
  virtual ~ApiServer() = default;  // ends when requests in work are answered
  virtual int port() const = 0;
};

// /metrics, /healthz (this process answers) and /readyz (`ready` says OK; else 503 with its message).
class HealthServer {
 public:
  static absl::StatusOr<std::unique_ptr<HealthServer>> Start(const std::string& address, int port,
                                                             const metrics::Registry& registry,
                                                             std::function<absl::Status()> ready);
  virtual ~HealthServer() = default;
  virtual int port() const = 0;
};

}  // namespace godwit::agent_api
