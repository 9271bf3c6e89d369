// SPDX-License-Identifier: Apache-2.0
// Asks the agent for the page stores of a container (agent/api/host_protocol.h: PagesRequest).
#pragma once

#include <sys/types.h>

#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/api/host_protocol.h"
#include "base/file.h"

namespace godwit::pager {

// By pid in the container's namespace. Each descriptor is a regular file.
absl::StatusOr<std::vector<std::pair<pid_t, UniqueFd>>> AskForPages(const agent_api::PagerSpec& spec);

}  // namespace godwit::pager
