// SPDX-License-Identifier: Apache-2.0
// Agents over HTTPS with certificates on both sides: the agent of node N must show a certificate for
// N.agent.godwit, whatever its address is.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/agents/agent.h"
#include "controller/certificates/identity.h"

namespace godwit::controller {

// One request and its answer, for metrics.
struct AgentRequestRecord {
  std::string method;
  std::string route;  // "node", "preflight", "rehearsal", "target", "source", "finish", "abort",
                      // "checkpoint", "manifest", "restore"
  int code = 0;       // HTTP; 0: no answer
  absl::Duration latency;
};

struct HttpAgentOptions {
  int port = agent_api::kDefaultApiPort;
  absl::Duration connect_timeout = absl::Seconds(3);
  absl::Duration timeout = absl::Seconds(10);
  absl::Duration preflight_timeout = absl::Seconds(30);
  absl::Duration rehearsal_timeout = absl::Seconds(45);
  std::function<void(const AgentRequestRecord&)> observer;  // called from any thread; may be empty
};

class HttpAgents : public Agents {
 public:
  // `identity` is not owned and outlives this and all agents.
  HttpAgents(const IdentityHolder* identity, HttpAgentOptions options)
      : identity_(identity), options_(std::move(options)) {}
  std::shared_ptr<Agent> At(const std::string& node, const std::string& address) override;

 private:
  const IdentityHolder* const identity_;
  const HttpAgentOptions options_;
  absl::Mutex mutex_;
  std::map<std::string, std::pair<std::string, std::shared_ptr<Agent>>> agents_
      ABSL_GUARDED_BY(mutex_);  // by node
};

}  // namespace godwit::controller
