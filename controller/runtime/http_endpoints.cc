// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/http_endpoints.h"

#include <httplib.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace godwit::controller {

HttpEndpoints::HttpEndpoints(Paths paths) : server_(std::make_unique<httplib::Server>()) {
  server_->new_task_queue = [] { return new httplib::ThreadPool(2); };
  server_->set_payload_max_length(1024);
  for (auto& [path, answer] : paths) {
    server_->Get(path, [answer = std::move(answer)](const httplib::Request&, httplib::Response& response) {
      PlainAnswer plain = answer();
      response.status = plain.code;
      response.set_content(std::move(plain.body), plain.content_type);
    });
  }
}

HttpEndpoints::~HttpEndpoints() { Stop(); }

absl::Status HttpEndpoints::Start(const std::string& listen, int port) {
  port_ = port == 0 ? server_->bind_to_any_port(listen) : (server_->bind_to_port(listen, port) ? port : -1);
  if (port_ < 0) return absl::UnavailableError(absl::StrCat("cannot listen on ", listen, ":", port));
  thread_ = std::thread([this] { server_->listen_after_bind(); });
  server_->wait_until_ready();
  return absl::OkStatus();
}

void HttpEndpoints::Stop() {
  if (!thread_.joinable()) return;
  server_->stop();
  thread_.join();
}

}  // namespace godwit::controller
