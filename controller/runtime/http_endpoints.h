// SPDX-License-Identifier: Apache-2.0
// Plain HTTP for those who watch over the controller: kubelet's probes and Prometheus.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"

namespace httplib {
class Server;
}

namespace godwit::controller {

struct PlainAnswer {
  int code = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// GET of a few paths on one port.
class HttpEndpoints {
 public:
  using Paths = std::map<std::string, std::function<PlainAnswer()>>;
  explicit HttpEndpoints(Paths paths);
  ~HttpEndpoints();

  // Unavailable when the port is taken. Port 0: any free one.
  absl::Status Start(const std::string& listen, int port);
  void Stop();
  int port() const { return port_; }

 private:
  std::unique_ptr<httplib::Server> server_;
  std::thread thread_;
  int port_ = 0;
};

}  // namespace godwit::controller
