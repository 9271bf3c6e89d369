// SPDX-License-Identifier: Apache-2.0
// From the order to freeze to the decision. The source's agent decides; the controller follows its word, and
// declares failure only where it is certain that the target never runs (design: handing over).
#include "absl/strings/str_cat.h"
#include "controller/migration/draft.h"

namespace godwit::controller {
namespace {

using agent_api::SourceState;
using agent_api::TargetState;
using crds::MigrationPhase;

// Why the switch should be given up while that is still possible; the source's agent has the last word.
std::optional<Failure> WhyGiveUp(const Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (draft.terminating()) return Deleted();
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
  MigrationDecision decision = draft.Abort(MigrationStep::kAbortSource, why);
  decision.again = draft.settings.switching_poll;
  return decision;
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

MigrationDecision Switched(Draft& draft, const agent_api::SourceStatus* source) {
  if (source != nullptr) {
    RecordProgress(draft, *source, /*last=*/true);
    if (source->pull_bytes > 0) draft.status.strategy = crds::Strategy::kPostCopy;
    draft.status.freeze = FreezeOf(*source);
    draft.status.transfer = {.memory_bytes = source->memory_bytes,
                             .file_bytes = source->file_bytes,
                             .wire_bytes = source->wire_bytes};
  }
  draft.Condition(crds::kSwitched, "True", "TargetRuns",
                  absl::StrCat("the processes run in pod ", draft.status.target_pod_name, " on node ",
                               draft.status.target_node));
  return draft.Enter(
      MigrationPhase::kFinishing,
      absl::StrCat("the processes go on in pod ", draft.status.target_pod_name, " on node ",
                   draft.status.target_node, " after standing still for ",
                   absl::FormatDuration(draft.status.freeze.duration), "; removing the source pod"));
}

MigrationDecision AwaitDecision(Draft& draft) {
  draft.AgentsAnswer();
  return draft.Wait("Switching",
                    absl::StrCat("pod ", draft.seen.migration.spec.pod_ref.name, " is being sent to node ",
                                 draft.status.target_node),
                    draft.settings.switching_poll);
}

// The source's agent does not answer. Its guard decides alone; what the target knows tells how that went.
MigrationDecision WithoutSource(Draft& draft) {
  const Failure why = AgentFailure(draft.seen.source_node.name, draft.seen.source_side.status());
  const bool silent = draft.AgentSilent(why);
  const std::string waits =
      absl::StrCat(why.message, "; waiting for it, because it alone knows whether the pod has moved");
  if (!draft.seen.target_side.ok()) return draft.Wait(why.reason, waits, absl::Seconds(1));
  switch (draft.seen.target_side->state) {
    case TargetState::kRunning: return Switched(draft, nullptr);
    case TargetState::kAborted:
      return silent ? draft.Fail(why) : draft.Wait(why.reason, waits, absl::Seconds(1));
    case TargetState::kOpen:
      // A target that has not prepared may abort by its own right; after that it refuses every commit.
      if (silent) return draft.Abort(MigrationStep::kAbortTarget, why);
      return draft.Wait(why.reason, waits, absl::Seconds(1));
    case TargetState::kNone:
    case TargetState::kPrepared: break;
  }
  return draft.Wait(why.reason, waits, absl::Seconds(1));
}

}  // namespace

MigrationDecision DecideSwitching(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (!seen.source_side.ok()) return WithoutSource(draft);
  const agent_api::SourceStatus& source = *seen.source_side;
  const bool target_runs = seen.target_side.ok() && seen.target_side->state == TargetState::kRunning;
  const absl::Duration poll = draft.settings.switching_poll;
  switch (source.state) {
    case SourceState::kNone:
      if (target_runs) return Switched(draft, nullptr);
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
      draft.AgentsAnswer();
      if (source.target_running || source.state == SourceState::kDone || target_runs)
        return Switched(draft, &source);
      return draft.Wait("Committed",
                        absl::StrCat("the decision for node ", draft.status.target_node,
                                     " has fallen; waiting for its word that the processes run"),
                        poll);
    case SourceState::kAborted: {
      draft.AgentsAnswer();
      RecordProgress(draft, source, /*last=*/true);
      draft.status.freeze = FreezeOf(source);
      const Failure why = AbortedBy(source);
      draft.Condition(crds::kSwitched, "False", why.reason, why.message);
      return draft.Fail(why);
    }
  }
  return draft.Nothing();
}

}  // namespace godwit::controller
