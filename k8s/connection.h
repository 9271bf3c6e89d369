// SPDX-License-Identifier: Apache-2.0
// One libcurl handle and the connection that it keeps alive. For k8s/transport.cc only.
#pragma once

#include <curl/curl.h>

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "k8s/transport.h"

namespace godwit::k8s {

// Not thread-safe, but for Wake.
class Transport::Connection {
 public:
  Connection();
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // One request and its answer; pieces of a 2xx body go to `piece`. `deadline` is on the monotonic clock. The
  // errors are those of Transport::Do. http_code() tells the answer's code afterwards, 0 when there was none.
  absl::Status Perform(const Config& config, const TransportOptions& options, const Request& request,
                       const std::string& token, absl::Duration deadline, Piece piece);
  int http_code() const { return http_code_; }

  // Makes Perform look whether it was cancelled. Any thread.
  void Wake() { curl_multi_wakeup(multi_); }

 private:
  struct Incoming;
  void Prepare(const Config& config, const TransportOptions& options, const Request& request);
  void PrepareTls(const Config& config);
  void PrepareAddress(const Config& config, const std::string& path);
  CURLcode Wait(const Request& request, absl::Duration deadline, absl::Status& stopped);
  absl::Status Outcome(CURLcode code, const Config& config, const Request& request, Incoming& incoming);
  void AddHeader(const std::string& line);
  static size_t OnBody(char* data, size_t size, size_t count, void* incoming);

  CURLM* const multi_;
  CURL* const easy_;
  curl_slist* headers_ = nullptr;
  curl_slist* connect_to_ = nullptr;
  char error_[CURL_ERROR_SIZE] = "";
  int http_code_ = 0;
};

}  // namespace godwit::k8s
