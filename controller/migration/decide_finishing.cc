// SPDX-License-Identifier: Apache-2.0
// After the decision: what memory is missing comes, labels and owner go to the target, the source pod goes.
// There is no way back, and no failure but one: memory of a post-copy that never came.
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

std::string UnreadySibling(const Draft& draft) {
  for (const k8s::Pod& pod : draft.seen.siblings) {
    if (!pod.ready()) return pod.metadata.name;
  }
  return "";
}

HandOver HandOverNow(const Draft& draft) {
  return draft.SourceThere() ? HandOverOf(draft.seen.source->view.metadata)
                             : HandOverFromTarget(draft.seen.target->metadata);
}

bool IsOwned(const HandOver& hand_over) {
  return std::any_of(hand_over.owners.begin(), hand_over.owners.end(),
                     [](const k8s::OwnerReference& owner) { return owner.controller; });
}

// What the sides say of memory that a post-copy left to be pulled.
enum class Memory {
  kThere,    // nothing is missing, or never was
  kMissing,  // some is still on the source alone, or may be: nobody has said that it is not
  kLost,     // it will never come
};

Memory MemoryOf(const Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  const k8s::Condition* told = k8s::FindCondition(draft.status.conditions, crds::kMemoryArrived);
  if (told != nullptr && told->status == "True") return Memory::kThere;
  if (told != nullptr && told->reason == crds::kLost) return Memory::kLost;
  if (IsAbandoned(draft.status.conditions))
    return Memory::kThere;  // whatever there was on the source is given up with it
  const agent_api::SourceStatus* source = seen.source_side.ok() ? &*seen.source_side : nullptr;
  const agent_api::TargetStatus* target = seen.target_side.ok() ? &*seen.target_side : nullptr;
  const bool serves = source != nullptr && source->state == SourceState::kCeded && source->serving;
  const bool runs = draft.TargetRuns();
  if (runs && !target->pull.pulling && !target->pull.lost.empty()) return Memory::kLost;
  if (serves || (runs && target->pull.pulling)) return Memory::kMissing;
  const crds::MigrationSpec& spec = seen.migration.spec;
  const bool may_be = told != nullptr || spec.strategy == crds::Strategy::kPostCopy ||
                      spec.when_not_converging == crds::WhenNotConverging::kPostCopy ||
                      draft.status.strategy == crds::Strategy::kPostCopy;
  // Of an agent that was restarted: the source has asked the target anew before it says that the target runs.
  const bool not_needed =
      !seen.source_node.exists ||
      (source != nullptr && (source->state != SourceState::kCeded || source->target_running));
  return !may_be || not_needed || runs ? Memory::kThere : Memory::kMissing;
}

// The target has gone. What it had not pulled by then is lost, and with it what the pod had come to.
void LoseMissing(Draft& draft) {
  const bool pulled = k8s::FindCondition(draft.status.conditions, crds::kMemoryArrived) != nullptr ||
                      (draft.seen.source_side.ok() && draft.seen.source_side->serving);
  // Its processes may have ended by themselves, and need no memory any more.
  const bool over = draft.TargetRuns() && !draft.seen.target_side->pull.pulling &&
                    draft.seen.target_side->pull.lost.empty();
  if (!pulled || over || MemoryOf(draft) != Memory::kMissing) return;
  const std::string message = absl::StrCat("pod ", draft.status.target_pod_name,
                                           " was deleted or ended before all of its memory had come");
  draft.Condition(crds::kMemoryArrived, "False", crds::kLost, message);
  draft.Say(true, "StateLost", message);
}

// From the figures in status, which change once a second.
std::string PullText(const Draft& draft) {
  const crds::PostCopy& pull = draft.status.post_copy;
  if (pull.total_bytes == 0)
    return absl::StrCat("memory is pulled from node ", draft.status.source_node, "; how much is not known");
  return absl::StrCat(pull.missing_bytes >> 20, " MiB of the ", pull.total_bytes >> 20,
                      " MiB that the processes went on without are still on node ", draft.status.source_node,
                      "; they waited for ", pull.faults, " pages");
}

