// SPDX-License-Identifier: Apache-2.0
// `create` of a container that may have to become a restore: from the agent's word to a container that stands
// still.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "agent/permits/permit_store.h"
#include "runtime/godwit_runtime/bundle.h"
#include "runtime/godwit_runtime/command_line.h"
#include "runtime/godwit_runtime/error_log.h"

namespace godwit::godwit_runtime {

// Where things are; tests have their own.
struct Places {
  std::string permits = std::string(agent_api::kStateFolder) + "/permits";
  std::string holds = std::string(agent_api::kStateFolder) + agent_api::kHoldsFolder;
  std::string agent_socket = agent_api::kRuntimeSocket;
  std::string criu_folder;  // with the launcher `criu`
  std::string pager;        // the program godwit-pager
  std::string pages_socket = agent_api::kPagesSocket;
  std::string pagers = agent_api::kPagersFolder;
};

enum class Outcome {
  kOrdinary,  // go on as the node's runtime does
  kRestored,  // `create` has succeeded
};

// An error is what `create` fails with; nothing of a restore is left then, or the error says so.
absl::StatusOr<Outcome> Create(const CommandLine& line, const agent_api::RuntimeConfig& config,
                               const Places& places, absl::Time began, const ErrorLog& log);

// A container that came out of Create as kRestored runs already: its `start` does nothing. The mark lies in
// the runtime's own folder of the container, which is known to every command and goes with `delete`.
bool IsRestored(const CommandLine& line);

// `kill` with SIGKILL of a restored container that stands still: runc kills the first process and then thaws
// the rest (runc 1.3, libcontainer's Signal), which is not meant to run, not for a moment. All of it is
// killed first.
absl::Status KillIfStandingStill(const CommandLine& line, const agent_api::RuntimeConfig& config);

}  // namespace godwit::godwit_runtime
