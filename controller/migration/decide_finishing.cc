// SPDX-License-Identifier: Apache-2.0
// After the decision: labels and owner go to the target, the source pod goes. There is no way back, and no
// failure.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "controller/migration/draft.h"
#include "controller/pods/eligibility.h"
#include "controller/pods/names.h"
#include "controller/pods/target_pod.h"

namespace godwit::controller {
namespace {

using agent_api::SourceState;
using agent_api::TargetState;

constexpr absl::Duration kLook = absl::Milliseconds(500);

// The target runs, and should: it was not deleted or ended since the commit.
bool TargetThere(const Draft& draft) {
  const auto& target = draft.seen.target;
  return target && target->metadata.uid == draft.status.target_pod_uid && !target->metadata.terminating() &&
         !target->finished();
}

bool SourceStays(const Draft& draft) {
  return draft.SourceThere() && !draft.seen.source->view.metadata.terminating();
}

// kubelet counts failed probes against the frozen source and would kill and restart it; before that it must
// be deleted.
bool ProbesPress(const Draft& draft) {
  if (!SourceStays(draft)) return false;
  const k8s::Pod& source = draft.seen.source->view;
  const auto limit = FreezeLimit(source, draft.settings.freeze_cap);
  if (!limit.ok() || !HasLivenessProbe(source) || draft.status.freeze.frozen_at == absl::Time()) return false;
  return draft.now > draft.status.freeze.frozen_at + *limit - absl::Seconds(2);
}

std::string UnreadySibling(const Draft& draft) {
  for (const k8s::Pod& pod : draft.seen.siblings) {
    if (!pod.ready()) return pod.metadata.name;
  }
  return "";
}

// The next thing to do for labels and owner; nullopt when that is done or must come after the source's
// deletion.
std::optional<MigrationDecision> HandOverStep(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  const HandOver hand_over = draft.SourceThere() ? HandOverOf(seen.source->view.metadata)
                                                 : HandOverFromTarget(seen.target->metadata);
  const bool owned = std::any_of(hand_over.owners.begin(), hand_over.owners.end(),
                                 [](const k8s::OwnerReference& owner) { return owner.controller; });
  if (HandedOver(seen.target->metadata, hand_over)) {
    draft.Condition(crds::kHandedOver, "True", owned ? "Owned" : "Bare",
                    owned ? absl::StrCat("pod ", draft.status.target_pod_name, " belongs to ",
                                         hand_over.owners.front().kind, " ", hand_over.owners.front().name)
                          : absl::StrCat("pod ", draft.status.target_pod_name, " has the source's labels"));
    return std::nullopt;
  }
  if (!owned) return draft.Do(MigrationStep::kHandOver);
  if (SourceStays(draft) && seen.source->view.metadata.Annotation(kDeletionCost) != kLowestDeletionCost) {
    return draft.Do(MigrationStep::kLowerDeletionCost);
  }
  // Not ready, the target would be the one that the ReplicaSet deletes.
  if (!seen.target->ready()) {
    const std::string message = absl::StrCat(
        "pod ", draft.status.target_pod_name,
        " is not ready yet; it joins its ReplicaSet when it is (or delete it to give up its state)");
    draft.Condition(crds::kHandedOver, "False", "WaitingForTargetReady", message);
    if (ProbesPress(draft)) return std::nullopt;
    if (SourceStays(draft)) return draft.Wait("WaitingForTargetReady", message, kLook);
    return std::nullopt;
  }
  if (const std::string sibling = UnreadySibling(draft);
      SourceStays(draft) && !sibling.empty() && !ProbesPress(draft)) {
    const std::string message = absl::StrCat(
        "pod ", sibling,
        " of the same ReplicaSet is not ready: the ReplicaSet would delete it, and not the source");
    draft.Condition(crds::kHandedOver, "False", "WaitingForSibling", message);
    return draft.Wait("WaitingForSibling", message, kLook);
  }
  return draft.Do(MigrationStep::kHandOver);
}

// Kills what is left of the source when kubelet will not restart it; nullopt when that is done or cannot be
// done.
std::optional<MigrationDecision> FinishSource(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (!seen.source_node.exists) return std::nullopt;  // no node, no processes
  if (!seen.source_side.ok()) {
    draft.AgentSilent(AgentFailure(seen.source_node.name, seen.source_side.status()));
    return draft.Wait("AgentUnreachable",
                      absl::StrCat("the frozen source is removed when the agent of node ",
                                   seen.source_node.name, " answers: ", seen.source_side.status().message()),
                      absl::Seconds(2));
  }
  if (seen.source_side->state != SourceState::kCeded) return std::nullopt;
  if (draft.SourceThere() &&
      !KubeletSawDeletion(seen.source->view, draft.settings.kubelet_patience, draft.now)) {
    return draft.Wait("WaitingForKubelet",
                      absl::StrCat("waiting until kubelet of node ", seen.source_node.name,
                                   " knows that the source pod is deleted"),
                      kLook);
  }
  MigrationDecision decision = draft.Do(MigrationStep::kFinishSource);
  decision.again = kLook;
  return decision;
}

}  // namespace

std::optional<MigrationDecision> ForgetSides(Draft& draft, std::optional<Failure>& in_the_way) {
  const MigrationObserved& seen = draft.seen;
  if (seen.source_node.exists) {
    if (!seen.source_side.ok()) {
      in_the_way = AgentFailure(seen.source_node.name, seen.source_side.status());
    } else if (seen.source_side->state == SourceState::kCeded) {
      in_the_way = Failure{"SourceFrozen", absl::StrCat("the source on node ", seen.source_node.name,
                                                        " stands frozen: it has handed over to the target")};
    } else if (seen.source_side->state != SourceState::kNone) {
      return draft.Do(MigrationStep::kForgetSource);
    }
  }
  if (seen.target_node.exists) {
    if (!seen.target_side.ok()) {
      in_the_way = AgentFailure(seen.target_node.name, seen.target_side.status());
    } else if (seen.target_side->state != TargetState::kNone) {
      return draft.Do(MigrationStep::kForgetTarget);
    }
  }
  return std::nullopt;
}

MigrationDecision DecideFinishing(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (seen.source_side.ok() && seen.target_side.ok()) draft.AgentsAnswer();
  if (seen.source_side.ok() && seen.source_side->state == SourceState::kCeded &&
      seen.source_side->target_running) {
    draft.status.freeze = FreezeOf(*seen.source_side);  // in all, now
  }
  if (TargetThere(draft)) {
    if (!IsCommitted(*seen.target)) return draft.Do(MigrationStep::kMarkCommitted);
    if (auto step = HandOverStep(draft)) return *std::move(step);
  } else {
    draft.Condition(
        crds::kHandedOver, "False", "TargetPodGone",
        absl::StrCat("pod ", draft.status.target_pod_name, " was deleted or ended after it had taken over"));
  }
  if (SourceStays(draft)) return draft.Do(MigrationStep::kDeleteSourcePod);
  if (auto step = FinishSource(draft)) return *std::move(step);
  if (draft.SourceThere()) {
    draft.Condition(crds::kSourceRemoved, "False", "Terminating", "kubelet is removing the source pod");
    return draft.Wait("RemovingSource", "kubelet is removing the source pod", absl::Seconds(1));
  }
  draft.Condition(crds::kSourceRemoved, "True", "Gone", "the source pod is gone");
  const k8s::Condition* handed = k8s::FindCondition(draft.status.conditions, crds::kHandedOver);
  if (TargetThere(draft) && handed != nullptr && handed->status == "False") {
    return draft.Wait(handed->reason, std::string(handed->message), kLook);
  }
  std::optional<Failure> in_the_way;
  if (auto step = ForgetSides(draft, in_the_way)) return *std::move(step);
  if (in_the_way && !draft.AgentSilent(*in_the_way)) {
    return draft.Wait(in_the_way->reason, in_the_way->message, absl::Seconds(2));
  }
  return draft.Succeed(in_the_way);
}

}  // namespace godwit::controller
