// SPDX-License-Identifier: Apache-2.0
#include "k8s/transport.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "k8s/connection.h"
#include "k8s/error.h"

namespace godwit::k8s {
namespace {

constexpr int kMaxTries = 10;

// How long the server wants us to wait before we try the same again; zero: not at all.
absl::Duration PauseAskedFor(const absl::Status& status) {
  const std::optional<Error> error = ErrorOf(status);
  if (!error.has_value()) return absl::ZeroDuration();
  if (error->http_code == 429) return std::max(error->retry_after, absl::Seconds(1));
  return error->http_code == 503 ? error->retry_after : absl::ZeroDuration();
}

// True when cancelled.
bool Pause(Cancellation* cancellation, absl::Duration duration) {
  if (cancellation != nullptr) return cancellation->WaitFor(duration);
  absl::SleepFor(duration);
  return false;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Transport>> Transport::Create(Config config, TransportOptions options) {
  GODWIT_RETURN_IF_ERROR(Validate(config));
  return std::shared_ptr<Transport>(new Transport(std::move(config), std::move(options)));
}

Transport::Transport(Config config, TransportOptions options)
    : config_(std::move(config)), options_(std::move(options)) {}

Transport::~Transport() = default;

std::unique_ptr<Transport::Connection> Transport::Borrow() {
  {
    absl::MutexLock lock(&mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Connection> connection = std::move(idle_.back());
      idle_.pop_back();
      return connection;
    }
  }
  return std::make_unique<Connection>();
}

void Transport::Return(std::unique_ptr<Connection> connection) {
  absl::MutexLock lock(&mutex_);
  if (idle_.size() < options_.max_idle_connections) idle_.push_back(std::move(connection));
}

absl::Status Transport::Try(const Request& request, const std::string& token, absl::Duration deadline,
                            Piece piece) {
  const absl::Duration begin = Clock::Real().Monotonic();
  std::unique_ptr<Connection> connection = Borrow();
  absl::Status status;
  {
    Cancellation::Registration wake(request.cancellation, [&connection] { connection->Wake(); });
    status = connection->Perform(config_, options_, request, token, deadline, piece);
  }
  const int code = connection->http_code();
  Return(std::move(connection));
  if (options_.observer) {
    options_.observer({request.verb, request.resource, code, Clock::Real().Monotonic() - begin});
  }
  return status;
}

absl::Status Transport::Run(const Request& request, Piece piece) {
  const absl::Duration deadline = Clock::Real().Monotonic() + request.timeout;
  bool token_renewed = false;
  for (int tries = 1;; ++tries) {
    std::string token;
    if (config_.token != nullptr) {
      GODWIT_ASSIGN_OR_RETURN(token, config_.token->Token());
    }
    const absl::Status status = Try(request, token, deadline, piece);
    if (status.ok()) return status;
    if (IsUnauthorized(status) && config_.token != nullptr && !std::exchange(token_renewed, true)) {
      config_.token->Refused(token);
      absl::StatusOr<std::string> again = config_.token->Token();
      if (again.ok() && *again != token) continue;
    }
    const absl::Duration pause = PauseAskedFor(status);
    const absl::Duration left = deadline - Clock::Real().Monotonic();
    if (pause == absl::ZeroDuration() || pause >= left || tries == kMaxTries) return status;
    if (Pause(request.cancellation, pause))
      return absl::CancelledError("cancelled while waiting for Retry-After");
  }
}

absl::StatusOr<std::string> Transport::Do(const Request& request) {
  std::string body;
  GODWIT_RETURN_IF_ERROR(Run(request, [this, &body, &request](absl::string_view piece) {
    if (body.size() + piece.size() > options_.max_response_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(request.method, " ", request.path,
                                                       ": the answer is over ", options_.max_response_bytes,
                                                       " bytes; list in pages"));
    }
    absl::StrAppend(&body, piece);
    return absl::OkStatus();
  }));
  return body;
}

absl::Status Transport::Stream(const Request& request,
                               absl::FunctionRef<absl::Status(absl::string_view)> piece) {
  return Run(request, piece);
}

}  // namespace godwit::k8s
