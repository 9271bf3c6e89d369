// SPDX-License-Identifier: Apache-2.0
#include "controller/checkpoint/decide.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "controller/pods/eligibility.h"
#include "controller/pods/findings.h"
#include "controller/runtime/conditions.h"
#include "controller/runtime/turns.h"

namespace godwit::controller {
namespace {

using agent_api::CheckpointState;
using crds::CheckpointPhase;
using crds::Finding;

class CheckpointDraft {
 public:
  CheckpointDraft(const CheckpointObserved& observed, const CheckpointSettings& limits, absl::Time time)
      : seen(observed),
        settings(limits),
        now(time),
        status(observed.checkpoint.status),
        conditions(&status.conditions, observed.checkpoint.metadata.generation, time) {
    status.observed_generation = seen.checkpoint.metadata.generation;
  }

  CheckpointDecision Pending();
  CheckpointDecision Running();
  CheckpointDecision Ended();
  CheckpointDecision Fail(const Failure& why);
  CheckpointDecision Do(CheckpointStep step, absl::Duration again = absl::ZeroDuration()) {
    return {.status = std::move(status), .tells = std::move(tells), .step = step, .again = again};
  }

  const CheckpointObserved& seen;
  const CheckpointSettings& settings;
  const absl::Time now;
  crds::CheckpointStatus status;
  Conditions conditions;
  std::vector<Tell> tells;

  const std::string& pod_name() const { return seen.checkpoint.spec.pod_ref.name; }
  bool terminating() const { return seen.checkpoint.metadata.terminating(); }

