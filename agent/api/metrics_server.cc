// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "agent/api/http_server.h"
#include "agent/api/server.h"

namespace godwit::api {

class MetricsServer::Routes {
 public:
  explicit Routes(Answers answers) : answers_(std::move(answers)), http_(std::make_unique<httplib::Server>()) {
    http_.server().Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(answers_.metrics(), answers_.metrics_type);
    });
    http_.server().Get("/healthz", [this](const httplib::Request&, httplib::Response& response) { Say(answers_.health(), response); });
    http_.server().Get("/readyz", [this](const httplib::Request&, httplib::Response& response) { Say(answers_.ready(), response); });
  }
  absl::Status Listen(const std::string& address, uint16_t port) { return http_.Listen(address, port); }
  uint16_t port() const { return http_.port(); }

 private:
  static void Say(const absl::Status& status, httplib::Response& response) {
    response.status = status.ok() ? 200 : 503;
    response.set_content(status.ok() ? "ok\n" : std::string(status.message()) + "\n", "text/plain");
  }

  const Answers answers_;
  RunningServer http_;
};

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address, uint16_t port, Answers answers) {
  auto routes = std::make_unique<Routes>(std::move(answers));
  GODWIT_RETURN_IF_ERROR(routes->Listen(address, port));
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(routes)));
}

MetricsServer::MetricsServer(std::unique_ptr<Routes> routes) : routes_(std::move(routes)) {}
MetricsServer::~MetricsServer() = default;
uint16_t MetricsServer::port() const { return routes_->port(); }

}  // namespace godwit::api
