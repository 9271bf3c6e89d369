// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/findings.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "controller/pods/eligibility.h"

namespace godwit::controller {

using crds::Finding;
using crds::Severity;

constexpr size_t kMostMessage = 4096;  // of a condition: its findings are in status, too

Finding FromAgent(const agent_api::Finding& in) {
  Finding out{.id = in.id,
              .container = in.container,
              .message = in.message,
              .remedy = in.remedy,
              .evidence = in.evidence};
  switch (in.severity) {
    case agent_api::Severity::kInfo: out.severity = Severity::kInfo; break;
    case agent_api::Severity::kWarning: out.severity = Severity::kWarning; break;
    case agent_api::Severity::kBlocking: out.severity = Severity::kBlocking; break;
  }
  return out;
}

Finding Found(agent_api::FindingId id, std::string message, std::string evidence) {
  return FromAgent(agent_api::MakeFinding(id, "", std::move(message), std::move(evidence)));
}

std::optional<Failure> FirstBlocking(const std::vector<Finding>& findings) {
  std::optional<Failure> first;
  for (const Finding& finding : findings) {
    if (finding.severity != Severity::kBlocking) continue;
    if (!first) first = Failure{finding.id, ""};
    if (first->message.size() > kMostMessage) {
      absl::StrAppend(&first->message, "; and more");
      break;
    }
    absl::StrAppend(&first->message, first->message.empty() ? "" : "; ",
                    absl::StrContains(finding.message, finding.container)
                        ? ""
                        : absl::StrCat("container ", finding.container, ": "),
                    finding.message, finding.remedy.empty() ? "" : ". ", finding.remedy);
  }
  return first;
}

std::optional<Finding> RoomMissing(agent_api::FindingId id, absl::string_view what, const std::string& node,
                                   int64_t has, int64_t needs, int64_t spare, int64_t reserve) {
  if (has >= needs + spare + reserve) return std::nullopt;
  const int64_t available = std::max(int64_t{0}, has - reserve);
  const std::string beyond = reserve == 0 ? ""
                                          : absl::StrCat(" beyond the ", reserve >> 20,
                                                         " MiB that stay free (agent.diskReservePercent)");
  return Found(
      id,
      absl::StrCat("node ", node, " has ", available >> 20, " MiB of ", what, " available", beyond, ", and ",
                   (needs + spare) >> 20, " MiB are needed"),
      absl::StrCat(has, " bytes available, ", needs, " to move, ", spare + reserve, " to stay free"));
}

std::optional<Finding> ProbeTooTight(const k8s::Pod& pod, absl::Duration cap) {
  const auto limit = FreezeLimit(pod, cap);
  if (limit.ok()) return std::nullopt;
  return Found("LivenessProbeTooTight", std::string(limit.status().message()));
}

bool IsRefusal(const absl::Status& error) {
  switch (error.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented: return true;
    default: return false;
  }
}

}  // namespace godwit::controller
