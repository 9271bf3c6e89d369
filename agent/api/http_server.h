// SPDX-License-Identifier: Apache-2.0
// A cpp-httplib server in a thread of its own, with limits. For this folder's .cc files.
#pragma once

#include <httplib.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::api {

// Runs `server` from Listen on until it goes.
class RunningServer {
 public:
  explicit RunningServer(std::unique_ptr<httplib::Server> server) : server_(std::move(server)) {
    server_->new_task_queue = [] { return new httplib::ThreadPool(/*threads=*/12, /*max_queued=*/64); };
    server_->set_payload_max_length(4u << 20);
    server_->set_read_timeout(10);
    server_->set_write_timeout(10);
    server_->set_keep_alive_timeout(30);
    server_->set_keep_alive_max_count(1000);
  }
  ~RunningServer() {
    server_->stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen(const std::string& address, uint16_t port) {
    port_ = port;
    bool bound = Bind(address.empty() ? "::" : address);
    if (!bound && address.empty()) bound = Bind("0.0.0.0");  // a machine without IPv6
    if (!bound) return ErrnoStatus(absl::StrCat("cannot listen on port ", port));
    thread_ = std::thread([this] { server_->listen_after_bind(); });
    server_->wait_until_ready();
    return absl::OkStatus();
  }

  httplib::Server& server() { return *server_; }
  uint16_t port() const { return port_; }

 private:
  bool Bind(const std::string& host) {
    if (port_ != 0) return server_->bind_to_port(host, port_);
    const int port = server_->bind_to_any_port(host);
    if (port > 0) port_ = static_cast<uint16_t>(port);
    return port > 0;
  }

  std::unique_ptr<httplib::Server> server_;
  uint16_t port_ = 0;
  std::thread thread_;
};

}  // namespace godwit::api
