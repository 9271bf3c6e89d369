// SPDX-License-Identifier: Apache-2.0
// The guard as the source of a migration sees it; a seam for tests. RealGuards talks to godwit-guard.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "agent/guard/client.h"

namespace godwit::migration {

// As guard::GuardClient: an error is the conversation's, a refusal is a reply. One conversation at a time;
// Shutdown from any thread.
class Guard {
 public:
  virtual ~Guard() = default;
  virtual absl::StatusOr<agent_api::GuardReply> Arm() = 0;
  virtual absl::StatusOr<agent_api::GuardReply> Freeze() = 0;
  virtual absl::StatusOr<agent_api::GuardReply> Dump(const std::string& container, absl::Duration limit) = 0;
  virtual absl::StatusOr<agent_api::GuardReply> Cede() = 0;
  virtual absl::StatusOr<agent_api::GuardReply> Thaw(const std::string& why) = 0;
  virtual absl::StatusOr<agent_api::GuardReply> TargetAborted(const std::string& why) = 0;
  virtual absl::StatusOr<agent_api::GuardReply> Kill() = 0;
  virtual absl::StatusOr<agent_api::GuardReply> Status() = 0;
  // True once the guard has ended the conversation (its freeze limit passed, or it died).
  virtual bool Ended() = 0;
  // Ends the conversation, and with it a freeze that was not ceded; whoever waits for a reply gets an error.
  virtual void Shutdown() = 0;
};

struct Guards {
  // Starts a guard, also one that answers for what an earlier guard of the same spec left.
  std::function<absl::StatusOr<std::unique_ptr<Guard>>(const agent_api::GuardSpec&)> start;
  // Talks to one that runs. NotFound or Unavailable when none does.
  std::function<absl::StatusOr<std::unique_ptr<Guard>>(const std::string& socket)> find;
};

// `launch.spec_file` is set for each guard, to "guard.json" beside its socket.
Guards RealGuards(const guard::GuardLaunch& launch);

}  // namespace godwit::migration