  CheckpointDecision Wait(absl::string_view reason, absl::string_view message, absl::Duration again) {
    conditions.Set(crds::kComplete, "Unknown", reason, message);
    return Do(CheckpointStep::kNothing, again);
  }
  // An agent does not answer: wait, but not for ever.
  CheckpointDecision Silent(const absl::Status& error) {
    const Failure why = AgentFailure(seen.node.name, error);
    conditions.Set(crds::kAgentsReachable, "False", why.reason, why.message);
    if (now - conditions.Since(crds::kAgentsReachable) > settings.agent_patience) return Fail(why);
    return Wait(why.reason, why.message, absl::Seconds(2));
  }
  void Answers() {
    if (conditions.Has(crds::kAgentsReachable)) {
      conditions.Set(crds::kAgentsReachable, "True", "AllAnswer", "the agent answers");
    }
  }
  // The archives are as good; the pod stood still for longer.
  void FallBack(const std::string& fallback) {
    const std::string message =
        absl::StrCat("the memory of pod ", pod_name(), " cannot be copied while it runs: ", fallback,
                     "; it was dumped while the pod stood still");
    conditions.Set(crds::kPreCopyPossible, "False", "PodCannotPreCopy", message);
    tells.push_back({.warning = true, .reason = "PodCannotPreCopy", .message = message});
  }
  void Complete() {
    status.completion_time = k8s::WholeSeconds(now);
    status.total_duration =
        crds::Readable(std::max(absl::ZeroDuration(), status.completion_time - status.start_time));
  }
  void Record(const agent_api::CheckpointStatus& side) {
    status.freeze = {.duration = crds::Readable(side.freeze), .frozen_at = side.frozen_at};
    for (const agent_api::FreezeStep& step : side.steps) {
      status.freeze.steps.push_back(
          {.name = step.name, .container = step.container, .offset = step.offset, .duration = step.duration});
    }
    if (!side.fallback.empty()) FallBack(side.fallback);
    status.criu_version = side.criu_version;
    status.memory_bytes = side.memory_bytes;
    status.archives.clear();
    for (const agent_api::Archive& archive : side.archives) {
      status.archives.push_back({archive.container, archive.path, archive.size, archive.digest});
    }
  }
};

CheckpointDecision CheckpointDraft::Fail(const Failure& why) {
  const bool nothing_made = status.phase == CheckpointPhase::kPending;
  if (status.start_time == absl::Time()) status.start_time = k8s::WholeSeconds(now);
  status.phase = CheckpointPhase::kFailed;
  Complete();
  conditions.Set(crds::kComplete, "False", why.reason, why.message);
  conditions.Set(crds::kCleanedUp, nothing_made ? "True" : "False",
                 nothing_made ? "NothingLeft" : "CleaningUp",
                 nothing_made ? "nothing was written" : "what was written so far is being removed");
  tells.push_back({.warning = true,
                   .reason = why.reason,
                   .message = absl::StrCat("no checkpoint was made: ", why.message)});
  return Do(CheckpointStep::kNothing);
}

CheckpointDecision CheckpointDraft::Pending() {
  if (terminating()) return Do(CheckpointStep::kRemoveFinalizer);
  if (status.start_time == absl::Time()) status.start_time = k8s::WholeSeconds(now);
  if (!seen.pod) {
    return Fail({"PodNotFound", absl::StrCat("there is no pod ", pod_name(), " in namespace ",
                                             seen.checkpoint.metadata.name_space)});
  }
  if (!seen.migration.empty()) {
    return Fail({"MigrationUnderWay", absl::StrCat("Migration ", seen.migration, " is moving the pod")});
  }
  std::vector<Finding> findings = WhyNotMovable(*seen.pod);
  if (auto tight = ProbeTooTight(seen.pod->view, settings.freeze_cap)) findings.push_back(*tight);
  if (findings.empty() && !seen.node.agent_runs) {
    return Fail(
        {"NoAgent", absl::StrCat("no Godwit agent runs on node ", seen.node.name, ", where the pod is")});
  }
  if (now > status.start_time + settings.limit)
    return Fail({"Timeout", "the checkpoint could not be begun in time"});
  if (findings.empty() && !seen.older.empty()) {
    return Wait("AnotherCheckpoint", absl::StrCat("Checkpoint ", seen.older, " of the pod is being made"),
                absl::Seconds(1));
  }
  if (findings.empty()) {
    if (!seen.node.agent.ok()) return Silent(seen.node.agent.status());
    if (seen.preflight_waits) {
      Answers();
      return Wait("WaitingForPreflights", "other pods are looked at first", kTurnPoll);
    }
    if (!seen.preflight.ok() && !IsRefusal(seen.preflight.status())) return Silent(seen.preflight.status());
    if (!seen.preflight.ok()) {
      return Fail({"PreflightFailed", absl::StrCat("node ", seen.node.name, " could not look at the pod: ",
                                                   seen.preflight.status().message())});
    }
    for (const agent_api::Finding& finding : seen.preflight->findings) findings.push_back(FromAgent(finding));
    // Where the memory cannot be copied while the pod runs, the images, and the archives that are made of
    // them, lie there at the same time.
    const int64_t needs = 2 * (seen.preflight->memory_bytes + seen.preflight->file_bytes);
    const agent_api::NodeInfo& node = *seen.node.agent;
    if (auto full = RoomMissing("NoSpace", "disk space", seen.node.name, node.storage_available, needs,
                                settings.spare_bytes, node.storage_reserve)) {
      findings.push_back(*full);
    }
  }
  Answers();
  const std::optional<Failure> blocked = FirstBlocking(findings);
  status.findings = std::move(findings);
  if (blocked)
    return Fail({blocked->reason, absl::StrCat("the pod cannot be checkpointed: ", blocked->message)});
  status.phase = CheckpointPhase::kRunning;
  status.node_name = seen.node.name;
  status.pod_uid = seen.pod->view.metadata.uid;
  tells.push_back({.reason = "Running",
                   .message = absl::StrCat("the state of pod ", pod_name(), " is being kept on node ",
                                           status.node_name)});
  return Wait("Running", tells.back().message, absl::ZeroDuration());
}

CheckpointDecision CheckpointDraft::Running() {
  if (terminating()) return Ended();
  if (now > status.start_time + settings.limit) {
    return Fail({"Timeout", absl::StrCat("the archives were not finished within ",
                                         absl::FormatDuration(settings.limit))});
  }
  if (!seen.side.ok()) return Silent(seen.side.status());
  Answers();
  switch (seen.side->state) {
    case CheckpointState::kNone:
      if (!seen.pod || seen.pod->view.metadata.uid != status.pod_uid ||
          seen.pod->view.metadata.terminating()) {
        return Fail({"PodGone", absl::StrCat("pod ", pod_name(), " was deleted before its state was kept")});
      }
      status.manifest_digest = seen.manifest_digest;  // written before the archives are
      return Do(CheckpointStep::kTake, absl::Milliseconds(100));
    case CheckpointState::kRunning:
      return Wait("Running",
                  absl::StrCat("node ", seen.node.name, " copies the pod's state and writes the archives"),
                  absl::Milliseconds(250));
    case CheckpointState::kFailed:
      Record(*seen.side);
      status.archives.clear();
      return Fail({seen.side->reason.empty() ? "CheckpointFailed" : seen.side->reason, seen.side->message});
    case CheckpointState::kReady: break;
  }
  Record(*seen.side);
  status.phase = CheckpointPhase::kReady;
  Complete();
  int64_t bytes = 0;
  for (const crds::Archive& archive : status.archives) bytes += archive.size;
  const std::string summary =
      absl::StrCat("the state of pod ", pod_name(), " is kept on node ", status.node_name, " (", bytes >> 10,
                   " KiB); the pod stood still for ", absl::FormatDuration(status.freeze.duration));
  conditions.Set(crds::kComplete, "True", "Ready", summary);
  tells.push_back({.reason = "Ready", .message = summary});
  return Do(CheckpointStep::kNothing);
}

// Archives go when the Checkpoint goes, or when it failed; not while a Restore reads them.
CheckpointDecision CheckpointDraft::Ended() {
  const bool ours = seen.checkpoint.metadata.HasFinalizer(crds::Checkpoint::kFinalizer);
  const bool failed = status.phase == CheckpointPhase::kFailed;
  if (!terminating() && !ours) return Do(CheckpointStep::kAddFinalizer);
  if (!terminating() && (!failed || conditions.IsTrue(crds::kCleanedUp))) {
    return Do(CheckpointStep::kNothing, absl::InfiniteDuration());
  }
  if (!ours) return Do(CheckpointStep::kNothing, absl::InfiniteDuration());
  if (conditions.IsTrue(crds::kCleanedUp)) return Do(CheckpointStep::kRemoveFinalizer);
  if (!seen.restore.empty()) {
    conditions.Set(crds::kCleanedUp, "False", "InUse",
                   absl::StrCat("Restore ", seen.restore, " reads the archives"));
    return Do(CheckpointStep::kNothing, absl::Seconds(1));
  }
  const bool nowhere = status.node_name.empty();  // it failed before a node was asked
  const bool node_gone = !nowhere && !seen.node.exists;
  if (!nowhere && !node_gone && !seen.side.ok()) {
    const Failure why = AgentFailure(seen.node.name, seen.side.status());
    conditions.Set(crds::kCleanedUp, "False", why.reason,
                   absl::StrCat("the archives are not removed yet: ", why.message));
    return Do(CheckpointStep::kNothing, absl::Seconds(5));
  }
  if (!nowhere && !node_gone && seen.side->state != CheckpointState::kNone)
    return Do(CheckpointStep::kRemoveArchives);
  const std::string what = node_gone
                               ? absl::StrCat("node ", status.node_name, " is gone, and its archives with it")
                               : "the archives were removed";
  conditions.Set(crds::kCleanedUp, "True", node_gone ? "NodeGone" : "NothingLeft", what);
  if (terminating())
    tells.push_back({.warning = node_gone, .reason = node_gone ? "NodeGone" : "Removed", .message = what});
  return Do(CheckpointStep::kNothing);
}

}  // namespace

CheckpointDecision Decide(const CheckpointObserved& seen, const CheckpointSettings& settings,
                          absl::Time now) {
  CheckpointDraft draft(seen, settings, now);
  if (crds::Ended(draft.status.phase)) return draft.Ended();
  if (!seen.checkpoint.metadata.HasFinalizer(crds::Checkpoint::kFinalizer)) {
    return draft.terminating() ? draft.Do(CheckpointStep::kNothing, absl::InfiniteDuration())
                               : draft.Do(CheckpointStep::kAddFinalizer);
  }
  return draft.status.phase == CheckpointPhase::kPending ? draft.Pending() : draft.Running();
}

CheckpointDecision OnTakeRefused(const CheckpointObserved& seen, const CheckpointSettings& settings,
                                 const absl::Status& error, absl::Time now) {
  CheckpointDraft draft(seen, settings, now);
  if (!IsRefusal(error)) return draft.Silent(error);
  return draft.Fail({"CheckpointRefused", absl::StrCat("node ", seen.node.name,
                                                       " does not keep the pod's state: ", error.message())});
}

}  // namespace godwit::controller
