// SPDX-License-Identifier: Apache-2.0
// The pagers at work on this node (agent/api/host_protocol.h: PagerStatus).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"

namespace godwit::memory {

inline constexpr char kStatusSuffix[] = ".json";

// nullopt: it is not there, or is no status.
std::optional<agent_api::PagerStatus> ReadPagerStatus(const std::string& file);

// `folder`: kPagersFolder as seen from here. A pager that ends meanwhile is left out.
std::vector<agent_api::PagerStatus> PagersAtWork(const std::string& folder);

// Whether the memory of one of these containers is still being filled: it has a userfaultfd then, a second
// one cannot be had, and pages that are not there cannot be dumped.
bool StillFilled(const std::string& folder, const std::vector<std::string>& container_ids);

// Waits until none is. Unavailable after `limit`.
absl::Status AwaitFilled(const std::string& folder, const std::vector<std::string>& container_ids,
                         absl::Duration limit);

}  // namespace godwit::memory
