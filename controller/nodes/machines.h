// SPDX-License-Identifier: Apache-2.0
// What the machines of two nodes have to have in common for a process of the one to go on on the other, as
// their agents tell it.
#pragma once

#include <vector>

#include "agent/api/messages.h"
#include "crds/common.h"

namespace godwit::controller {

// `other_users`: the pod has processes that are not root's. What an older agent does not tell is not
// compared.
std::vector<crds::Finding> CompareMachines(const agent_api::NodeInfo& source,
                                           const agent_api::NodeInfo& target, bool other_users);

}  // namespace godwit::controller
