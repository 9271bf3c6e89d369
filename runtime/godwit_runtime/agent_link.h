// SPDX-License-Identifier: Apache-2.0
// The conversation with the node's agent about one `create` (agent/api/host_protocol.h).
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "base/socket.h"

namespace godwit::godwit_runtime {

class AgentLink {
 public:
  // Unavailable when no agent listens by `deadline`; until then it is tried again, for an agent that is being
  // replaced, as long as `still_wanted` says so.
  static absl::StatusOr<AgentLink> Connect(const std::string& socket, absl::Time deadline,
                                           const std::function<bool()>& still_wanted);

  int fd() const { return channel_.fd(); }
  absl::Status Send(const agent_api::RuntimeRequest& request);
  // The agent's next word. Unavailable: it closed the connection, which is a refusal. DeadlineExceeded.
  absl::StatusOr<agent_api::RuntimeReply> Receive(absl::Time deadline);

 private:
  explicit AgentLink(LineChannel channel) : channel_(std::move(channel)) {}
  LineChannel channel_;
};

}  // namespace godwit::godwit_runtime
