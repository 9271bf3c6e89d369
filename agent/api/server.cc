// SPDX-License-Identifier: Apache-2.0
#include "agent/api/server.h"

#include <httplib.h>

#include <array>
#include <string>
#include <thread>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/log.h"

namespace godwit::agent_api {
namespace {

constexpr size_t kMaxBody = size_t{8} << 20;
constexpr int kThreads = 16;
constexpr char kJson[] = "application/json";
// A UID as the API server makes them.
constexpr char kUid[] = "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})";

struct ErrorKind {
  absl::StatusCode code;
  int http;
  const char* reason;
};
constexpr std::array<ErrorKind, 12> kErrors = {
    {{absl::StatusCode::kInvalidArgument, 400, "InvalidArgument"},
     {absl::StatusCode::kUnauthenticated, 401, "Unauthenticated"},
     {absl::StatusCode::kPermissionDenied, 403, "PermissionDenied"},
     {absl::StatusCode::kNotFound, 404, "NotFound"},
     {absl::StatusCode::kAlreadyExists, 409, "AlreadyExists"},
     {absl::StatusCode::kFailedPrecondition, 409, "FailedPrecondition"},
     {absl::StatusCode::kAborted, 409, "Aborted"},
     {absl::StatusCode::kResourceExhausted, 507, "ResourceExhausted"},
     {absl::StatusCode::kUnavailable, 503, "Unavailable"},
     {absl::StatusCode::kDeadlineExceeded, 504, "DeadlineExceeded"},
     {absl::StatusCode::kUnimplemented, 501, "Unimplemented"},
     {absl::StatusCode::kDataLoss, 500, "DataLoss"}}};

void Answer(httplib::Response& response, const absl::Status& status) {
  ErrorKind kind{status.code(), 500, "Internal"};
  for (const ErrorKind& known : kErrors) {
    if (known.code == status.code()) kind = known;
  }
  response.status = kind.http;
  response.set_content(
      json::Encode(ErrorBody{{.reason = kind.reason, .message = std::string(status.message())}}), kJson);
}

void AnswerEmpty(httplib::Response& response, const absl::Status& status) {
  if (!status.ok()) return Answer(response, status);
  response.set_content("{}", kJson);
}

template <class T>
void AnswerJson(httplib::Response& response, const absl::StatusOr<T>& value) {
  if (!value.ok()) return Answer(response, value.status());
  response.set_content(json::Encode(*value), kJson);
}

// The body as a message whose own UID must be the one in the path; `uid_of` finds it.
template <class Spec, class UidOf>
absl::StatusOr<Spec> ReadSpec(const httplib::Request& request, UidOf uid_of) {
  absl::StatusOr<Spec> spec = json::Decode<Spec>(request.body, {.max_bytes = kMaxBody});
  if (spec.ok() && uid_of(*spec) != request.matches[1].str()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the path names ", request.matches[1].str(), ", the body ", uid_of(*spec)));
  }
  return spec;
}

// Runs an httplib server in a thread of its own.
class Runner {
 public:
  Runner(std::unique_ptr<httplib::Server> server, int port) : server_(std::move(server)), port_(port) {
    thread_ = std::thread([this] { server_->listen_after_bind(); });
    server_->wait_until_ready();
  }
  ~Runner() {
    server_->stop();
    thread_.join();
  }
  int port() const { return port_; }

 private:
  std::unique_ptr<httplib::Server> server_;
  int port_;
  std::thread thread_;
};

absl::StatusOr<int> Bind(httplib::Server& server, const std::string& address, int port) {
  const int bound =
      port == 0 ? server.bind_to_any_port(address) : (server.bind_to_port(address, port) ? port : -1);
  if (bound < 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ":", port,
                                               ": is another process there (another agent on this node)?"));
  }
  return bound;
}

class Api final : public ApiServer {
 public:
  Api(Backend backend) : backend_(std::move(backend)) {}