// The source's memory is still needed: nothing is done that would kill its processes. nullopt: it is not.
std::optional<MigrationDecision> AwaitMemory(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  const Memory memory = MemoryOf(draft);
  if (seen.target_side.ok()) RecordPull(draft, seen.target_side->pull, /*last=*/memory != Memory::kMissing);
  const bool pulled = draft.status.post_copy.total_bytes > 0 ||
                      k8s::FindCondition(draft.status.conditions, crds::kMemoryArrived) != nullptr;
  switch (memory) {
    case Memory::kThere:
      if (pulled && !k8s::IsConditionTrue(draft.status.conditions, crds::kMemoryArrived)) {
        draft.status.post_copy.missing_bytes = 0;
        draft.Condition(crds::kMemoryArrived, "True", "Arrived", "all memory is on the target");
      }
      return std::nullopt;
    case Memory::kLost:
      if (seen.target_side.ok() && !seen.target_side->pull.lost.empty() &&
          draft.Condition(crds::kMemoryArrived, "False", crds::kLost, seen.target_side->pull.lost))
        draft.Say(true, "StateLost", seen.target_side->pull.lost);
      return std::nullopt;
    case Memory::kMissing: break;
  }
  const std::string text = PullText(draft);
  draft.Condition(crds::kMemoryArrived, "False", crds::kPulling, text);
  // Deleted, the pod is not probed any more, and not killed within the grace that it is given.
  if (ProbesPress(draft)) return draft.Do(MigrationStep::kRetireSourcePod);
  for (const auto& [node, status] : {std::pair(seen.source_node.name, seen.source_side.status()),
                                     std::pair(seen.target_node.name, seen.target_side.status())}) {
    if (!status.ok()) draft.AgentSilent(AgentFailure(node, status));
  }
  return draft.Wait("PullingMemory", text, kLook);
}

// The next thing to do for labels and owner; nullopt when that is done or must come after the source's
// deletion.
std::optional<MigrationDecision> HandOverStep(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  const HandOver hand_over = HandOverNow(draft);
  const bool owned = IsOwned(hand_over);
  if (HandedOver(seen.target->metadata, hand_over)) {
    draft.Condition(crds::kHandedOver, "True", owned ? "Owned" : "Bare",
                    owned ? absl::StrCat("pod ", draft.status.target_pod_name, " belongs to ",
                                         hand_over.owners.front().kind, " ", hand_over.owners.front().name)
                          : absl::StrCat("pod ", draft.status.target_pod_name, " has the source's labels"));
    return std::nullopt;
  }
  if (!owned) return draft.Do(MigrationStep::kHandOver);
  if (draft.SourceStays() && seen.source->view.metadata.Annotation(kDeletionCost) != kLowestDeletionCost) {
    return draft.Do(MigrationStep::kLowerDeletionCost);
  }
  // A source that is given up goes first: its target's node may be silent for long.
  if (IsAbandoned(draft.status.conditions) && draft.SourceStays()) return std::nullopt;
  // Not ready, the target would be the one that the ReplicaSet deletes.
  if (!seen.target->ready()) {
    const std::string message = absl::StrCat(
        "pod ", draft.status.target_pod_name,
        " is not ready yet; it joins its ReplicaSet when it is (or delete it to give up its state)");
    draft.Condition(crds::kHandedOver, "False", "WaitingForTargetReady", message);
    if (ProbesPress(draft)) return std::nullopt;
    if (draft.SourceStays()) return draft.Wait("WaitingForTargetReady", message, kLook);
    return std::nullopt;
  }
  if (const std::string sibling = UnreadySibling(draft);
      draft.SourceStays() && !sibling.empty() && !ProbesPress(draft)) {
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
  if (!seen.source_side.ok() && seen.source_node.fenced()) return std::nullopt;
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
    return draft.Wait(
        "WaitingForKubelet",
        absl::StrCat("waiting until kubelet of node ", seen.source_node.name,
                     " knows that the source pod is deleted; one that is cut off may start it again, so do "
                     "not delete the pod by force before the node is fenced"),
        kLook);
  }
  const bool abandoned =
      seen.source_side->serving && (!TargetThere(draft) || MemoryOf(draft) == Memory::kLost);
  return draft.Finish(abandoned ? MigrationStep::kAbandonSource : MigrationStep::kFinishSource, kLook);
}

