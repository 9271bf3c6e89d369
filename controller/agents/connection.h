// SPDX-License-Identifier: Apache-2.0
// HTTPS requests to one agent: kept-alive connections, bounded answers, errors as statuses.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/certificates/identity.h"

namespace godwit::controller {

struct AgentEndpoint {
  std::string node;     // the certificate must be for <node>.agent.godwit
  std::string address;  // IP
  int port = 0;
  absl::Duration connect_timeout;
};

struct AgentAnswer {
  int code = 0;
  std::string body;
};

// Thread-safe.
class AgentConnection {
 public:
  AgentConnection(AgentEndpoint endpoint, const IdentityHolder* identity);
  ~AgentConnection();

  // Any HTTP answer; an error when there was none: Unauthenticated (one side does not trust the other's
  // certificate), DeadlineExceeded, Unavailable.
  absl::StatusOr<AgentAnswer> Send(absl::string_view method, const std::string& path, const std::string& body,
                                   absl::Duration timeout);

 private:
  struct Session;
  std::unique_ptr<Session> Borrow() ABSL_LOCKS_EXCLUDED(mutex_);
  void Return(std::unique_ptr<Session> session) ABSL_LOCKS_EXCLUDED(mutex_);

  const AgentEndpoint endpoint_;
  const IdentityHolder* const identity_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Session>> idle_ ABSL_GUARDED_BY(mutex_);
};

// The status for an answer that is not 2xx, from its ErrorBody where it has one.
absl::Status StatusFromAnswer(const AgentAnswer& answer);

}  // namespace godwit::controller
