// SPDX-License-Identifier: Apache-2.0
// A Migration that fails removes what it made; one that has ended lets its object go.
#include "absl/strings/str_cat.h"
#include "controller/migration/draft.h"
#include "controller/pods/names.h"

namespace godwit::controller {

namespace {

using agent_api::SourceState;
using agent_api::TargetState;

// The next removal: first both sides are told (so that `create` on the target ends), then the target pod
// goes, then both sides forget. nullopt when nothing more can be done; `in_the_way` then tells what is left
// and why.
std::optional<MigrationDecision> Remove(Draft& draft, std::optional<Failure>& in_the_way) {
  const MigrationObserved& seen = draft.seen;
  const k8s::Condition why = *k8s::FindCondition(draft.status.conditions, crds::kComplete);
  if (seen.source_side.ok() &&
      (seen.source_side->state == SourceState::kOpen || seen.source_side->state == SourceState::kFrozen)) {
    return draft.Abort(MigrationStep::kAbortSource, {why.reason, why.message});
  }
  const bool target_known = seen.target_side.ok();
  if (target_known &&
      (seen.target_side->state == TargetState::kOpen || seen.target_side->state == TargetState::kPrepared)) {
    return draft.Abort(MigrationStep::kAbortTarget, {why.reason, why.message});
  }
  if (auto reclaim = TakeBack(draft)) return reclaim;
  // Known by its UID, too, should somebody have taken our marks off.
  const bool ours = seen.target && (MadeBy(seen.migration.metadata, seen.target->metadata) ||
                                    seen.target->metadata.uid == draft.status.target_pod_uid);
  // A target that was given up says what it last knew, when its node is back; the pod's object is gone.
  const bool runs = draft.TargetRuns() && (why.reason != kTargetLost || ours);
  // Nobody on its node would see a deletion that waits for the pod's end.
  if (ours && !target_known && why.reason == kTargetLost &&
      (!seen.target->metadata.terminating() || seen.target->metadata.finalizers.empty())) {
    return draft.Do(MigrationStep::kRemoveTargetPod, absl::Seconds(1));
  }
  if (ours && !runs && !seen.target->metadata.terminating()) return draft.Do(MigrationStep::kDeleteTargetPod);
  if (runs) {
    in_the_way = Failure{"TargetRuns", absl::StrCat("the agent of node ", seen.target_node.name,
                                                    " says that the target runs")};
    return std::nullopt;
  }
  if (auto step = ForgetSides(draft, in_the_way)) return step;
  if (ours && !in_the_way) {
    in_the_way = Failure{"TargetPodTerminating",
                         absl::StrCat("target pod ", draft.status.target_pod_name, " is still terminating")};
  }
  return std::nullopt;
}

}  // namespace

std::optional<MigrationDecision> TakeBack(Draft& draft) {
  const auto& source = draft.seen.source_side;
  const auto& target = draft.seen.target_side;
  if (!source.ok() || source->state != SourceState::kCeded || source->target_running) return std::nullopt;
  if (!source->reason.empty()) return std::nullopt;  // it is being taken back
  if (!target.ok() || target->state != TargetState::kAborted) return std::nullopt;
  return draft.Abort(MigrationStep::kReclaimSource, AbortedBy(*target), absl::Seconds(1));
}

MigrationDecision DecideFailing(Draft& draft) {
  std::optional<Failure> in_the_way;
  if (auto step = Remove(draft, in_the_way)) return *std::move(step);
  const absl::Time since = k8s::FindCondition(draft.status.conditions, crds::kComplete)->last_transition_time;
  if (in_the_way && draft.now - since < draft.settings.cleanup_patience) {
    return draft.Wait("CleaningUp", in_the_way->message, absl::Seconds(1));
  }
  return draft.FinishFailing(in_the_way);
}

MigrationDecision DecideEnded(Draft& draft) {
  const bool clean = k8s::IsConditionTrue(draft.status.conditions, crds::kCleanedUp);
  if (!clean) {
    std::optional<Failure> in_the_way;
    // One that has switched and lost its state then leaves the target pod as it is.
    const bool failed = draft.status.phase == crds::MigrationPhase::kFailed &&
                        !k8s::IsConditionTrue(draft.status.conditions, crds::kSwitched);
    auto step = failed ? Remove(draft, in_the_way) : ForgetSides(draft, in_the_way);
    if (step) return *std::move(step);
    // Its node was given up, and is back: it hears from the target that the pod runs there.
    if (!failed && draft.seen.source_side.ok() && draft.seen.source_side->state == SourceState::kCeded) {
      return draft.Finish(MigrationStep::kFinishSource, absl::Seconds(1));
    }
    if (in_the_way) {
      draft.Condition(crds::kCleanedUp, "False", in_the_way->reason, in_the_way->message);
      return draft.Wait("", "", absl::Seconds(15));
    }
    draft.Condition(crds::kCleanedUp, "True", "NothingLeft", "nothing of the migration was left behind");
    return draft.Nothing();
  }
  const bool ours = draft.seen.migration.metadata.HasFinalizer(crds::Migration::kFinalizer);
  return draft.terminating() && ours ? draft.Do(MigrationStep::kRemoveFinalizer) : draft.Nothing();
}

}  // namespace godwit::controller
