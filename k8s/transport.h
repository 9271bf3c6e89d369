// SPDX-License-Identifier: Apache-2.0
// HTTP to one API server over libcurl: kept-alive connections, deadlines, bearer token, retries where the
// server asks for them, and streams that another thread can stop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "k8s/cancellation.h"
#include "k8s/config.h"

namespace godwit::k8s {

struct Request {
  std::string method = "GET";
  std::string path;  // "/api/v1/pods?limit=500": begins with '/', query already encoded
  std::string body;
  std::string content_type;  // of the body; empty when there is none
  std::string verb;          // for the observer: "get", "list", "watch", "create", "patch", "delete"
  std::string resource;      // for the observer: "pods", "pods/status"
  absl::Duration timeout = absl::Seconds(30);  // for the whole, retries and their pauses included
  Cancellation* cancellation = nullptr;        // not owned; null: cannot be stopped
};

// One request and its answer, for metrics. A watch is told when it ends.
struct RequestRecord {
  std::string verb;
  std::string resource;
  int code = 0;  // HTTP; 0: no answer
  absl::Duration latency;
};
using RequestObserver = std::function<void(const RequestRecord&)>;  // called from any thread; must not block

struct TransportOptions {
  RequestObserver observer;  // may be empty
  absl::Duration connect_timeout = absl::Seconds(10);
  size_t max_response_bytes = 128u << 20;  // a list; ResourceExhausted beyond
  size_t max_idle_connections = 8;
};

// Thread-safe. Destroy it when no request is under way.
class Transport {
 public:
  // InvalidArgument when the configuration cannot be used safely (k8s::Validate).
  static absl::StatusOr<std::shared_ptr<Transport>> Create(Config config, TransportOptions options = {});
  ~Transport();

  // The body of a 2xx answer. Another code is a status that carries k8s::Error (k8s/error.h); no answer is
  // Unavailable, DeadlineExceeded or Cancelled. 429, and 503 with Retry-After, are tried again within the
  // timeout, after what Retry-After says; a 401 once, when the token has been rotated meanwhile.
  absl::StatusOr<std::string> Do(const Request& request);

  // Like Do, but the body is handed over piece by piece as it arrives, on this thread, until the server ends
  // it (OK), the timeout passes, it is cancelled, or `piece` returns an error, which is then the result.
  absl::Status Stream(const Request& request, absl::FunctionRef<absl::Status(absl::string_view)> piece);

  const Config& config() const { return config_; }

 private:
  class Connection;  // a libcurl handle with its kept-alive connection
  using Piece = absl::FunctionRef<absl::Status(absl::string_view)>;
  Transport(Config config, TransportOptions options);
  std::unique_ptr<Connection> Borrow() ABSL_LOCKS_EXCLUDED(mutex_);
  void Return(std::unique_ptr<Connection> connection) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Run(const Request& request, Piece piece);
  absl::Status Try(const Request& request, const std::string& token, absl::Duration deadline, Piece piece);

  const Config config_;
  const TransportOptions options_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::k8s