  absl::Status Open(tls::Identity& identity, const std::string& address, int port) {
    absl::Status set_up;
    auto server = std::make_unique<httplib::SSLServer>([&](SSL_CTX& context) {
      set_up = identity.SetUpServer(&context);
      return set_up.ok();
    });
    if (!set_up.ok()) return set_up;
    server->new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    server->set_payload_max_length(kMaxBody);
    server->set_keep_alive_timeout(10);
    server->set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
      absl::Status peer = tls::CheckPeerName(request.ssl, tls::kControllerName);
      if (peer.ok()) return httplib::Server::HandlerResponse::Unhandled;
      Answer(response,
             absl::PermissionDeniedError(absl::StrCat("only the controller may ask: ", peer.message())));
      return httplib::Server::HandlerResponse::Handled;
    });
    server->set_error_handler([](const httplib::Request& request, httplib::Response& response) {
      if (!response.body.empty()) return;
      const int code = response.status;
      Answer(response,
             code == 404
                 ? absl::NotFoundError(absl::StrCat("no such route: ", request.method, " ", request.path))
                 : absl::InvalidArgumentError("the request was not understood, or its body is too large"));
      response.status = code;
    });
    Nodes(*server);
    Migrations(*server);
    Checkpoints(*server);
    Restores(*server);
    auto bound = Bind(*server, address, port);
    if (!bound.ok()) return bound.status();
    runner_ = std::make_unique<Runner>(std::move(server), *bound);
    return absl::OkStatus();
  }

  int port() const override { return runner_->port(); }

 private:
  using Handler = std::function<void(const httplib::Request&, httplib::Response&)>;

  // Counts and times what `handler` answers.
  httplib::Server::Handler Counted(const char* route, Handler handler) {
    return [this, route, handler = std::move(handler)](const httplib::Request& request,
                                                       httplib::Response& response) {
      const absl::Time begin = absl::Now();
      handler(request, response);
      const int code = response.status < 0 ? 200 : response.status;
      backend_.metrics->api_requests.With(request.method, route, absl::StrCat(code)).Increment();
      backend_.metrics->api_request_duration.Observe(absl::Now() - begin, route);
    };
  }

  static std::string Path(absl::string_view before, absl::string_view after = "") {
    return absl::StrCat(before, kUid, after);
  }

  void Nodes(httplib::Server& server) {
    server.Get("/v1/node", Counted("node", [this](const auto&, auto& response) {
                 response.set_content(json::Encode(backend_.node()), kJson);
               }));
    server.Post("/v1/preflight", Counted("preflight", [this](const auto& request, auto& response) {
                  auto spec = json::Decode<PreflightRequest>(request.body, {.max_bytes = kMaxBody});
                  if (!spec.ok()) return Answer(response, spec.status());
                  AnswerJson(response, backend_.preflight(*spec));
                }));
    server.Post("/v1/rehearsal", Counted("rehearsal", [this](const auto& request, auto& response) {
                  auto spec = json::Decode<RehearsalRequest>(request.body, {.max_bytes = kMaxBody});
                  if (!spec.ok()) return Answer(response, spec.status());
                  AnswerJson(response, backend_.rehearse(*spec));
                }));
  }

  // POST .../abort, with the UID and what was said.
  template <class Abort>
  Handler Aborts(Abort abort) {
    return [abort](const httplib::Request& request, httplib::Response& response) {
      auto why = json::Decode<AbortRequest>(request.body);
      AnswerEmpty(response, why.ok() ? abort(request.matches[1].str(), *why) : why.status());
    };
  }

  void Migrations(httplib::Server& server) {
    operations::Operations& operations = *backend_.operations;
    const std::string target = Path("/v1/migrations/", "/target");
    const std::string source = Path("/v1/migrations/", "/source");
    server.Put(target, Counted("target", [&operations](const auto& request, auto& response) {
                 auto spec =
                     ReadSpec<TargetSpec>(request, [](const TargetSpec& s) { return s.migration.uid; });
                 if (!spec.ok()) return Answer(response, spec.status());
                 AnswerJson(response, operations.PutTarget(*spec));
               }));
    server.Get(target, Counted("target", [&operations](const auto& request, auto& response) {
                 AnswerJson(response, operations.GetTarget(request.matches[1].str()));
               }));
    server.Delete(target, Counted("target", [&operations](const auto& request, auto& response) {
                    AnswerEmpty(response, operations.ForgetTarget(request.matches[1].str()));
                  }));
    server.Post(absl::StrCat(target, "/abort"),
                Counted("abort", Aborts([&operations](const std::string& uid, const AbortRequest& why) {
                          return operations.AbortTarget(uid, why);
                        })));
    server.Put(source, Counted("source", [&operations](const auto& request, auto& response) {
                 auto spec =
                     ReadSpec<SourceSpec>(request, [](const SourceSpec& s) { return s.migration.uid; });
                 if (!spec.ok()) return Answer(response, spec.status());
                 AnswerJson(response, operations.PutSource(*spec));
               }));
    server.Get(source, Counted("source", [&operations](const auto& request, auto& response) {
                 AnswerJson(response, operations.GetSource(request.matches[1].str()));
               }));
    server.Delete(source, Counted("source", [&operations](const auto& request, auto& response) {
                    AnswerEmpty(response, operations.ForgetSource(request.matches[1].str()));
                  }));
    server.Post(absl::StrCat(source, "/abort"),
                Counted("abort", Aborts([&operations](const std::string& uid, const AbortRequest& why) {
                          return operations.AbortSource(uid, why);
                        })));
    server.Post(absl::StrCat(source, "/switch"),
                Counted("switch", [&operations](const auto& request, auto& response) {
                  AnswerEmpty(response, operations.SwitchSource(request.matches[1].str()));
                }));
    server.Post(absl::StrCat(source, "/limits"),
                Counted("limits", [&operations](const auto& request, auto& response) {
                  auto limits = json::Decode<PreCopyLimits>(request.body);
                  if (!limits.ok()) return Answer(response, limits.status());
                  AnswerEmpty(response, operations.SetSourceLimits(request.matches[1].str(), *limits));
                }));
    server.Post(absl::StrCat(source, "/finish"),
                Counted("finish", [&operations](const auto& request, auto& response) {
                  auto finish = json::Decode<FinishRequest>(request.body.empty() ? "{}" : request.body);
                  if (!finish.ok()) return Answer(response, finish.status());
                  AnswerEmpty(response, operations.FinishSource(request.matches[1].str(), *finish));
                }));
  }

  void Checkpoints(httplib::Server& server) {
    checkpoint::Checkpoints& checkpoints = *backend_.checkpoints;
    const std::string path = Path("/v1/checkpoints/");
    server.Put(path, Counted("checkpoint", [&checkpoints](const auto& request, auto& response) {
                 auto spec = ReadSpec<CheckpointSpec>(
                     request, [](const CheckpointSpec& s) { return s.checkpoint.uid; });
                 if (!spec.ok()) return Answer(response, spec.status());
                 AnswerJson(response, checkpoints.Take(*spec));
               }));
    server.Get(path, Counted("checkpoint", [&checkpoints](const auto& request, auto& response) {
                 AnswerJson(response, checkpoints.Get(request.matches[1].str()));
               }));
    server.Delete(path, Counted("checkpoint", [&checkpoints](const auto& request, auto& response) {
                    AnswerEmpty(response, checkpoints.Remove(request.matches[1].str()));
                  }));
    server.Get(absl::StrCat(path, "/manifest"),
               Counted("manifest", [&checkpoints](const auto& request, auto& response) {
                 auto manifest = checkpoints.Manifest(request.matches[1].str());
                 if (!manifest.ok()) return Answer(response, manifest.status());
                 response.set_content(manifest->text, kJson);
               }));
  }

  void Restores(httplib::Server& server) {
    operations::Operations& operations = *backend_.operations;
    const std::string path = Path("/v1/restores/");
    server.Put(path, Counted("restore", [&operations](const auto& request, auto& response) {
                 auto spec =
                     ReadSpec<RestoreSpec>(request, [](const RestoreSpec& s) { return s.restore.uid; });
                 if (!spec.ok()) return Answer(response, spec.status());
                 AnswerJson(response, operations.PutRestore(*spec));
               }));
    server.Get(path, Counted("restore", [&operations](const auto& request, auto& response) {
                 AnswerJson(response, operations.GetRestore(request.matches[1].str()));
               }));
    server.Delete(path, Counted("restore", [&operations](const auto& request, auto& response) {
                    AnswerEmpty(response, operations.ForgetRestore(request.matches[1].str()));
                  }));
    server.Post(absl::StrCat(path, "/abort"),
                Counted("abort", Aborts([&operations](const std::string& uid, const AbortRequest& why) {
                          return operations.AbortRestore(uid, why);
                        })));
  }

  const Backend backend_;
  std::unique_ptr<Runner> runner_;
};

