// SPDX-License-Identifier: Apache-2.0
#include "controller/restore/decide.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/pods/findings.h"
#include "controller/pods/names.h"
#include "controller/pods/progress.h"
#include "controller/runtime/conditions.h"
#include "crds/migration.h"

namespace godwit::controller {
namespace {

constexpr int kMostRestores = 4;  // of one namespace at a time

using agent_api::TargetState;
using crds::RestorePhase;

class RestoreDraft {
 public:
  RestoreDraft(const RestoreObserved& observed, const RestoreSettings& limits, absl::Time time)
      : seen(observed),
        settings(limits),
        now(time),
        status(observed.restore.status),
        conditions(&status.conditions, observed.restore.metadata.generation, time) {
    status.observed_generation = seen.restore.metadata.generation;
  }

  RestoreDecision Pending();
  RestoreDecision Restoring();
  RestoreDecision Failing();
  RestoreDecision Ended();
  RestoreDecision Fail(const Failure& why);
  RestoreDecision FinishFailing(const std::optional<Failure>& left_behind);
  RestoreDecision Succeed();
  RestoreDecision Do(RestoreStep step, absl::Duration again = absl::ZeroDuration()) {
    return {.status = std::move(status), .tells = std::move(tells), .step = step, .again = again};
  }
  RestoreDecision Silent(const std::string& node, const absl::Status& error);

  const RestoreObserved& seen;
  const RestoreSettings& settings;
  const absl::Time now;
  crds::RestoreStatus status;
  Conditions conditions;
  std::vector<Tell> tells;

  bool terminating() const { return seen.restore.metadata.terminating(); }
  bool ours() const { return seen.pod && MadeBy(seen.restore.metadata, seen.pod->metadata); }

