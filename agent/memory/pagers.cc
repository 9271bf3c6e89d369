// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/pagers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

namespace godwit::memory {
namespace {

constexpr size_t kMaxStatus = 65536;
constexpr absl::Duration kLook = absl::Milliseconds(50);

}  // namespace

std::optional<agent_api::PagerStatus> ReadPagerStatus(const std::string& file) {
  const absl::StatusOr<std::string> text = ReadFile(file, kMaxStatus);
  if (!text.ok()) return std::nullopt;
  absl::StatusOr<agent_api::PagerStatus> status = json::Decode<agent_api::PagerStatus>(*text);
  if (!status.ok()) return std::nullopt;
  return *std::move(status);
}

std::vector<agent_api::PagerStatus> PagersAtWork(const std::string& folder) {
  std::vector<agent_api::PagerStatus> pagers;
  for (const std::string& name : ListFolder(folder).value_or(std::vector<std::string>())) {
    if (auto status = ReadPagerStatus(absl::StrCat(folder, "/", name))) pagers.push_back(*std::move(status));
  }
  return pagers;
}

bool StillFilled(const std::string& folder, const std::vector<std::string>& container_ids) {
  return std::any_of(container_ids.begin(), container_ids.end(), [&](const std::string& id) {
    return FileExists(absl::StrCat(folder, "/", id, kStatusSuffix));
  });
}

absl::Status AwaitFilled(const std::string& folder, const std::vector<std::string>& container_ids,
                         absl::Duration limit) {
  for (const absl::Time deadline = SteadyNow() + limit; StillFilled(folder, container_ids);
       absl::SleepFor(kLook)) {
    if (SteadyNow() < deadline) continue;
    return absl::UnavailableError(absl::StrCat("the pod's memory is still being filled after its last move (",
                                               folder,
                                               "): it can be moved on or checkpointed when that is done"));
  }
  return absl::OkStatus();
}

}  // namespace godwit::memory
