// SPDX-License-Identifier: Apache-2.0
// From the order to freeze to the decision. The source's agent decides; the controller follows its word, and
// declares failure only where it is certain that the target never runs (design: handing over).
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "controller/migration/draft.h"

namespace godwit::controller {
namespace {

using agent_api::SourceState;
using agent_api::TargetState;
using crds::MigrationPhase;

// So long the two sides are given to hear of each other; they ask for each other's word every few seconds.
constexpr absl::Duration kRelayAfter = absl::Seconds(30);
// From the order to give up the target to the source's thaw: the copy is destroyed, and the source tries once
// more to reach it.
constexpr absl::Duration kTakingBack = absl::Seconds(15);
constexpr absl::string_view kLinkLost = "LinkLost";

// Why the switch should be given up while that is still possible; the source's agent has the last word.
std::optional<Failure> WhyGiveUp(const Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (auto why = draft.WhyUnwanted()) return why;
  if (seen.source && draft.SourceThere() && seen.source->view.metadata.terminating()) {
    return Failure{"PodTerminating",
                   absl::StrCat("pod ", seen.migration.spec.pod_ref.name, " is being deleted")};
  }
  if (!seen.target || seen.target->metadata.uid != draft.status.target_pod_uid ||
      seen.target->metadata.terminating()) {
    return Failure{"TargetPodDeleted", absl::StrCat("target pod ", draft.status.target_pod_name,
                                                    " was deleted before it could take over")};
  }
  if (draft.now > draft.deadline()) return Expired(draft, "before the target had taken over");
  return std::nullopt;
}

// Why the target's agent would not take the state. Only of one that answers.
std::optional<Failure> WhyTargetCannot(const Draft& draft) {
  const agent_api::TargetStatus& target = *draft.seen.target_side;
  if (target.state == TargetState::kAborted) return AbortedBy(target);
  if (target.state == TargetState::kNone) {
    return Failure{"TargetForgot", absl::StrCat("the agent of node ", draft.seen.target_node.name,
                                                " no longer knows of the migration")};
  }
  return std::nullopt;
}

// The source's agent knows nothing of the Migration: the order was not given yet, or did not arrive.
MigrationDecision Begin(Draft& draft) {
  if (auto lost = WhySourceLost(draft)) return draft.Fail(*lost);
  if (auto why = WhyGiveUp(draft)) return draft.Fail(*why);
  if (!draft.seen.target_side.ok()) {
    const Failure why = AgentFailure(draft.seen.target_node.name, draft.seen.target_side.status());
    if (draft.AgentSilent(why)) return draft.Fail(why);
    return draft.Wait(why.reason, why.message, absl::Seconds(1));
  }
  if (auto why = WhyTargetCannot(draft)) return draft.Fail(*why);
  draft.AgentsAnswer();
  return draft.Do(MigrationStep::kStartSource);
}

// Asks the source to abort and soon looks whether it has: only its own word ends the Migration.
MigrationDecision AskToAbort(Draft& draft, const Failure& why) {
  return draft.Abort(MigrationStep::kAbortSource, why, draft.settings.switching_poll);
}

// The source copies, and was not told yet that the target waits.
MigrationDecision OrderSwitch(Draft& draft) {
  if (auto lost = WhySourceLost(draft)) return AskToAbort(draft, *lost);
  if (!draft.seen.target_side.ok()) {
    const Failure why = AgentFailure(draft.seen.target_node.name, draft.seen.target_side.status());
    if (draft.AgentSilent(why)) return AskToAbort(draft, why);
    return draft.Wait(why.reason, why.message, absl::Seconds(1));
  }
  if (auto why = WhyTargetCannot(draft)) return AskToAbort(draft, *why);
  draft.AgentsAnswer();
  return draft.Do(MigrationStep::kSwitchSource);
}

// Still copying when the target pod waits already; rounds go on until the predicted freeze fits. nullopt:
// nothing is to be said to it.
std::optional<MigrationDecision> TellCopyingSource(Draft& draft, const agent_api::SourceStatus& source) {
  const auto limits = LimitsOf(draft.seen.migration.spec);
  if (!limits.ok()) return AskToAbort(draft, {"InvalidLimit", std::string(limits.status().message())});
  if (source.limits != *limits) return draft.Do(MigrationStep::kSetLimits);
  RecordProgress(draft, source, /*last=*/false);
  if (!source.switching) return OrderSwitch(draft);
  return std::nullopt;
}

MigrationDecision AwaitDecision(Draft& draft) {
  draft.AgentsAnswer();
  draft.NoLongerUncertain();
  return draft.Wait("Switching",
                    absl::StrCat("pod ", draft.seen.migration.spec.pod_ref.name, " is being sent to node ",
                                 draft.status.target_node),
                    draft.settings.switching_poll);
}

std::string Apart(const Draft& draft) {
  return absl::StrCat("nodes ", draft.status.source_node, " and ", draft.status.target_node,
                      " have not reached each other since the decision");
}

// Whether the two sides, which settle between themselves how the decision is carried out, have not heard of
// each other for long, though both answer here.
bool IsLinkLost(const Draft& draft, const agent_api::SourceStatus& source,
                const agent_api::TargetStatus& target) {
  // One that is being taken back has a reason. One that commits has heard the source.
  if (!source.reason.empty() || target.committing || target.state != TargetState::kPrepared) return false;
  const k8s::Condition* switched = k8s::FindCondition(draft.status.conditions, crds::kSwitched);
  if (switched != nullptr && switched->reason == crds::kOutcomeUncertain &&
      absl::StartsWith(switched->message, Apart(draft)))
    return true;  // and an answer that did not come between does not change that
  const k8s::Condition* complete = k8s::FindCondition(draft.status.conditions, crds::kComplete);
  if (complete == nullptr) return false;
  if (complete->reason == kLinkLost) return true;
  return complete->reason == kCommitted && draft.now - draft.status.waiting_since >= kRelayAfter;
}

// Gives up the copy that stands and waits, so that the source, which hears of it, goes on.
MigrationDecision KeepSource(Draft& draft, std::string why) {
  return draft.Abort(MigrationStep::kAbortTarget, {std::string(kLinkLost), std::move(why)}, absl::Seconds(1));
}

// Memory of the copy is on the source's node alone, whose pod is deleted already: kubelet would end what is
// taken back, sooner or later, and the link may come back. A person decides.
MigrationDecision AskWhichLoses(Draft& draft, int64_t lacking) {
  const std::string apart = Apart(draft);
  const std::string message =
      absl::StrCat(apart, ". The copy on node ", draft.status.target_node,
                   " stands restored and lacks memory, which node ", draft.status.source_node, " keeps; pod ",
                   draft.seen.migration.spec.pod_ref.name, " there stands still and is being deleted.");
  const std::string told =
      absl::StrCat(message,
                   " It is resolved when the nodes reach each other, or at once by spec.resolveUncertain: "
                   "KeepSource, by which the pod goes on where it stood still until kubelet ends it.");
  draft.TellUncertain(told);
  if (draft.Said(told, crds::ResolveUncertain::kKeepSource)) return KeepSource(draft, apart);
  return draft.Wait(kLinkLost, absl::StrCat(message, " It is ", lacking >> 10, " KiB."), absl::Seconds(1));
}

// A copy that stands and waits is given up while the source can go on well, and told to run when it cannot.
MigrationDecision Relay(Draft& draft, const agent_api::SourceStatus& source,
                        const agent_api::TargetStatus& target) {
  draft.Condition(crds::kComplete, "Unknown", kLinkLost, Apart(draft));
  if (draft.SourceStays()) {
    // Taking it back takes a while, in which kubelet must not kill it.
    if (ProbesPress(draft, kTakingBack)) return draft.Do(MigrationStep::kRetireSourcePod);
    return KeepSource(draft, Apart(draft));
  }
  // The target knows it, whatever the source's agent has forgotten.
  const int64_t lacking = std::max(source.pull_bytes, target.pull.total_bytes);
  if (lacking > 0) return AskWhichLoses(draft, lacking);
  return draft.Do(MigrationStep::kTakeOver, draft.settings.switching_poll);
}

// The source has ceded, and nobody has said yet that the target runs.
MigrationDecision AwaitRunning(Draft& draft, const agent_api::SourceStatus& source) {
  const absl::StatusOr<agent_api::TargetStatus>& target = draft.seen.target_side;
  if (!target.ok() || target->state == TargetState::kNone) return DecideWithoutTarget(draft, source);
  draft.AgentsAnswer();
  draft.status.freeze.frozen_at = FrozenAt(draft, source);
  if (auto reclaim = TakeBack(draft)) return *std::move(reclaim);
  if (target->state == TargetState::kAborted) {
    return draft.Wait("TakingBack",
                      absl::StrCat("the copy on node ", draft.status.target_node,
                                   " is given up, and the pod goes on where it stood still"),
                      draft.settings.switching_poll);
  }
  // Open: it was asked before it had prepared, or it destroys the copy. Then the source goes on soon, and its
  // pod is not to be deleted.
  const bool open = target->state == TargetState::kOpen;
  if (!open && ProbesPress(draft)) return draft.Do(MigrationStep::kRetireSourcePod);
  if (IsLinkLost(draft, source, *target)) return Relay(draft, source, *target);
  draft.NoLongerUncertain();
  return draft.Wait(kCommitted,
                    absl::StrCat("the decision for node ", draft.status.target_node,
                                 " has fallen; waiting for its word that the processes run"),
                    draft.settings.switching_poll);
}

}  // namespace

MigrationDecision DecideSwitching(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (!seen.source_side.ok()) return DecideWithoutSource(draft);
  const agent_api::SourceStatus& source = *seen.source_side;
  switch (source.state) {
    case SourceState::kNone:
      if (draft.TargetRuns()) return EnterFinishing(draft, nullptr);
      return Begin(draft);
    case SourceState::kOpen:
      if (auto why = WhyGiveUp(draft)) return AskToAbort(draft, *why);
      if (SourceWorksFirst(draft.status)) {
        if (auto tell = TellCopyingSource(draft, source)) return *std::move(tell);
      }
      return AwaitDecision(draft);
    case SourceState::kFrozen:
      if (auto why = WhyGiveUp(draft)) return AskToAbort(draft, *why);
      return AwaitDecision(draft);
    case SourceState::kCeded:
    case SourceState::kDone:
      draft.TellTooLate();
      if (source.target_running || source.state == SourceState::kDone || draft.TargetRuns())
        return EnterFinishing(draft, &source);
      return AwaitRunning(draft, source);
    case SourceState::kAborted: {
      draft.AgentsAnswer();
      RecordProgress(draft, source, /*last=*/true);
      draft.status.freeze = FreezeOf(draft, source);
      const Failure why = AbortedBy(source);
      draft.Condition(crds::kSwitched, "False", why.reason, why.message);
      return draft.Fail(why);
    }
  }
  return draft.Nothing();
}

}  // namespace godwit::controller
