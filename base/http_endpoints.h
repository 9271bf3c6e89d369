// SPDX-License-Identifier: Apache-2.0
// Plain HTTP for those who watch over a process: kubelet's probes and Prometheus. Anybody may ask, so nobody
// is trusted to ask quickly, or to take the answer: connections are one thread's work, which waits for no one
// (base/reception.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/reception.h"

namespace godwit {

struct PlainAnswer {
  int code = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// GET (and HEAD) of a few paths on one port; one request a connection.
class HttpEndpoints {
 public:
  using Paths = std::map<std::string, std::function<PlainAnswer()>>;
  // Answers of `quick` are made at once, on the thread of the connections. One of `slow` is made on a thread
  // of its own, one at a time for a path: who asks meanwhile gets the same, and nobody else waits for it.
  explicit HttpEndpoints(Paths quick, Paths slow = {});
  ~HttpEndpoints();

  // Unavailable when the port is taken. Port 0: any free one. An empty address: every one of the machine.
  absl::Status Start(const std::string& address, int port);
  void Stop();
  int port() const { return port_; }

 private:
  class Making;
  class Visit;
  std::shared_ptr<Making> Make(const std::string& path, const std::function<PlainAnswer()>& answer);

  const Paths quick_;
  const Paths slow_;
  uint16_t port_ = 0;
  std::map<std::string, std::shared_ptr<Making>>
      made_;  // the last of each slow path; only reception_'s thread
  std::unique_ptr<Reception> reception_;
};

}  // namespace godwit
