// SPDX-License-Identifier: Apache-2.0
// Findings: of agents, of nodes, and what they mean together.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/api/findings.h"
#include "agent/api/messages.h"
#include "controller/pods/progress.h"
#include "crds/common.h"
#include "k8s/pod.h"

namespace godwit::controller {

crds::Finding FromAgent(const agent_api::Finding& finding);
// One of the controller's own, with severity and remedy of the table.
crds::Finding Found(agent_api::FindingId id, std::string message, std::string evidence = "");

// When one blocks: the id of the first that does, and the sentences of all that do.
std::optional<Failure> FirstBlocking(const std::vector<crds::Finding>& findings);

// A node that has less of something than is needed and must stay free (bytes). `reserve`: what archives leave
// free of the disk besides, a part of `has` (NodeInfo::storage_reserve).
std::optional<crds::Finding> RoomMissing(agent_api::FindingId id, absl::string_view what,
                                         const std::string& node, int64_t has, int64_t needs, int64_t spare,
                                         int64_t reserve = 0);

// A probe that leaves no time to stand still (FreezeLimit).
std::optional<crds::Finding> ProbeTooTight(const k8s::Pod& pod, absl::Duration cap);

// Whether an error is a definite no rather than the absence of an answer.
bool IsRefusal(const absl::Status& error);

}  // namespace godwit::controller
