// SPDX-License-Identifier: Apache-2.0
#include "agent/api/server.h"

#include <array>
#include <string>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/http_endpoints.h"
#include "base/https_server.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::agent_api {
namespace {

constexpr size_t kMaxBody = size_t{8} << 20;
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

// The controller has a share of the connections of its own; all others, who get refusals only, have one
// together.
std::string CallerOf(const SSL* ssl, const std::string&) {
  return tls::CheckPeerName(ssl, tls::kControllerName).ok() ? tls::kControllerName : "";
}

class Api final : public ApiServer {
 public:
  Api(Backend backend) : backend_(std::move(backend)) {}

  absl::Status Open(tls::Identity& identity, const std::string& address, int port) {
    GODWIT_ASSIGN_OR_RETURN(tls::ContextPointer context, identity.ServerContext());
    server_.set_payload_max_length(kMaxBody);
    server_.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
      absl::Status peer = tls::CheckPeerName(request.ssl, tls::kControllerName);
      if (peer.ok()) return httplib::Server::HandlerResponse::Unhandled;
      Answer(response,
             absl::PermissionDeniedError(absl::StrCat("only the controller may ask: ", peer.message())));
      return httplib::Server::HandlerResponse::Handled;
    });
    server_.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
      if (!response.body.empty()) return;
      const int code = response.status;
      Answer(response,
             code == 404
                 ? absl::NotFoundError(absl::StrCat("no such route: ", request.method, " ", request.path))
                 : absl::InvalidArgumentError("the request was not understood, or its body is too large"));
      response.status = code;
    });
    Nodes(server_);
    Migrations(server_);
    Checkpoints(server_);
    Restores(server_);
    return server_.Open(address, port, std::move(context));
  }

  int port() const override { return server_.tls_port(); }

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
    server.Post(absl::StrCat(target, "/takeover"),
                Counted("takeover", [&operations](const auto& request, auto& response) {
                  AnswerEmpty(response, operations.TakeOver(request.matches[1].str()));
                }));
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
    server.Post(absl::StrCat(source, "/reclaim"),
                Counted("reclaim", Aborts([&operations](const std::string& uid, const AbortRequest& why) {
                          return operations.ReclaimSource(uid, why);
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
  HttpsServer server_{CallerOf, {}};
};

class Health final : public HealthServer {
 public:
  Health(const metrics::Registry& registry, std::function<absl::Status()> ready)
      : endpoints_({{"/healthz", [] { return PlainAnswer{.body = "ok\n"}; }},
                    {"/readyz",
                     [ready = std::move(ready)] {
                       const absl::Status status = ready();
                       if (status.ok()) return PlainAnswer{.body = "ok\n"};
                       return PlainAnswer{.code = 503, .body = absl::StrCat(status.message(), "\n")};
                     }}},
                   {{"/metrics", [&registry] {
                       return PlainAnswer{.content_type = metrics::kContentType,
                                          .body = registry.Exposition()};
                     }}}) {}
  absl::Status Open(const std::string& address, int port) { return endpoints_.Start(address, port); }
  int port() const override { return endpoints_.port(); }

 private:
  HttpEndpoints endpoints_;
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
  auto health = std::make_unique<Health>(registry, std::move(ready));
  GODWIT_RETURN_IF_ERROR(health->Open(address, port));
  return health;
}

}  // namespace godwit::agent_api
