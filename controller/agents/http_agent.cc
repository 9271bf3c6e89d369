// SPDX-License-Identifier: Apache-2.0
#include "controller/agents/http_agent.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/status.h"
#include "controller/agents/connection.h"

namespace godwit::controller {
namespace {

using agent_api::AbortRequest;

// An agent may be older or newer than we are: what it answers is checked like anything from outside.
template <class T>
absl::StatusOr<T> Decoded(const absl::StatusOr<std::string>& body, absl::string_view path) {
  if (!body.ok()) return body.status();
  absl::StatusOr<T> decoded = json::Decode<T>(*body);
  if (!decoded.ok()) {
    return absl::InternalError(
        absl::StrCat("the agent's answer to ", path, " cannot be read: ", decoded.status().message()));
  }
  return decoded;
}

absl::Status GoneIsFine(const absl::Status& status) {
  return status.code() == absl::StatusCode::kNotFound ? absl::OkStatus() : status;
}

class HttpAgent : public Agent {
 public:
  HttpAgent(AgentEndpoint endpoint, const IdentityHolder* identity, const HttpAgentOptions& options)
      : options_(options), connection_(std::move(endpoint), identity) {}

  absl::StatusOr<agent_api::NodeInfo> Node() override { return Get<agent_api::NodeInfo>("node", "/v1/node"); }
  absl::StatusOr<agent_api::PreflightReport> Preflight(const agent_api::PreflightRequest& request) override {
    const absl::string_view path = "/v1/preflight";
    return Decoded<agent_api::PreflightReport>(
        Call("POST", "preflight", path, json::Encode(request), options_.preflight_timeout), path);
  }
  absl::StatusOr<agent_api::RehearsalReport> Rehearse(const agent_api::RehearsalRequest& request) override {
    const absl::string_view path = "/v1/rehearsal";
    return Decoded<agent_api::RehearsalReport>(
        Call("POST", "rehearsal", path, json::Encode(request), options_.rehearsal_timeout), path);
  }

  absl::StatusOr<agent_api::TargetStatus> PutTarget(const std::string& uid,
                                                    const agent_api::TargetSpec& spec) override {
    return Put<agent_api::TargetStatus>("target", Migration(uid, "/target"), spec);
  }
  absl::StatusOr<agent_api::TargetStatus> GetTarget(const std::string& uid) override {
    return Get<agent_api::TargetStatus>("target", Migration(uid, "/target"));
  }
  absl::Status AbortTarget(const std::string& uid, const AbortRequest& why) override {
    return Call("POST", "abort", Migration(uid, "/target/abort"), json::Encode(why), options_.timeout)
        .status();
  }
  absl::Status TakeOver(const std::string& uid) override {
    return Call("POST", "takeover", Migration(uid, "/target/takeover"), "", options_.timeout).status();
  }
  absl::Status ForgetTarget(const std::string& uid) override {
    return Delete("target", Migration(uid, "/target"));
  }

  absl::StatusOr<agent_api::SourceStatus> PutSource(const std::string& uid,
                                                    const agent_api::SourceSpec& spec) override {
    return Put<agent_api::SourceStatus>("source", Migration(uid, "/source"), spec);
  }
  absl::StatusOr<agent_api::SourceStatus> GetSource(const std::string& uid) override {
    return Get<agent_api::SourceStatus>("source", Migration(uid, "/source"));
  }
  absl::Status SetSourceLimits(const std::string& uid, const agent_api::PreCopyLimits& limits) override {
    return Call("POST", "limits", Migration(uid, "/source/limits"), json::Encode(limits), options_.timeout)
        .status();
  }
  absl::Status SwitchSource(const std::string& uid) override {
    return Call("POST", "switch", Migration(uid, "/source/switch"), "", options_.timeout).status();
  }
  absl::Status AbortSource(const std::string& uid, const AbortRequest& why) override {
    return Call("POST", "abort", Migration(uid, "/source/abort"), json::Encode(why), options_.timeout)
        .status();
  }
  absl::Status ReclaimSource(const std::string& uid, const AbortRequest& why) override {
    return Call("POST", "reclaim", Migration(uid, "/source/reclaim"), json::Encode(why), options_.timeout)
        .status();
  }
  absl::Status FinishSource(const std::string& uid, const agent_api::FinishRequest& request) override {
    return Call("POST", "finish", Migration(uid, "/source/finish"), json::Encode(request), options_.timeout)
        .status();
  }
  absl::Status ForgetSource(const std::string& uid) override {
    return Delete("source", Migration(uid, "/source"));
  }

