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

crds::Freeze FreezeOf(const agent_api::SourceStatus& source) {
  crds::Freeze freeze{.duration = crds::Readable(source.freeze), .frozen_at = source.frozen_at};
  for (const agent_api::FreezeStep& step : source.steps) {
    freeze.steps.push_back(
        {.name = step.name, .container = step.container, .offset = step.offset, .duration = step.duration});
  }
  return freeze;
}

// Why the switch should be given up while that is still possible; the source's agent has the last word.
std::optional<Failure> WhyGiveUp(const Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (draft.terminating()) return Failure{"Deleted", "the Migration was deleted before the pod had moved"};
  if (seen.source && draft.SourceThere() && seen.source->view.metadata.terminating()) {
    return Failure{"PodTerminating",
                   absl::StrCat("pod ", seen.migration.spec.pod_ref.name, " is being deleted")};
  }
  if (!seen.target || seen.target->metadata.uid != draft.status.target_pod_uid ||
      seen.target->metadata.terminating()) {
    return Failure{"TargetPodDeleted", absl::StrCat("target pod ", draft.status.target_pod_name,
                                                    " was deleted before it could take over")};
  }
  if (draft.now > draft.deadline()) {
    return Failure{"Timeout",
                   absl::StrCat("spec.timeout (", absl::FormatDuration(seen.migration.spec.timeout),
                                ") passed before the target had taken over")};
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
  const agent_api::TargetStatus& target = *draft.seen.target_side;
  if (target.state == TargetState::kAborted) return draft.Fail({target.reason, target.message});
  if (target.state == TargetState::kNone) {
    return draft.Fail({"TargetForgot", absl::StrCat("the agent of node ", draft.seen.target_node.name,
                                                    " no longer knows of the migration")});
  }
  draft.AgentsAnswer();
  return draft.Do(MigrationStep::kStartSource);
}

MigrationDecision Switched(Draft& draft, const agent_api::SourceStatus* source) {
  if (source != nullptr) {
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
    case SourceState::kFrozen:
      draft.AgentsAnswer();
      if (auto why = WhyGiveUp(draft)) {
        MigrationDecision decision = draft.Abort(MigrationStep::kAbortSource, *why);
        decision.again = poll;
        return decision;
      }
      return draft.Wait("Switching",
                        absl::StrCat("pod ", seen.migration.spec.pod_ref.name, " is being sent to node ",
                                     draft.status.target_node),
                        poll);
    case SourceState::kCeded:
    case SourceState::kDone:
      draft.AgentsAnswer();
      if (source.target_running || source.state == SourceState::kDone || target_runs)
        return Switched(draft, &source);
      return draft.Wait("Committed",
                        absl::StrCat("the decision for node ", draft.status.target_node,
                                     " has fallen; waiting for its word that the processes run"),
                        poll);
    case SourceState::kAborted:
      draft.AgentsAnswer();
      draft.status.freeze = FreezeOf(source);
      draft.Condition(crds::kSwitched, "False", source.reason.empty() ? "Aborted" : source.reason,
                      source.message);
      return draft.Fail(
          {source.reason.empty() ? "Aborted" : source.reason,
           source.message.empty() ? "the source's agent aborted the migration" : source.message});
  }
  return draft.Nothing();
}

}  // namespace godwit::controller
