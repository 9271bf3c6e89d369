// SPDX-License-Identifier: Apache-2.0
#include "controller/migration/invariants.h"

#include "absl/strings/str_cat.h"
#include "base/json.h"

namespace godwit::controller {

std::vector<BrokenInvariant> BrokenInvariants(const MigrationObserved& seen) {
  using agent_api::SourceState;
  using agent_api::TargetState;
  std::vector<BrokenInvariant> broken;
  if (!seen.source_side.ok() || !seen.target_side.ok()) return broken;
  const SourceState source = seen.source_side->state;
  const TargetState target = seen.target_side->state;
  const std::string sides =
      absl::StrCat("the source's agent says ", json::Name(source), ", the target's ", json::Name(target));
  if (source == SourceState::kAborted && target == TargetState::kRunning)
    broken.push_back({"I1", absl::StrCat("both copies run: ", sides)});
  const bool target_stands_still = target == TargetState::kOpen || target == TargetState::kPrepared;
  if (source == SourceState::kDone && (target_stands_still || target == TargetState::kAborted))
    broken.push_back({"I3", absl::StrCat("the source was killed without a target that runs: ", sides)});
  return broken;
}

}  // namespace godwit::controller