 private:
  std::optional<Failure> WhyCheckpointUnfit() const;
  std::optional<Failure> WhyNoRoom(const agent_api::NodeInfo& target) const;
  std::optional<Failure> WhyPodFails() const;
  std::optional<RestoreDecision> Remove(std::optional<Failure>& in_the_way);
  RestoreDecision Wait(absl::string_view reason, absl::string_view message, absl::Duration again) {
    if (!conditions.IsFalse(crds::kComplete)) conditions.Set(crds::kComplete, "Unknown", reason, message);
    return Do(RestoreStep::kNothing, again);
  }
  void Complete() {
    status.completion_time = k8s::WholeSeconds(now);
    status.total_duration =
        crds::Readable(std::max(absl::ZeroDuration(), status.completion_time - status.start_time));
  }
};

RestoreDecision RestoreDraft::Fail(const Failure& why) {
  if (status.start_time == absl::Time()) status.start_time = k8s::WholeSeconds(now);
  conditions.Set(crds::kComplete, "False", why.reason, why.message);
  if (status.phase == RestorePhase::kPending) return FinishFailing(std::nullopt);
  return Do(RestoreStep::kNothing);
}

RestoreDecision RestoreDraft::FinishFailing(const std::optional<Failure>& left_behind) {
  const k8s::Condition why = *k8s::FindCondition(status.conditions, crds::kComplete);
  status.phase = RestorePhase::kFailed;
  Complete();
  conditions.Set(crds::kCleanedUp, left_behind ? "False" : "True",
                 left_behind ? left_behind->reason : "NothingLeft",
                 left_behind ? left_behind->message : "nothing of the restore was left behind");
  tells.push_back(
      {.warning = true, .reason = why.reason, .message = absl::StrCat("no pod was restored: ", why.message)});
  return Do(RestoreStep::kNothing);
}

RestoreDecision RestoreDraft::Silent(const std::string& node, const absl::Status& error) {
  const Failure why = AgentFailure(node, error);
  conditions.Set(crds::kAgentsReachable, "False", why.reason, why.message);
  if (now - conditions.Since(crds::kAgentsReachable) > settings.agent_patience) return Fail(why);
  return Wait(why.reason, why.message, absl::Seconds(2));
}

std::optional<Failure> RestoreDraft::WhyCheckpointUnfit() const {
  const std::string& name = seen.restore.spec.checkpoint_ref.name;
  if (!seen.checkpoint) {
    return Failure{"CheckpointNotFound", absl::StrCat("there is no Checkpoint ", name, " in namespace ",
                                                      seen.restore.metadata.name_space)};
  }
  if (seen.checkpoint->metadata.terminating()) {
    return Failure{"CheckpointTerminating", absl::StrCat("Checkpoint ", name, " is being deleted")};
  }
  if (seen.checkpoint->status.phase == crds::CheckpointPhase::kFailed) {
    return Failure{"CheckpointFailed", absl::StrCat("Checkpoint ", name, " has failed: it holds no state")};
  }
  if (seen.checkpoint->status.phase != crds::CheckpointPhase::kReady &&
      now > status.start_time + settings.checkpoint_limit) {
    return Failure{"CheckpointNotReady", absl::StrCat("Checkpoint ", name, " did not become Ready within ",
                                                      absl::FormatDuration(settings.checkpoint_limit))};
  }
  return std::nullopt;
}

std::optional<Failure> RestoreDraft::WhyNoRoom(const agent_api::NodeInfo& target) const {
  int64_t archives = 0;
  for (const crds::Archive& archive : seen.checkpoint->status.archives) archives += archive.size;
  const bool fetched = target.node != seen.checkpoint->status.node_name;
  // What is fetched is kept until it was verified and unpacked.
  const int64_t disk = archives * (fetched ? 2 : 1);
  const int64_t memory = seen.checkpoint->status.memory_bytes;
  auto missing = RoomMissing("NoMemoryOnTarget", "memory", target.node, target.memory_available, memory,
                             settings.spare_bytes);
  if (!missing) {
    missing = RoomMissing("NoSpaceOnTarget", "disk space", target.node, target.storage_available, disk,
                          settings.spare_bytes, target.storage_reserve);
  }
  if (!missing) return std::nullopt;
  return Failure{missing->id, absl::StrCat(missing->message, ". ", missing->remedy)};
}

RestoreDecision RestoreDraft::Pending() {
  if (terminating()) return Do(RestoreStep::kRemoveFinalizer);
  if (status.start_time == absl::Time()) status.start_time = k8s::WholeSeconds(now);
  if (auto why = WhyCheckpointUnfit()) return Fail(*why);
  const crds::CheckpointStatus& from = seen.checkpoint->status;
  if (from.phase != crds::CheckpointPhase::kReady) {
    return Wait("CheckpointNotReady",
                absl::StrCat("waiting until Checkpoint ", seen.checkpoint->metadata.name, " is Ready"),
                absl::Seconds(1));
  }
  // Each has room for itself as it begins; and agents take so many streams of each other.
  if (seen.restores_in_work >= kMostRestores) {
    return Wait("WaitingForRestores",
                absl::StrCat(seen.restores_in_work, " Restores of namespace ",
                             seen.restore.metadata.name_space, " are in work already; the others wait"),
                absl::Seconds(1));
  }
  if (auto why =
          seen.archive_node.exists ? WhyNoAgent(seen.archive_node) : WhyUnsuitable(seen.archive_node)) {
    return Fail({why->reason, absl::StrCat("the archives cannot be read: ", why->message)});
  }
  if (!seen.archive_node.agent.ok()) return Silent(seen.archive_node.name, seen.archive_node.agent.status());
  const std::string& architecture = seen.archive_node.agent->architecture;
  std::string node = seen.target_node.name;
  const NodeView* target = &seen.target_node;
  if (!seen.restore.spec.target.node_selector.empty()) {
    const Choice choice = ChooseNode(seen.candidates, "", architecture, seen.selector);
    if (choice.failure) return Fail(*choice.failure);
    node = choice.node;
    for (const NodeView& candidate : seen.candidates) {
      if (candidate.name == node) target = &candidate;
    }
  } else {
    if (auto why = WhyUnsuitable(*target)) return Fail(*why);
    if (!target->agent.ok()) return Silent(target->name, target->agent.status());
    if (auto why = WhyAgentUnsuitable(*target, architecture)) return Fail(*why);
  }
  if (auto why = WhyNoRoom(*target->agent)) return Fail(*why);
  if (!seen.manifest.ok()) {
    if (!IsRefusal(seen.manifest.status())) return Silent(seen.archive_node.name, seen.manifest.status());
    return Fail(
        {"ManifestUnusable", absl::StrCat("the archives on node ", seen.archive_node.name,
                                          " cannot be restored from: ", seen.manifest.status().message())});
  }
  if (auto why = WhyNameTooLong(seen.restore.metadata.name_space, seen.pod_name)) return Fail(*why);
  if (seen.pod && !ours()) {
    return Fail({"PodNameTaken", absl::StrCat("a pod of the name ", seen.pod_name, " exists already")});
  }
  if (conditions.Has(crds::kAgentsReachable))
    conditions.Set(crds::kAgentsReachable, "True", "AllAnswer", "the agents answer");
  status.phase = RestorePhase::kRestoring;
  status.start_time = k8s::WholeSeconds(now);  // what it waited for before is not of its time limit
  status.checkpoint_uid = seen.checkpoint->metadata.uid;
  status.pod_name = seen.pod_name;
  status.node_name = node;
  const std::string what = absl::StrCat("making pod ", status.pod_name, " on node ", node,
                                        " from the archives on node ", from.node_name);
  tells.push_back({.reason = "Restoring", .message = what});
  return Wait("Restoring", what, absl::ZeroDuration());
}

std::optional<Failure> RestoreDraft::WhyPodFails() const {
  const Failure deleted{"PodDeleted", absl::StrCat("pod ", status.pod_name, " was deleted before it ran")};
  if (!seen.pod) return status.pod_uid.empty() ? std::nullopt : std::optional<Failure>(deleted);
  if (!ours())
    return Failure{"PodNameTaken", absl::StrCat("a pod of the name ", status.pod_name, " exists already")};
  if (seen.pod->metadata.terminating()) return deleted;
  if (auto why = WhyNoSandbox(*seen.pod, seen.warning, settings.sandbox_limit, now)) return why;
  return WhyNotStarting(*seen.pod);
}

RestoreDecision RestoreDraft::Restoring() {
  if (seen.side.ok() && seen.side->state == TargetState::kRunning) {
    const bool mark = ours() && !seen.pod->metadata.terminating() && !IsCommitted(*seen.pod);
    if (mark && now < status.start_time + settings.limit) return Do(RestoreStep::kMarkCommitted);
    return Succeed();
  }
  if (terminating()) return Fail({"Deleted", "the Restore was deleted before the pod ran"});
  if (seen.side.ok() && seen.side->state == TargetState::kAborted) {
    return Fail({seen.side->reason.empty() ? "Aborted" : seen.side->reason, seen.side->message});
  }
  if (auto why = WhyPodFails()) return Fail(*why);
  if (now > status.start_time + settings.limit) {
    return Fail(
        {"Timeout", absl::StrCat("the pod did not run within ", absl::FormatDuration(settings.limit),
                                 seen.warning.empty() ? "" : "; the last said about it: ", seen.warning)});
  }
  if (!seen.pod) {
    if (seen.manifest.ok()) return Do(RestoreStep::kCreatePod, absl::Milliseconds(50));
    if (!IsRefusal(seen.manifest.status())) return Silent(seen.archive_node.name, seen.manifest.status());
    return Fail({"ManifestUnusable", std::string(seen.manifest.status().message())});
  }
  if (status.pod_uid.empty()) {
    status.pod_uid = seen.pod->metadata.uid;
    return Do(RestoreStep::kNothing);
  }
  if (!seen.side.ok()) return Silent(seen.target_node.name, seen.side.status());
  if (conditions.Has(crds::kAgentsReachable))
    conditions.Set(crds::kAgentsReachable, "True", "AllAnswer", "the agents answer");
  if (seen.side->state == TargetState::kNone) {
    if (auto why = WhyCheckpointUnfit()) return Fail(*why);
    return Do(RestoreStep::kPermit);
  }
  if (HasPermitGate(*seen.pod)) return Do(RestoreStep::kOpenGate, absl::Milliseconds(50));
  return Wait("Restoring",
              absl::StrCat("pod ", status.pod_name, " is being restored on node ", status.node_name,
                           seen.warning.empty() ? "" : "; the last said about it: ", seen.warning),
              seen.warning.empty() ? absl::Milliseconds(300) : absl::Seconds(1));
}

RestoreDecision RestoreDraft::Succeed() {
  status.phase = RestorePhase::kSucceeded;
  Complete();
  const std::string what = absl::StrCat("pod ", status.pod_name, " goes on on node ", status.node_name);
  conditions.Set(crds::kComplete, "True", "Succeeded", what);
  tells.push_back({.reason = "Succeeded", .message = what});
  return Do(RestoreStep::kNothing);
}

// The permit is withdrawn first, so that `create` ends; then the pod goes; then the agent forgets. After a
// success the agent only forgets (a running pod's permit stays spent).
std::optional<RestoreDecision> RestoreDraft::Remove(std::optional<Failure>& in_the_way) {
  const bool failed = status.phase != RestorePhase::kSucceeded;
  const bool knows = seen.side.ok() && seen.side->state != TargetState::kNone;
  if (failed && knows && seen.side->state != TargetState::kAborted &&
      seen.side->state != TargetState::kRunning) {
    return Do(RestoreStep::kAbort);
  }
  if (failed && ours() && !seen.pod->metadata.terminating())
    return Do(RestoreStep::kDeletePod, absl::Milliseconds(100));
  if (!seen.target_node.exists) return std::nullopt;
  if (!seen.side.ok()) {
    in_the_way = AgentFailure(seen.target_node.name, seen.side.status());
    return std::nullopt;
  }
  if (knows) return Do(RestoreStep::kForget);
  if (failed && ours())
    in_the_way = Failure{"PodTerminating", absl::StrCat("pod ", status.pod_name, " is still terminating")};
  return std::nullopt;
}

RestoreDecision RestoreDraft::Failing() {
  std::optional<Failure> in_the_way;
  if (auto step = Remove(in_the_way)) return *std::move(step);
  if (in_the_way && now - conditions.Since(crds::kComplete) < settings.cleanup_patience) {
    return Do(RestoreStep::kNothing, absl::Seconds(1));
  }
  return FinishFailing(in_the_way);
}

RestoreDecision RestoreDraft::Ended() {
  const bool held = seen.restore.metadata.HasFinalizer(crds::Restore::kFinalizer);
  if (!conditions.IsTrue(crds::kCleanedUp)) {
    std::optional<Failure> in_the_way;
    if (auto step = Remove(in_the_way)) return *std::move(step);
    conditions.Set(crds::kCleanedUp, in_the_way ? "False" : "True",
                   in_the_way ? in_the_way->reason : "NothingLeft",
                   in_the_way ? in_the_way->message : "nothing of the restore was left behind");
    return Do(RestoreStep::kNothing, in_the_way ? absl::Seconds(15) : absl::ZeroDuration());
  }
  return terminating() && held ? Do(RestoreStep::kRemoveFinalizer)
                               : Do(RestoreStep::kNothing, absl::InfiniteDuration());
}

}  // namespace

RestoreDecision Decide(const RestoreObserved& seen, const RestoreSettings& settings, absl::Time now) {
  RestoreDraft draft(seen, settings, now);
  if (crds::Ended(draft.status.phase)) return draft.Ended();
  if (!seen.restore.metadata.HasFinalizer(crds::Restore::kFinalizer)) {
    return draft.terminating() ? draft.Do(RestoreStep::kNothing, absl::InfiniteDuration())
                               : draft.Do(RestoreStep::kAddFinalizer);
  }
  if (draft.conditions.IsFalse(crds::kComplete)) return draft.Failing();
  return draft.status.phase == RestorePhase::kPending ? draft.Pending() : draft.Restoring();
}

RestoreDecision OnRefused(const RestoreObserved& seen, const RestoreSettings& settings, RestoreStep step,
                          const absl::Status& error, absl::Time now) {
  RestoreDraft draft(seen, settings, now);
  if (step == RestoreStep::kCreatePod && (error.code() == absl::StatusCode::kInvalidArgument ||
                                          error.code() == absl::StatusCode::kPermissionDenied)) {
    return draft.Fail({"PodRefused", absl::StrCat("the pod was refused: ", error.message())});
  }
  if (step == RestoreStep::kPermit) {
    if (!IsRefusal(error)) return draft.Silent(seen.target_node.name, error);
    return draft.Fail(
        {error.code() == absl::StatusCode::kResourceExhausted ? "NoSpaceOnTarget" : "TargetRefused",
         absl::StrCat("node ", seen.target_node.name, " does not take the pod: ", error.message())});
  }
  return draft.Do(RestoreStep::kNothing, absl::InfiniteDuration());
}

}  // namespace godwit::controller