  absl::StatusOr<agent_api::CheckpointStatus> PutCheckpoint(const std::string& uid,
                                                            const agent_api::CheckpointSpec& spec) override {
    return Put<agent_api::CheckpointStatus>("checkpoint", absl::StrCat("/v1/checkpoints/", uid), spec);
  }
  absl::StatusOr<agent_api::CheckpointStatus> GetCheckpoint(const std::string& uid) override {
    return Get<agent_api::CheckpointStatus>("checkpoint", absl::StrCat("/v1/checkpoints/", uid));
  }
  absl::StatusOr<std::string> GetManifest(const std::string& uid) override {
    return Call("GET", "manifest", absl::StrCat("/v1/checkpoints/", uid, "/manifest"), "", options_.timeout);
  }
  absl::Status RemoveCheckpoint(const std::string& uid) override {
    return Delete("checkpoint", absl::StrCat("/v1/checkpoints/", uid));
  }

  absl::StatusOr<agent_api::TargetStatus> PutRestore(const std::string& uid,
                                                     const agent_api::RestoreSpec& spec) override {
    return Put<agent_api::TargetStatus>("restore", absl::StrCat("/v1/restores/", uid), spec);
  }
  absl::StatusOr<agent_api::TargetStatus> GetRestore(const std::string& uid) override {
    return Get<agent_api::TargetStatus>("restore", absl::StrCat("/v1/restores/", uid));
  }
  absl::Status AbortRestore(const std::string& uid, const AbortRequest& why) override {
    return Call("POST", "abort", absl::StrCat("/v1/restores/", uid, "/abort"), json::Encode(why),
                options_.timeout)
        .status();
  }
  absl::Status ForgetRestore(const std::string& uid) override {
    return Delete("restore", absl::StrCat("/v1/restores/", uid));
  }

 private:
  static std::string Migration(const std::string& uid, absl::string_view rest) {
    return absl::StrCat("/v1/migrations/", uid, rest);
  }

  absl::StatusOr<std::string> Call(absl::string_view method, absl::string_view route, absl::string_view path,
                                   const std::string& body, absl::Duration timeout) {
    const absl::Time start = absl::Now();
    absl::StatusOr<AgentAnswer> answer = connection_.Send(method, std::string(path), body, timeout);
    if (options_.observer) {
      options_.observer({.method = std::string(method),
                         .route = std::string(route),
                         .code = answer.ok() ? answer->code : 0,
                         .latency = absl::Now() - start});
    }
    if (!answer.ok()) return answer.status();
    if (answer->code / 100 != 2) return StatusFromAnswer(*answer);
    return std::move(answer->body);
  }
  template <class T>
  absl::StatusOr<T> Get(absl::string_view route, const std::string& path) {
    return Decoded<T>(Call("GET", route, path, "", options_.timeout), path);
  }
  template <class T, class Spec>
  absl::StatusOr<T> Put(absl::string_view route, const std::string& path, const Spec& spec) {
    return Decoded<T>(Call("PUT", route, path, json::Encode(spec), options_.timeout), path);
  }
  absl::Status Delete(absl::string_view route, const std::string& path) {
    return GoneIsFine(Call("DELETE", route, path, "", options_.timeout).status());
  }

  const HttpAgentOptions options_;
  AgentConnection connection_;
};

}  // namespace

std::shared_ptr<Agent> HttpAgents::At(const std::string& node, const std::string& address) {
  absl::MutexLock lock(&mutex_);
  auto& [known_address, agent] = agents_[node];
  if (agent == nullptr || known_address != address) {
    known_address = address;
    agent = std::make_shared<HttpAgent>(AgentEndpoint{.node = node,
                                                      .address = address,
                                                      .port = options_.port,
                                                      .connect_timeout = options_.connect_timeout},
                                        identity_, options_);
  }
  return agent;
}

}  // namespace godwit::controller