// The source was given up before anybody knew whether the target runs; what is known of that by now. nullopt:
// it runs, or nothing yet, and the source goes first.
std::optional<MigrationDecision> EndOfAbandoned(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (draft.TargetRuns()) {
    draft.Condition(crds::kSwitched, "True", "TargetRuns", "the target's agent says that the processes run");
    return std::nullopt;
  }
  // It asked the target before it was killed, and the copy had never run.
  if (seen.source_side.ok() && seen.source_side->state == SourceState::kAborted) {
    const Failure why = AbortedBy(*seen.source_side);
    draft.Condition(crds::kSwitched, "False", why.reason, why.message);
    return draft.Fail(why);
  }
  const bool source_gone = !seen.source_node.exists || seen.source_node.fenced() ||
                           (seen.source_side.ok() && (seen.source_side->state == SourceState::kNone ||
                                                      seen.source_side->state == SourceState::kDone));
  const bool never_ran = seen.target_node.fenced() ||
                         (seen.target_side.ok() && (seen.target_side->state == TargetState::kAborted ||
                                                    seen.target_side->state == TargetState::kNone));
  if (!source_gone || !never_ran) return std::nullopt;
  const Failure why = {"StateLost",
                       absl::StrCat("the source was given up (spec.resolveUncertain: AbandonSource), and its "
                                    "copy on node ",
                                    seen.target_node.name, " does not run: the pod's state is lost")};
  draft.Condition(crds::kSwitched, "False", why.reason, why.message);
  return draft.Fail(why);
}

}  // namespace

bool ProbesPress(const Draft& draft, absl::Duration ahead) {
  if (!draft.SourceStays()) return false;
  const k8s::Pod& source = draft.seen.source->view;
  const auto limit = FreezeLimit(source, draft.settings.freeze_cap);
  if (!limit.ok() || !HasLivenessProbe(source) || draft.status.freeze.frozen_at == absl::Time()) return false;
  return draft.now + ahead > draft.status.freeze.frozen_at + *limit - absl::Seconds(2);
}

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
  // A source that has ceded, or may have, asks the target how it went.
  if (in_the_way || !seen.target_node.exists) return std::nullopt;
  if (!seen.target_side.ok()) {
    in_the_way = AgentFailure(seen.target_node.name, seen.target_side.status());
  } else if (seen.target_side->state == TargetState::kPrepared &&
             k8s::IsConditionTrue(draft.status.conditions, crds::kSwitched)) {
    return draft.Do(MigrationStep::kTakeOver);  // nobody else is left who could tell it to run
  } else if (seen.target_side->state != TargetState::kNone) {
    return draft.Do(MigrationStep::kForgetTarget);
  }
  return std::nullopt;
}

MigrationDecision DecideFinishing(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  draft.TellTooLate();
  if (seen.source_side.ok() && seen.target_side.ok()) draft.AgentsAnswer();
  if (IsAbandoned(draft.status.conditions)) {
    if (auto end = EndOfAbandoned(draft)) return *std::move(end);
  }
  if (seen.source_side.ok() && seen.source_side->state == SourceState::kCeded &&
      seen.source_side->target_running) {
    draft.status.freeze = FreezeOf(draft, *seen.source_side);  // in all, now
  }
  if (TargetThere(draft)) {
    if (!IsCommitted(*seen.target)) return draft.Do(MigrationStep::kMarkCommitted);
    // Once the target joins its ReplicaSet, that deletes the source. A bare pod has its labels, and with them
    // its Services' traffic, at once.
    const bool owned = IsOwned(HandOverNow(draft));
    if (auto step = owned ? AwaitMemory(draft) : HandOverStep(draft)) return *std::move(step);
    if (auto step = owned ? HandOverStep(draft) : AwaitMemory(draft)) return *std::move(step);
  } else {
    LoseMissing(draft);
    draft.Condition(
        crds::kHandedOver, "False", kTargetPodGone,
        absl::StrCat("pod ", draft.status.target_pod_name, " was deleted or ended after it had taken over"));
  }
  if (draft.SourceStays()) return draft.Do(MigrationStep::kDeleteSourcePod);
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
  if (IsAbandoned(draft.status.conditions)) {
    return draft.Wait(crds::kOutcomeUncertain,
                      absl::StrCat("the source was given up; whether the processes run on node ",
                                   seen.target_node.name, " its agent has not said yet"),
                      absl::Seconds(2));
  }
  const k8s::Condition* memory = k8s::FindCondition(draft.status.conditions, crds::kMemoryArrived);
  const bool lost = memory != nullptr && memory->reason == crds::kLost;
  return lost ? draft.EndLost(in_the_way) : draft.Succeed(in_the_way);
}

}  // namespace godwit::controller
