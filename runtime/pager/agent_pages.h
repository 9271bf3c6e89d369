// SPDX-License-Identifier: Apache-2.0
// Asks the agent for the page stores of a container (agent/api/host_protocol.h: PagesRequest).
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/host_protocol.h"
#include "base/file.h"
#include "base/socket.h"

namespace godwit::pager {

// Of one task, by its pid in the container's namespace. Each descriptor is a regular file.
struct TaskStore {
  pid_t pid = 0;
  UniqueFd store;
  UniqueFd map;  // of its missing pages; not ok: none is missing
};

struct AgentPages {
  std::vector<TaskStore> stores;
  bool give = false;  // the agent knows of none: it is to be given ours
  // Pages are missing: over this connection they are told to have come.
  std::optional<LineChannel> pull;
};

// `resume`: not for the first time.
absl::StatusOr<AgentPages> AskForPages(const agent_api::PagerSpec& spec, bool resume = false);

// The answer to `give`. The descriptors stay the caller's.
struct GivenStore {
  pid_t pid = 0;
  int store = -1;
  int map = -1;
};
absl::Status GivePages(LineChannel& channel, const std::vector<GivenStore>& stores);

}  // namespace godwit::pager