class Health final : public HealthServer {
 public:
  absl::Status Open(const std::string& address, int port, const metrics::Registry& registry,
                    std::function<absl::Status()> ready) {
    auto server = std::make_unique<httplib::Server>();
    server->set_payload_max_length(1024);
    server->Get("/metrics", [&registry](const httplib::Request&, httplib::Response& response) {
      response.set_content(registry.Exposition(), metrics::kContentType);
    });
    server->Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("ok\n", "text/plain");
    });
    server->Get("/readyz", [ready = std::move(ready)](const httplib::Request&, httplib::Response& response) {
      const absl::Status status = ready();
      response.status = status.ok() ? 200 : 503;
      response.set_content(status.ok() ? "ok\n" : absl::StrCat(status.message(), "\n"), "text/plain");
    });
    auto bound = Bind(*server, address, port);
    if (!bound.ok()) return bound.status();
    runner_ = std::make_unique<Runner>(std::move(server), *bound);
    return absl::OkStatus();
  }
  int port() const override { return runner_->port(); }

 private:
  std::unique_ptr<Runner> runner_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Start(tls::Identity& identity,
                                                            const std::string& address, int port,
                                                            Backend backend) {
  auto api = std::make_unique<Api>(std::move(backend));
  absl::Status opened = api->Open(identity, address, port);
  if (!opened.ok()) return opened;
  LOG(INFO) << Log("API server listens").With("address", address).With("port", api->port());
  return api;
}

absl::StatusOr<std::unique_ptr<HealthServer>> HealthServer::Start(const std::string& address, int port,
                                                                  const metrics::Registry& registry,
                                                                  std::function<absl::Status()> ready) {
  auto health = std::make_unique<Health>();
  absl::Status opened = health->Open(address, port, registry, std::move(ready));
  if (!opened.ok()) return opened;
  return health;
}

}  // namespace godwit::agent_api
