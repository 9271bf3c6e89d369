// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/agent_link.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::godwit_runtime {
namespace {

constexpr size_t kMaxReply = 64u << 10;
constexpr absl::Duration kRetry = absl::Milliseconds(200);

}  // namespace

absl::StatusOr<AgentLink> AgentLink::Connect(const std::string& socket, absl::Time deadline,
                                             const std::function<bool()>& still_wanted) {
  while (true) {
    absl::StatusOr<UniqueFd> connection = ConnectUnix(socket, absl::Seconds(2));
    if (connection.ok()) {
      GODWIT_ASSIGN_OR_RETURN(const PeerCredentials peer, PeerOf(connection->get()));
      if (peer.uid != 0) {
        return absl::PermissionDeniedError(
            absl::StrCat("who listens at ", socket, " is not root but uid ", peer.uid));
      }
      return AgentLink(LineChannel(*std::move(connection), kMaxReply));
    }
    if (SteadyNow() + kRetry >= deadline || !still_wanted()) {
      return absl::UnavailableError(absl::StrCat("godwit-agent does not answer on this node (",
                                                 connection.status().message(), "); is its pod running?"));
    }
    absl::SleepFor(kRetry);
  }
}

absl::Status AgentLink::Send(const agent_api::RuntimeRequest& request) {
  return channel_.WriteLine(json::Encode(request), absl::Seconds(5));
}

absl::StatusOr<agent_api::RuntimeReply> AgentLink::Receive(absl::Time deadline) {
  absl::StatusOr<std::string> line = channel_.ReadLine(deadline - SteadyNow());
  if (absl::IsDeadlineExceeded(line.status())) return line.status();
  if (!line.ok()) {
    return absl::UnavailableError("godwit-agent closed the connection (it ended or was restarted meanwhile)");
  }
  return json::Decode<agent_api::RuntimeReply>(*line, {.max_bytes = kMaxReply, .max_depth = 8});
}

}  // namespace godwit::godwit_runtime
