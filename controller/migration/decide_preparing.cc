// SPDX-License-Identifier: Apache-2.0
// The way from what preflight found to the order to freeze: Copying (the memory goes over in rounds while the
// pod runs, the target pod waits behind its gate) and Preparing (kubelet starts the target pod). Nothing
// stands still yet, so that whatever is in the way simply ends the Migration.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "controller/migration/draft.h"
#include "controller/pods/findings.h"
#include "controller/pods/names.h"

namespace godwit::controller {
namespace {

using agent_api::SourceState;
using crds::MigrationPhase;

constexpr absl::string_view kLastSaid = "; the last said about it: ";

std::optional<Failure> WhyTargetPodFails(const Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  const std::string& name = draft.status.target_pod_name;
  if (!seen.target) {
    if (draft.status.target_pod_uid.empty()) return std::nullopt;  // not made yet
    return Failure{"TargetPodDeleted",
                   absl::StrCat("target pod ", name, " was deleted before it could take over")};
  }
  const k8s::Pod& target = *seen.target;
  if (!MadeBy(seen.migration.metadata, target.metadata)) {
    return Failure{"TargetPodNameTaken",
                   absl::StrCat("a pod of the name ", name, " exists that is not this Migration's")};
  }
  if (target.metadata.terminating()) {
    return Failure{"TargetPodDeleted",
                   absl::StrCat("target pod ", name, " was deleted before it could take over")};
  }
  if (auto why = WhyNoSandbox(target, seen.target_warning, draft.settings.sandbox_limit, draft.now))
    return why;
  return WhyNotStarting(target);
}

std::optional<Failure> WhyGiveUp(const Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (auto why = draft.WhyUnwanted()) return why;
  if (auto lost = WhySourceLost(draft)) return lost;
  if (!seen.rival.empty()) return RivalFailure(draft);
  // Before the pod's own complaints: the agents' word is the reason that a person wants to hear.
  if (seen.source_side.ok() && seen.source_side->state == SourceState::kAborted) {
    return AbortedBy(*seen.source_side);
  }
  if (seen.target_side.ok() && seen.target_side->state == agent_api::TargetState::kAborted) {
    return AbortedBy(*seen.target_side);
  }
  if (auto why = WhyTargetPodFails(draft)) return why;
  if (draft.now > draft.deadline()) {
    return Expired(draft, absl::StrCat("before the target pod could take over",
                                       seen.target_warning.empty() ? "" : kLastSaid, seen.target_warning));
  }
  return std::nullopt;
}

// With the last figures, for whoever asks why.
MigrationDecision GiveUp(Draft& draft, const Failure& why) {
  const auto& source = draft.seen.source_side;
  if (source.ok() && source->state != SourceState::kNone) {
    RecordProgress(draft, *source, /*last=*/true);
    if (source->pre_copy.gave_up) draft.Condition(crds::kConverged, "False", why.reason, why.message);
  }
  return draft.Fail(why);
}

// What the target needs before anything is sent to it: the pod behind its gate, its UID in status, its permit
// at the agent. nullopt: it has all that.
std::optional<MigrationDecision> MakeTarget(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (!seen.target) return draft.Do(MigrationStep::kCreateTargetPod);
  if (draft.status.target_pod_uid.empty()) {
    draft.status.target_pod_uid = seen.target->metadata.uid;
    draft.Condition(crds::kTargetReady, "False", "Starting",
                    absl::StrCat("pod ", draft.status.target_pod_name, " was made"));
    return draft.Do(MigrationStep::kNothing);
  }
  if (!seen.target_side.ok())
    return AwaitAgent(draft, AgentFailure(seen.target_node.name, seen.target_side.status()));
  if (seen.target_side->state == agent_api::TargetState::kNone) {
    draft.AgentsAnswer();
    return draft.Do(MigrationStep::kPermit);
  }
  return std::nullopt;
}

// Memory is not pre-copied although the nodes could: the source's agent found in the processes what forbids
// it. The failure, where the strategy does not allow that.
std::optional<Failure> TakeFallback(Draft& draft, const std::string& fallback) {
  if (fallback.empty()) return std::nullopt;
  const Failure why{"PodCannotPreCopy",
                    absl::StrCat("the memory of pod ", draft.seen.migration.spec.pod_ref.name,
                                 " cannot be copied while it runs: ", fallback)};
  if (draft.seen.migration.spec.strategy != crds::Strategy::kAuto) return why;
  draft.FallBack(why);
  return std::nullopt;
}

// The source's agent copies, with the limits that spec has now. nullopt: it does, and its progress is told.
std::optional<MigrationDecision> KeepCopying(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (!seen.source_side.ok())
    return AwaitAgent(draft, AgentFailure(seen.source_node.name, seen.source_side.status()));
  const agent_api::SourceStatus& source = *seen.source_side;
  draft.AgentsAnswer();
  const auto limits = LimitsOf(seen.migration.spec);
  if (!limits.ok()) return draft.Fail({"InvalidLimit", std::string(limits.status().message())});
  if (source.state == SourceState::kNone) return draft.Do(MigrationStep::kStartSource);
  if (source.limits != *limits) return draft.Do(MigrationStep::kSetLimits);
  if (auto why = TakeFallback(draft, source.pre_copy.fallback)) return draft.Fail(*why);
  RecordProgress(draft, source, /*last=*/false);
  return std::nullopt;
}

// Nobody but us orders the switch, and we note the phase before we do. Should a source be further all the
// same (an API server brought back from a backup), its word is followed from here on.
bool IsFurther(const MigrationObserved& seen) {
  if (!seen.source_side.ok()) return false;
  switch (seen.source_side->state) {
    case SourceState::kFrozen:
    case SourceState::kCeded:
    case SourceState::kDone: return true;
    case SourceState::kNone:
    case SourceState::kOpen:
    case SourceState::kAborted: return false;
  }
  return false;
}

MigrationDecision EnterSwitching(Draft& draft) {
  return draft.Enter(MigrationPhase::kSwitching,
                     absl::StrCat("freezing pod ", draft.seen.migration.spec.pod_ref.name,
                                  " and sending it to node ", draft.status.target_node));
}

// From the figures in status, which change once a second, and not from the newest, so that the message does
// not change more often.
std::string ProgressText(const Draft& draft) {
  const crds::PreCopy& told = draft.status.pre_copy;
  const std::string sent = absl::StrCat(told.sent_bytes >> 20, " MiB sent");
  if (told.rounds == 0) return absl::StrCat("the first round is not finished, ", sent);
  return absl::StrCat(told.rounds, told.rounds == 1 ? " round, " : " rounds, ", sent, ", ",
                      told.dirty_bytes >> 20, " MiB written during the last; the predicted freeze is ",
                      absl::FormatDuration(told.predicted_freeze));
}

// Enough is copied, or more copying does not help.
MigrationDecision EndCopying(Draft& draft, const agent_api::SourceStatus& source) {
  RecordProgress(draft, source, /*last=*/true);
  const std::string starting = absl::StrCat("starting target pod ", draft.status.target_pod_name, " on node ",
                                            draft.status.target_node);
  if (!source.pre_copy.fallback.empty()) {
    draft.Condition(crds::kConverged, "False", "PodCannotPreCopy", "nothing is copied before the freeze");
    return draft.Enter(MigrationPhase::kPreparing, starting);
  }
  const std::string text = ProgressText(draft);
  const std::string budget =
      absl::StrCat("spec.freezeBudget (", absl::FormatDuration(draft.seen.migration.spec.freeze_budget), ")");
  const crds::MigrationSpec& spec = draft.seen.migration.spec;
  if (spec.strategy == crds::Strategy::kPostCopy) {
    draft.Condition(crds::kConverged, "True", "PostCopy",
                    absl::StrCat(text, "; what is written from here on is pulled after the switch"));
  } else if (source.pre_copy.converged) {
    draft.Condition(crds::kConverged, "True", "WithinBudget", absl::StrCat(text, ", within ", budget));
  } else {
    const bool pulls = spec.when_not_converging == crds::WhenNotConverging::kPostCopy;
    const std::string why =
        absl::StrCat(text, ", above ", budget, ", and does not sink; freezing nevertheless, ",
                     pulls ? "and what is left is pulled afterwards " : "", "(whenNotConverging)");
    draft.Condition(crds::kConverged, "False", "NotConverging", why);
    draft.Say(true, "NotConverging", why);
  }
  return draft.Enter(MigrationPhase::kPreparing, absl::StrCat(starting, "; ", text));
}

// Said by kubelet or the scheduler about the target pod; in its events, which are read only after a while.
MigrationDecision AwaitStart(Draft& draft) {
  const std::string& warning = draft.seen.target_warning;
  const std::string starts = absl::StrCat("pod ", draft.status.target_pod_name, " is being started");
  const k8s::Condition* before = k8s::FindCondition(draft.status.conditions, crds::kComplete);
  const bool told = before != nullptr && absl::StrContains(before->message, kLastSaid);
  const std::string message = warning.empty() ? starts : absl::StrCat(starts, kLastSaid, warning);
  if (!warning.empty() && !told) draft.Say(true, "TargetNotStarting", message);
  const bool waited = before != nullptr && before->reason == kWaitingForTarget;
  const bool quick = !waited || draft.now - draft.status.waiting_since < kStartPatience;
  return draft.Wait(kWaitingForTarget, message, quick ? absl::Milliseconds(300) : absl::Seconds(1));
}

}  // namespace

MigrationDecision DecideCopying(Draft& draft) {
  if (IsFurther(draft.seen)) return EnterSwitching(draft);
  if (auto why = WhyGiveUp(draft)) return GiveUp(draft, *why);
  if (auto step = MakeTarget(draft)) return *std::move(step);
  if (auto step = KeepCopying(draft)) return *std::move(step);
  const agent_api::SourceStatus& source = *draft.seen.source_side;
  if (source.pre_copy.converged || source.pre_copy.gave_up) return EndCopying(draft, source);
  return draft.Wait("Copying", ProgressText(draft), draft.settings.copying_poll);
}

MigrationDecision DecidePreparing(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (IsFurther(seen)) return EnterSwitching(draft);
  if (auto why = WhyGiveUp(draft)) return GiveUp(draft, *why);
  if (auto step = MakeTarget(draft)) return *std::move(step);
  if (SourceWorksFirst(draft.status)) {
    if (auto step = KeepCopying(draft)) return *std::move(step);
  }
  draft.AgentsAnswer();
  if (HasPermitGate(*seen.target)) return draft.Do(MigrationStep::kOpenGate);
  if (seen.target_side->waiting.empty()) {
    return AwaitStart(draft);
  }
  draft.Condition(
      crds::kTargetReady, "True", "Waiting",
      absl::StrCat("container ", seen.target_side->waiting.front(), " waits for the state to go on from"));
  return EnterSwitching(draft);
}

}  // namespace godwit::controller
