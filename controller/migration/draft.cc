// SPDX-License-Identifier: Apache-2.0
#include "controller/migration/draft.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "k8s/quantity.h"

namespace godwit::controller {

using crds::MigrationPhase;

absl::StatusOr<agent_api::PreCopyLimits> LimitsOf(const crds::MigrationSpec& spec) {
  agent_api::PreCopyLimits limits{.freeze_budget = spec.freeze_budget,
                                  .pre_copy_timeout = spec.pre_copy_timeout};
  switch (spec.when_not_converging) {
    case crds::WhenNotConverging::kFreeze:
      limits.when_not_converging = agent_api::WhenNotConverging::kFreeze;
      break;
    case crds::WhenNotConverging::kFail:
      limits.when_not_converging = agent_api::WhenNotConverging::kFail;
      break;
    case crds::WhenNotConverging::kPostCopy:
      limits.when_not_converging = agent_api::WhenNotConverging::kPostCopy;
      break;
  }
  if (spec.bandwidth_limit.empty()) return limits;
  const absl::StatusOr<int64_t> bandwidth = k8s::ParseQuantity(spec.bandwidth_limit);
  if (!bandwidth.ok())
    return absl::InvalidArgumentError(absl::StrCat("spec.bandwidthLimit: ", bandwidth.status().message()));
  limits.bandwidth_limit = *bandwidth;
  return limits;
}

absl::string_view StepName(MigrationStep step) {
  switch (step) {
    case MigrationStep::kNothing: return "Nothing";
    case MigrationStep::kAddFinalizer: return "AddFinalizer";
    case MigrationStep::kRemoveFinalizer: return "RemoveFinalizer";
    case MigrationStep::kCreateTargetPod: return "CreateTargetPod";
    case MigrationStep::kPermit: return "Permit";
    case MigrationStep::kOpenGate: return "OpenGate";
    case MigrationStep::kStartSource: return "StartSource";
    case MigrationStep::kSetLimits: return "SetLimits";
    case MigrationStep::kSwitchSource: return "SwitchSource";
    case MigrationStep::kAbortSource: return "AbortSource";
    case MigrationStep::kAbortTarget: return "AbortTarget";
    case MigrationStep::kMarkCommitted: return "MarkCommitted";
    case MigrationStep::kLowerDeletionCost: return "LowerDeletionCost";
    case MigrationStep::kHandOver: return "HandOver";
    case MigrationStep::kRetireSourcePod: return "RetireSourcePod";
    case MigrationStep::kDeleteSourcePod: return "DeleteSourcePod";
    case MigrationStep::kRemoveTargetPod: return "RemoveTargetPod";
    case MigrationStep::kRemoveSourcePod: return "RemoveSourcePod";
    case MigrationStep::kReclaimSource: return "ReclaimSource";
    case MigrationStep::kTakeOver: return "TakeOver";
    case MigrationStep::kFinishSource: return "FinishSource";
    case MigrationStep::kAbandonSource: return "AbandonSource";
    case MigrationStep::kDeleteTargetPod: return "DeleteTargetPod";
    case MigrationStep::kForgetSource: return "ForgetSource";
    case MigrationStep::kForgetTarget: return "ForgetTarget";
  }
  return "";
}

bool IsAbandoned(const std::vector<k8s::Condition>& conditions) {
  const k8s::Condition* switched = k8s::FindCondition(conditions, crds::kSwitched);
  return switched != nullptr && switched->reason == kSourceAbandoned;
}

Draft::Draft(const MigrationObserved& observed, const MigrationSettings& limits, absl::Time time)
    : seen(observed), settings(limits), now(time), status(observed.migration.status) {
  status.observed_generation = seen.migration.metadata.generation;
}

bool Draft::failing() const {
  const k8s::Condition* complete = k8s::FindCondition(status.conditions, crds::kComplete);
  return complete != nullptr && complete->status == "False";
}

absl::Time Draft::deadline() const {
  const absl::Time created = seen.migration.metadata.creation_timestamp.value_or(now);
  return (status.start_time == absl::Time() ? created : status.start_time) + seen.migration.spec.timeout;
}

std::optional<Failure> Draft::WhyUnwanted() const {
  if (seen.migration.spec.cancel) {
    return Failure{crds::kCancelled, "the Migration was cancelled (spec.cancel) before the pod had moved"};
  }
  if (!terminating()) return std::nullopt;
  return Failure{"Deleted", "the Migration was deleted before the pod had moved"};
}

bool Draft::SourceThere() const {
  return seen.source.has_value() && seen.source->view.metadata.uid == status.source_pod_uid;
}

bool Draft::SourceStays() const { return SourceThere() && !seen.source->view.metadata.terminating(); }

bool Draft::TargetRuns() const {
  return seen.target_side.ok() && seen.target_side->state == agent_api::TargetState::kRunning;
}

bool Draft::Condition(absl::string_view type, absl::string_view value, absl::string_view reason,
                      absl::string_view message) {
  if (type == crds::kComplete) {
    const k8s::Condition* before = k8s::FindCondition(status.conditions, type);
    const bool known = before != nullptr && status.waiting_since != absl::Time();
    if (!known || before->reason != reason) status.waiting_since = k8s::WholeSeconds(now);
  }
  return k8s::SetCondition(status.conditions,
                           {.type = std::string(type),
                            .status = std::string(value),
                            .observed_generation = status.observed_generation,
                            .reason = std::string(reason),
                            .message = std::string(message)},
                           now);
}

MigrationDecision Draft::End(MigrationStep step, absl::Duration again) {
  return {.status = std::move(status), .tells = std::move(tells_), .step = step, .again = again};
}

MigrationDecision Draft::Abort(MigrationStep step, const Failure& why, absl::Duration again) {
  MigrationDecision decision = Do(step, again);
  decision.why = {.reason = why.reason, .message = why.message};
  return decision;
}

MigrationDecision Draft::Finish(MigrationStep step, absl::Duration again) {
  const bool runs = TargetRuns() && !seen.target_side->pull.pulling;
  const bool ours = !seen.target_side.ok() || runs || IsAbandoned(status.conditions);
  MigrationDecision decision = Do(step, again);
  decision.unconfirmed = ours && seen.source_side.ok() && !seen.source_side->target_running;
  return decision;
}

MigrationDecision Draft::Wait(absl::string_view reason, absl::string_view message, absl::Duration again) {
  if (failing() || crds::Ended(status.phase)) return End(MigrationStep::kNothing, again);
  Condition(crds::kComplete, "Unknown", reason, message);
  const absl::Time moved =
      std::max({status.waiting_since, status.pre_copy.observed_time, status.post_copy.observed_time});
  const absl::Duration left = moved + settings.stuck_after - now;
  // In its first round a pre-copy tells nothing, however much it sends; the agents see to it that it sends.
  const bool first_round = status.phase == MigrationPhase::kCopying && status.pre_copy.rounds == 0;
  if (left > absl::ZeroDuration() || first_round) {
    GoOn();
    return End(MigrationStep::kNothing, first_round ? again : std::min(again, left));
  }
  const bool told = k8s::IsConditionTrue(status.conditions, crds::kStuck);
  const std::string text = absl::StrCat("nothing has changed for more than ",
                                        absl::FormatDuration(settings.stuck_after), ": ", message);
  Condition(crds::kStuck, "True", reason, text);
  if (!told) Say(true, crds::kStuck, text);
  return End(MigrationStep::kNothing, again);
}

const k8s::Condition* Draft::ToldUncertain(const std::vector<k8s::Condition>& conditions,
                                           const std::string& message) {
  const k8s::Condition* told = k8s::FindCondition(conditions, crds::kSwitched);
  const bool this_one =
      told != nullptr && told->reason == crds::kOutcomeUncertain && told->message == message;
  return this_one ? told : nullptr;
}

bool Draft::Said(const std::string& message, crds::ResolveUncertain word) const {
  const crds::Migration& migration = seen.migration;
  const k8s::Condition* told = ToldUncertain(migration.status.conditions, message);
  return told != nullptr && migration.spec.resolve_uncertain == word &&
         told->observed_generation < migration.metadata.generation;
}

void Draft::TellUncertain(const std::string& message) {
  if (ToldUncertain(status.conditions, message) != nullptr) return;
  Condition(crds::kSwitched, "Unknown", crds::kOutcomeUncertain, message);
  Say(true, crds::kOutcomeUncertain, message);
}

void Draft::NoLongerUncertain() {
  const k8s::Condition* switched = k8s::FindCondition(status.conditions, crds::kSwitched);
  if (switched == nullptr || switched->reason != crds::kOutcomeUncertain) return;
  Condition(crds::kSwitched, "Unknown", "AgentsAnswer", "both agents answer again, and will say how it went");
}

// It is not stuck, or no more.
void Draft::GoOn() {
  if (!k8s::IsConditionTrue(status.conditions, crds::kStuck)) return;
  Condition(crds::kStuck, "False", "GoesOn", "what was waited for has changed");
}

MigrationDecision Draft::Enter(MigrationPhase phase, absl::string_view message) {
  GoOn();
  status.phase = phase;
  Condition(crds::kComplete, "Unknown", json::Name(phase), message);
  Say(false, json::Name(phase), message);
  return End(MigrationStep::kNothing, absl::ZeroDuration());
}

MigrationDecision Draft::Fail(const Failure& why) {
  Condition(crds::kComplete, "False", why.reason, why.message);
  if (status.start_time == absl::Time()) status.start_time = k8s::WholeSeconds(now);
  // Before Preparing nothing was made that would have to be removed.
  if (dry_run() || status.phase == MigrationPhase::kPending || status.phase == MigrationPhase::kPreflight) {
    return FinishFailing(std::nullopt);
  }
  return End(MigrationStep::kNothing, absl::ZeroDuration());
}

void Draft::Complete() {
  GoOn();
  status.completion_time = k8s::WholeSeconds(now);
  status.total_duration =
      crds::Readable(std::max(absl::ZeroDuration(), status.completion_time - status.start_time));
}

MigrationDecision Draft::FinishFailing(const std::optional<Failure>& left_behind) {
  const k8s::Condition why = *k8s::FindCondition(status.conditions, crds::kComplete);
  // What its node would say is not known: it may have handed over before the target was given up.
  const bool unknown = status.phase == MigrationPhase::kSwitching && !seen.source_side.ok();
  status.phase = MigrationPhase::kFailed;
  if (dry_run()) status.dry_run.verdict = crds::Verdict::kWouldFail;
  Complete();
  TellCleanedUp(left_behind);
  if (why.reason == crds::kCancelled) Condition(crds::kCancelled, "True", why.reason, why.message);
  Say(!Wished(why.reason), why.reason,
      absl::StrCat(
          dry_run()        ? ""
          : !SourceThere() ? "the pod was not moved: "
          : unknown
              ? absl::StrCat("the pod was not moved; if it stands still, it goes on when the agent of node ",
                             seen.source_node.name, " answers again: ")
              : "the pod was not moved and goes on where it is: ",
          why.message));
  return End(MigrationStep::kNothing, absl::ZeroDuration());
}

MigrationDecision Draft::Succeed(const std::optional<Failure>& left_behind) {
  status.phase = MigrationPhase::kSucceeded;
  Complete();
  const std::string summary =
      absl::StrCat("pod ", seen.migration.spec.pod_ref.name, TargetGone() ? " went on as " : " goes on as ",
                   status.target_pod_name, " on node ", status.target_node, "; it stood still for ",
                   absl::FormatDuration(status.freeze.duration),
                   TargetGone() ? "; that pod was deleted or ended since" : "");
  Condition(crds::kComplete, "True", "Succeeded", summary);
  TellCleanedUp(left_behind);
  Say(false, "Succeeded", summary);
  return End(MigrationStep::kNothing, absl::ZeroDuration());
}

MigrationDecision Draft::PassDryRun(absl::string_view summary) {
  status.phase = MigrationPhase::kSucceeded;
  Complete();
  Condition(crds::kComplete, "True", "DryRunPassed", summary);
  TellCleanedUp(std::nullopt);
  Say(false, "DryRunPassed", summary);
  return End(MigrationStep::kNothing, absl::ZeroDuration());
}

MigrationDecision Draft::EndLost(const std::optional<Failure>& left_behind) {
  const k8s::Condition why = *k8s::FindCondition(status.conditions, crds::kMemoryArrived);
  status.phase = MigrationPhase::kFailed;
  Complete();
  const std::string summary = absl::StrCat("the pod moved to ", status.target_pod_name, " on node ",
                                           status.target_node, " and lost its state there",
                                           TargetGone() ? ": " : ", where it begins afresh: ", why.message);
  Condition(crds::kComplete, "False", "StateLost", summary);
  TellCleanedUp(left_behind);
  Say(true, "StateLost", summary);
  return End(MigrationStep::kNothing, absl::ZeroDuration());
}

bool Draft::TargetGone() const {
  const k8s::Condition* handed = k8s::FindCondition(status.conditions, crds::kHandedOver);
  return handed != nullptr && handed->reason == kTargetPodGone;
}

void Draft::TellCleanedUp(const std::optional<Failure>& left_behind) {
  Condition(crds::kCleanedUp, left_behind ? "False" : "True",
            left_behind ? left_behind->reason : "NothingLeft",
            left_behind ? left_behind->message : "nothing of the migration was left behind");
}

void Draft::TellTooLate() {
  if (!seen.migration.spec.cancel || k8s::FindCondition(status.conditions, crds::kCancelled) != nullptr)
    return;
  const std::string message =
      "the decision had fallen before the Migration was cancelled: the pod is handed over to the target, "
      "and the Migration is carried to its end";
  Condition(crds::kCancelled, "False", "TooLate", message);
  Say(true, "TooLateToCancel", message);
}

void Draft::Say(bool warning, absl::string_view reason, absl::string_view message) {
  tells_.push_back({.warning = warning,
                    .reason = std::string(reason),
                    .message = absl::StrCat(dry_run() ? "dry run: " : "", message)});
}

void Draft::SayFindings(const std::vector<crds::Finding>& findings) {
  bool first = true;
  for (const crds::Finding& finding : findings) {
    if (finding.severity == crds::Severity::kBlocking && std::exchange(first, false)) continue;
    Say(finding.severity != crds::Severity::kInfo, finding.id,
        absl::StrCat(finding.message, finding.remedy.empty() ? "" : ". ", finding.remedy));
  }
}

void Draft::FallBack(const Failure& why) {
  const k8s::Condition* before = k8s::FindCondition(status.conditions, crds::kPreCopyPossible);
  const bool known = before != nullptr && before->status == "False";
  const std::string message =
      absl::StrCat(why.message, "; memory is copied while the pod stands still (strategy StopAndCopy)");
  status.strategy = crds::Strategy::kStopAndCopy;
  Condition(crds::kPreCopyPossible, "False", why.reason, message);
  if (!known) Say(true, why.reason, message);
}

bool Draft::AgentSilent(const Failure& why) {
  Condition(crds::kAgentsReachable, "False", why.reason, why.message);
  return now - k8s::FindCondition(status.conditions, crds::kAgentsReachable)->last_transition_time >
         settings.agent_patience;
}

void Draft::AgentsAnswer() {
  if (k8s::FindCondition(status.conditions, crds::kAgentsReachable) == nullptr) return;  // never was in doubt
  Condition(crds::kAgentsReachable, "True", "AllAnswer", "the agents that are needed answer");
}

bool Wished(absl::string_view reason) { return reason == crds::kCancelled || reason == "Deleted"; }

Failure RivalFailure(const Draft& draft) {
  return {"AnotherMigration", absl::StrCat("Migration ", draft.seen.rival, " is moving this pod already")};
}

Failure Expired(const Draft& draft, absl::string_view where) {
  return {"Timeout", absl::StrCat("spec.timeout (", absl::FormatDuration(draft.seen.migration.spec.timeout),
                                  ") passed ", where)};
}

MigrationDecision AwaitAgent(Draft& draft, const Failure& why) {
  const bool silent = why.reason == "AgentUnreachable" || why.reason == "CertificateWrong";
  if (!silent || draft.AgentSilent(why)) return draft.Fail(why);
  return draft.Wait(why.reason, why.message, absl::Seconds(2));
}

template <class Status>
static Failure AbortedBy(absl::string_view side, const Status& status) {
  return {
      status.reason.empty() ? "Aborted" : status.reason,
      status.message.empty() ? absl::StrCat("the ", side, "'s agent aborted the migration") : status.message};
}

Failure AbortedBy(const agent_api::SourceStatus& source) { return AbortedBy("source", source); }
Failure AbortedBy(const agent_api::TargetStatus& target) { return AbortedBy("target", target); }

void RecordProgress(Draft& draft, const agent_api::SourceStatus& source, bool last) {
  constexpr absl::Duration kAtMostEvery = absl::Seconds(1);
  const agent_api::PreCopyProgress& progress = source.pre_copy;
  if (progress == agent_api::PreCopyProgress{}) return;  // none yet, or its agent was restarted and forgot
  crds::PreCopy& told = draft.status.pre_copy;
  crds::PreCopy now{.rounds = progress.rounds,
                    .memory_bytes = progress.memory_bytes,
                    .dirty_bytes = progress.dirty_bytes,
                    .dirty_rate = progress.dirty_rate,
                    .throughput = progress.throughput,
                    .sent_bytes = progress.sent_bytes,
                    .zero_bytes = progress.zero_bytes,
                    .unchanged_bytes = progress.unchanged_bytes,
                    .predicted_freeze = crds::Readable(progress.predicted_freeze),
                    .observed_time = told.observed_time};
  if (now == told || (!last && draft.now - told.observed_time < kAtMostEvery)) return;
  now.observed_time = draft.now;
  told = now;
}

void RecordPull(Draft& draft, const agent_api::PullStatus& pull, bool last) {
  constexpr absl::Duration kAtMostEvery = absl::Seconds(1);
  crds::PostCopy& told = draft.status.post_copy;
  if (pull.total_bytes == 0) return;  // none, or it is not known
  crds::PostCopy now{.total_bytes = pull.total_bytes,
                     .missing_bytes = pull.missing_bytes,
                     .faults = pull.faults,
                     .fault_p50 = crds::Readable(pull.fault_p50),
                     .fault_p99 = crds::Readable(pull.fault_p99),
                     .observed_time = told.observed_time};
  if (now == told || (!last && draft.now - told.observed_time < kAtMostEvery)) return;
  now.observed_time = draft.now;
  told = now;
}

std::optional<Failure> WhySourceLost(const Draft& draft) {
  const std::string& name = draft.seen.migration.spec.pod_ref.name;
  if (!draft.seen.source)
    return Failure{"PodGone", absl::StrCat("pod ", name, " was deleted while it was being moved")};
  if (!draft.SourceThere()) {
    return Failure{
        "PodReplaced",
        absl::StrCat("pod ", name, " was deleted while it was being moved; another of that name runs now")};
  }
  const k8s::Pod& pod = draft.seen.source->view;
  if (pod.metadata.terminating()) {
    return Failure{"PodTerminating", absl::StrCat("pod ", name, " is being deleted")};
  }
  if (!pod.running()) {
    return Failure{"PodNotRunning", absl::StrCat("pod ", name, " ended while it was being moved (phase ",
                                                 pod.status.phase, ")")};
  }
  return std::nullopt;
}

MigrationDecision EnterFinishing(Draft& draft, const agent_api::SourceStatus* source,
                                 const std::optional<Why>& why) {
  if (source != nullptr) {
    RecordProgress(draft, *source, /*last=*/true);
    if (source->pull_bytes > 0) draft.status.strategy = crds::Strategy::kPostCopy;
    draft.status.freeze = FreezeOf(draft, *source);
    draft.status.transfer = {.memory_bytes = source->memory_bytes,
                             .file_bytes = source->file_bytes,
                             .wire_bytes = source->wire_bytes};
  }
  if (why) {
    draft.Condition(crds::kSwitched, "True", why->reason, why->message);
    return draft.Enter(crds::MigrationPhase::kFinishing, why->message);
  }
  draft.Condition(crds::kSwitched, "True", "TargetRuns",
                  absl::StrCat("the processes run in pod ", draft.status.target_pod_name, " on node ",
                               draft.status.target_node));
  return draft.Enter(
      crds::MigrationPhase::kFinishing,
      absl::StrCat("the processes go on in pod ", draft.status.target_pod_name, " on node ",
                   draft.status.target_node, " after standing still for ",
                   absl::FormatDuration(draft.status.freeze.duration), "; removing the source pod"));
}

absl::Time FrozenAt(const Draft& draft, const agent_api::SourceStatus& source) {
  const absl::Time told = draft.status.freeze.frozen_at;
  if (told != absl::Time()) return told;
  if (source.frozen_at == absl::Time()) return source.frozen_at;  // it was not
  const absl::Time by_length = draft.now - source.freeze;
  const bool over = source.target_running || source.state == agent_api::SourceState::kAborted;
  if (!over) return by_length;
  const k8s::Condition* complete = k8s::FindCondition(draft.status.conditions, crds::kComplete);
  const bool since_switching =
      complete != nullptr && complete->reason == json::Name(MigrationPhase::kSwitching);
  const absl::Time earliest = since_switching ? draft.status.waiting_since : absl::InfinitePast();
  return std::min(std::max(source.frozen_at, earliest), by_length);
}

crds::Freeze FreezeOf(const Draft& draft, const agent_api::SourceStatus& source) {
  crds::Freeze freeze{.duration = crds::Readable(source.freeze), .frozen_at = FrozenAt(draft, source)};
  for (const agent_api::FreezeStep& step : source.steps) {
    freeze.steps.push_back(
        {.name = step.name, .container = step.container, .offset = step.offset, .duration = step.duration});
  }
  return freeze;
}

}  // namespace godwit::controller
