// SPDX-License-Identifier: Apache-2.0
// Switching, when an agent does not answer whose word alone tells how it went. Nothing is guessed: what
// stands still stays so until that agent answers, its node is fenced (then its copy is gone for certain, and
// the other goes on), or a person takes the decision, and with it the risk.
//
//   silent      known                  what is decided
//   the target  the source has ceded   the source is taken back, or given up
//   the source  the target is ready    the target takes over, or is given up. Giving it up is always safe: a
//                                      source that has ceded takes back what was aborted
//
// A target's agent that has lost what it knew, with its disk perhaps, is as good as silent.
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

// The object of a pod whose node is given up goes, so that no kubelet starts it again; nullopt: it is gone,
// or, as far as a fenced node is concerned, as good as gone.
std::optional<MigrationDecision> RemovePod(Draft& draft, const k8s::ObjectMeta& pod, const NodeView& node,
                                           MigrationStep step) {
  if (!pod.terminating() || pod.finalizers.empty()) {
    return draft.Do(step, absl::Seconds(1));
  }
  if (node.fenced()) return std::nullopt;
  return draft.Wait("RemovingPod",
                    absl::StrCat("pod ", pod.name,
                                 " is deleted, and a finalizer holds its object: ", pod.finalizers.front()),
                    absl::Seconds(1));
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
  if (silent) draft.TellUncertain(absl::StrCat(message, kWhatToDo));
  return draft.Wait(silent ? crds::kOutcomeUncertain : why.reason, message, kLook);
}

// The target's copy stands restored, and only the source's node knows whether it was handed over.
MigrationDecision TargetIsReady(Draft& draft) {
  const NodeView& node = draft.seen.source_node;
  const std::string message = absl::StrCat(
      "the copy of the pod on node ", draft.status.target_node, " stands ready, and the agent of node ",
      draft.status.source_node,
      ", which alone knows whether the source was handed over or goes on there, does not answer.");
  const std::string told = absl::StrCat(message, kWhatToDo);
  draft.TellUncertain(told);
  if (draft.Said(told, ResolveUncertain::kKeepSource)) {
    return draft.Abort(MigrationStep::kAbortTarget,
                       {"SourceKept", "spec.resolveUncertain keeps the source, whatever has become of it"});
  }
  if (node.fenced() || draft.Said(told, ResolveUncertain::kAbandonSource)) {
    if (draft.SourceThere()) {
      if (auto removing =
              RemovePod(draft, draft.seen.source->view.metadata, node, MigrationStep::kRemoveSourcePod))
        return *std::move(removing);
    }
    return draft.Do(MigrationStep::kTakeOver, draft.settings.switching_poll);
  }
  return draft.Wait(crds::kOutcomeUncertain, message, kLook);
}

}  // namespace

MigrationDecision DecideWithoutTarget(Draft& draft, const agent_api::SourceStatus& source) {
  const MigrationObserved& seen = draft.seen;
  draft.status.freeze.frozen_at = FrozenAt(draft, source);
  const bool forgotten = seen.target_side.ok();
  const Failure why =
      forgotten ? Failure{"TargetForgotten", absl::StrCat("the agent of node ", seen.target_node.name,
                                                          " knows nothing of the migration")}
                : AgentFailure(seen.target_node.name, seen.target_side.status());
  const bool silent = forgotten || draft.AgentSilent(why);
  const bool fenced = seen.target_node.fenced();
  const std::string message = absl::StrCat(
      "the source on node ", draft.status.source_node, " was handed over to node ", draft.status.target_node,
      ", whose agent ", forgotten ? "knows nothing of it any more" : "does not answer",
      ": nobody can know whether the processes run there. The source "
      "stands still and keeps its state.");
  const std::string told = absl::StrCat(message, kWhatToDo);
  if (silent || fenced) draft.TellUncertain(told);
  if (draft.Said(told, ResolveUncertain::kAbandonSource)) {
    return EnterFinishing(draft, &source,
                          Why{kSourceAbandoned,
                              "spec.resolveUncertain abandons the source, whether or not the "
                              "processes run on the target"});
  }
  const bool keeps = draft.Said(told, ResolveUncertain::kKeepSource);
  // Its kubelet works, and so may the copy, of which the agent knows nothing: it goes first.
  if (forgotten && keeps && seen.target) {
    if (!seen.target->metadata.terminating())
      return draft.Do(MigrationStep::kDeleteTargetPod, absl::Seconds(1));
    return draft.Wait(
        "RemovingPod",
        absl::StrCat("the source goes on when target pod ", draft.status.target_pod_name, " is gone"),
        absl::Seconds(1));
  }
  if (fenced || keeps) {
    // Should the target's agent answer meanwhile, the source is given time to take back before anything else.
    draft.Condition(crds::kComplete, "Unknown", kTargetLost,
                    absl::StrCat("the source on node ", draft.status.source_node, " is taken back"));
    // First the source, which asks the target once more: should it answer that it runs, nothing was touched.
    // The target pod's object goes when the source has taken back.
    return draft.Abort(
        MigrationStep::kReclaimSource,
        {kTargetLost,
         absl::StrCat("node ", draft.status.target_node, fenced ? " is gone" : " is given up",
                      keeps ? " (spec.resolveUncertain: KeepSource)" : "",
                      "; the pod goes on where it stood still, and what its copy there may have done "
                      "is lost")},
        absl::Seconds(1));
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
      if (silent || draft.WhyUnwanted()) {
        const Failure aborted = AbortedBy(*seen.target_side);
        draft.Condition(crds::kSwitched, "False", aborted.reason, aborted.message);
        return draft.Fail(draft.WhyUnwanted().value_or(aborted));
      }
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
