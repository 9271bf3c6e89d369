// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/course.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace godwit::godwit_runtime {

using agent_api::PermitState;

Course ChooseCourse(const Bundle& bundle, const absl::StatusOr<std::vector<permits::StoredPermit>>& sandbox,
                    const absl::StatusOr<std::string>& held) {
  if (!bundle.is_container) return {.way = Way::kOrdinary};
  // Before the permits: a pod that came here by a migration and goes on by another holds spent ones.
  if (held.ok() && !held->empty()) return {.way = Way::kFail, .message = *held};
  if (!held.ok() && permits::ValidSandboxUid(bundle.sandbox_uid)) {
    return {
        .way = Way::kFail,
        .message = absl::StrCat("cannot tell whether the pod was handed over: ", held.status().message())};
  }
  if (!sandbox.ok()) {
    // Without names nobody can hold a permit; a permit that cannot be read may be one that forbids.
    if (bundle.migration.empty() && !permits::ValidSandboxUid(bundle.sandbox_uid))
      return {.way = Way::kOrdinary};
    return {.way = Way::kFail,
            .message = absl::StrCat("cannot tell whether the container holds a permit: ",
                                    sandbox.status().message())};
  }
  bool all_spent = !sandbox->empty();
  for (const permits::StoredPermit& stored : *sandbox) {
    if (stored.container == bundle.container) {
      switch (stored.permit.state) {
        case PermitState::kSpent: return {.way = Way::kOrdinary};
        case PermitState::kAborted:
          return {.way = Way::kFail,
                  .message = absl::StrCat("migration ", stored.permit.migration_uid,
                                          " was aborted: ", stored.permit.message)};
        case PermitState::kWaiting:
          return {.way = Way::kAsk,
                  .create_limit = std::clamp(stored.permit.create_limit, absl::Seconds(1), kLongestCreate)};
      }
    }
    all_spent = all_spent && stored.permit.state == PermitState::kSpent;
  }
  // In a pod that has arrived, a container that did not come along (an ephemeral one) is a container like any
  // other.
  if (all_spent) return {.way = Way::kOrdinary};
  if (sandbox->empty() && bundle.migration.empty()) return {.way = Way::kOrdinary};
  return {.way = Way::kAsk, .create_limit = kCreateWithoutPermit};
}

}  // namespace godwit::godwit_runtime
