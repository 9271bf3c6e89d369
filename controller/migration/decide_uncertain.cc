// SPDX-License-Identifier: Apache-2.0
// Switching, when an agent does not answer whose word alone tells how it went. Nothing is guessed: what
// stands still stays so until that agent answers, its node is fenced (then its copy is gone for certain, and
// the other goes on), or a person takes the decision, and with it the risk.
//
//   silent      known                  what is decided
//   the target  the source has ceded   the source is taken back, or given up
//   the source  the target is ready    the target takes over, or is given up. Giving it up is always safe: a
//                                      source that has ceded takes back what was aborted
#include "absl/strings/str_cat.h"
#include "controller/migration/draft.h"

namespace godwit::controller {
namespace {

using agent_api::TargetState;
using crds::ResolveUncertain;

constexpr absl::Duration kLook = absl::Seconds(2);

constexpr absl::string_view kWhatToDo =
    " It is resolved when that node answers, or is fenced (kubectl taint node ... "
    "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute once it is off, or its Node object deleted), "
    "or at once by spec.resolveUncertain, whose description explains the risk.";

// A person's word, given when it was told that it is needed.
bool Said(const Draft& draft, ResolveUncertain word) {
  const k8s::Condition* told = k8s::FindCondition(draft.seen.migration.status.conditions, crds::kSwitched);
  return told != nullptr && told->reason == crds::kOutcomeUncertain &&
         draft.seen.migration.spec.resolve_uncertain == word;
}

void TellUncertain(Draft& draft, const std::string& message) {
  const k8s::Condition* before = k8s::FindCondition(draft.status.conditions, crds::kSwitched);
  const bool told = before != nullptr && before->reason == crds::kOutcomeUncertain;
  draft.Condition(crds::kSwitched, "Unknown", crds::kOutcomeUncertain, message);
  if (!told) draft.Say(true, crds::kOutcomeUncertain, message);
}

bool TargetObjectThere(const Draft& draft) {
  return draft.seen.target && draft.seen.target->metadata.uid == draft.status.target_pod_uid;
}

// Nobody answers.
MigrationDecision WithoutBoth(Draft& draft, const Failure& why, bool silent) {
  const NodeView& source = draft.seen.source_node;
  const NodeView& target = draft.seen.target_node;
  if (source.fenced() && target.fenced()) {
    return draft.Fail({"NodesLost", absl::StrCat("nodes ", source.name, " and ", target.name,
                                                 " are gone, and the pod's processes with them")});
  }
  const std::string message = absl::StrCat("the agents of nodes ", source.name, " and ", target.name,
                                           " do not answer, and they alone know whether the pod has moved.");
  if (silent) TellUncertain(draft, absl::StrCat(message, kWhatToDo));
  return draft.Wait(silent ? crds::kOutcomeUncertain : why.reason, message, kLook);
}

// The target's copy stands restored, and only the source's node knows whether it was handed over.
MigrationDecision TargetIsReady(Draft& draft) {
  const std::string message = absl::StrCat(
      "the copy of the pod on node ", draft.status.target_node, " stands ready, and the agent of node ",
      draft.status.source_node,
      ", which alone knows whether the source was handed over or goes on there, does not answer.");
  TellUncertain(draft, absl::StrCat(message, kWhatToDo));
  if (Said(draft, ResolveUncertain::kKeepSource)) {
    return draft.Abort(MigrationStep::kAbortTarget,
                       {"SourceKept", "spec.resolveUncertain keeps the source, whatever has become of it"});
  }
  if (draft.seen.source_node.fenced() || Said(draft, ResolveUncertain::kAbandonSource)) {
    // Its kubelet, should it come back, is not to start it again.
    if (draft.SourceThere()) return draft.Do(MigrationStep::kRemoveSourcePod);
    MigrationDecision decision = draft.Do(MigrationStep::kTakeOver);
    decision.again = draft.settings.switching_poll;
    return decision;
  }
  return draft.Wait(crds::kOutcomeUncertain, message, kLook);
}

}  // namespace

MigrationDecision DecideWithoutTarget(Draft& draft, const agent_api::SourceStatus& source) {
  const MigrationObserved& seen = draft.seen;
  draft.status.freeze.frozen_at = source.frozen_at;
  const Failure why = AgentFailure(seen.target_node.name, seen.target_side.status());
  const bool silent = draft.AgentSilent(why);
  const bool fenced = seen.target_node.fenced();
  const std::string message = absl::StrCat(
      "the source on node ", draft.status.source_node, " was handed over to node ", draft.status.target_node,
      ", whose agent does not answer: nobody can know whether the processes run there. The source "
      "stands still and keeps its state.");
  if (silent || fenced) TellUncertain(draft, absl::StrCat(message, kWhatToDo));
  if (Said(draft, ResolveUncertain::kAbandonSource)) {
    return EnterFinishing(draft, &source,
                          Why{"SourceAbandoned",
                              "spec.resolveUncertain abandons the source, whether or not the "
                              "processes run on the target"});
  }
  const bool keeps = Said(draft, ResolveUncertain::kKeepSource);
  if (fenced || keeps) {
    if (TargetObjectThere(draft)) return draft.Do(MigrationStep::kRemoveTargetPod);
    MigrationDecision decision = draft.Abort(
        MigrationStep::kReclaimSource,
        {kTargetLost,
         absl::StrCat("node ", draft.status.target_node, fenced ? " is gone" : " is given up",
                      keeps ? " (spec.resolveUncertain: KeepSource)" : "",
                      "; the pod goes on where it stood still, and what its copy there may have done "
                      "is lost")});
    decision.again = absl::Seconds(1);
    return decision;
  }
  // kubelet would kill the frozen processes and start a second copy. A pod that is being deleted it leaves
  // alone.
  if (ProbesPress(draft)) return draft.Do(MigrationStep::kRetireSourcePod);
  return draft.Wait(silent ? crds::kOutcomeUncertain : why.reason, message, kLook);
}

// Its guard decides alone; what the target knows tells how that went.
MigrationDecision DecideWithoutSource(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  const Failure why = AgentFailure(seen.source_node.name, seen.source_side.status());
  const bool silent = draft.AgentSilent(why) || seen.source_node.fenced();
  const std::string waits =
      absl::StrCat(why.message, "; waiting for it, because it alone knows whether the pod has moved");
  if (!seen.target_side.ok()) return WithoutBoth(draft, why, silent);
  switch (seen.target_side->state) {
    case TargetState::kRunning: return EnterFinishing(draft, nullptr);
    case TargetState::kAborted:
      if (silent || draft.WhyUnwanted()) return draft.Fail(draft.WhyUnwanted().value_or(why));
      break;
    case TargetState::kOpen:
      // A target that has not prepared may abort by its own right; after that it refuses every commit.
      if (auto unwanted = draft.WhyUnwanted()) return draft.Abort(MigrationStep::kAbortTarget, *unwanted);
      if (silent) return draft.Abort(MigrationStep::kAbortTarget, why);
      break;
    case TargetState::kPrepared:
      if (silent) return TargetIsReady(draft);
      break;
    case TargetState::kNone: break;
  }
  return draft.Wait(why.reason, waits, absl::Seconds(1));
}

}  // namespace godwit::controller
