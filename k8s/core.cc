// SPDX-License-Identifier: Apache-2.0
#include "k8s/core.h"

namespace godwit::k8s {

const StatusCondition* FindCondition(const std::vector<StatusCondition>& conditions, absl::string_view type) {
  for (const StatusCondition& condition : conditions) {
    if (condition.type == type) return &condition;
  }
  return nullptr;
}

bool IsConditionTrue(const std::vector<StatusCondition>& conditions, absl::string_view type) {
  const StatusCondition* found = FindCondition(conditions, type);
  return found != nullptr && found->status == "True";
}

std::string Node::Address(absl::string_view type) const {
  for (const NodeAddress& address : status.addresses) {
    if (address.type == type) return address.address;
  }
  return "";
}

bool Node::HasRuntimeHandler(absl::string_view name) const {
  for (const NodeRuntimeHandler& handler : status.runtime_handlers) {
    if (handler.name == name) return true;
  }
  return false;
}

}  // namespace godwit::k8s
