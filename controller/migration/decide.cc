// SPDX-License-Identifier: Apache-2.0
// The beginning of a Migration: Pending and Preflight. Nothing is made here; decide_preparing.cc goes on, and
// for a dry run decide_rehearsing.cc.
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/migration/draft.h"
#include "controller/nodes/machines.h"
#include "controller/pods/eligibility.h"
#include "controller/pods/findings.h"
#include "controller/pods/names.h"
#include "controller/runtime/turns.h"

namespace godwit::controller {
namespace {

// Of one namespace from a node at a time: an eighth of the streams that an agent takes of another, and half
// with their side connections.
constexpr int kMostMoves = 8;
// The reason of Complete while other pods are looked at.
constexpr char kWaitingForPreflights[] = "WaitingForPreflights";

using crds::Finding;
using crds::MigrationPhase;
using crds::Severity;
using crds::Strategy;

// A pod of the same ReplicaSet that is not ready would be the one that the ReplicaSet deletes at the
// hand-over.
const k8s::Pod* UnreadySibling(const MigrationObserved& seen) {
  for (const k8s::Pod& pod : seen.siblings) {
    if (!pod.ready()) return &pod;
  }
  return nullptr;
}

// The node that the pod goes to, by name or by labels.
Choice ChooseTarget(const MigrationObserved& seen) {
  const std::string& source = seen.source_node.name;
  const std::string& wanted = seen.migration.spec.target.node_name;
  if (wanted.empty())
    return ChooseNode(seen.candidates, source, seen.source_node.architecture, seen.selector);
  if (seen.target_node.exists && wanted == source) {
    return {.failure = Failure{"TargetIsSource", absl::StrCat("pod ", seen.migration.spec.pod_ref.name,
                                                              " runs on node ", wanted, " already")}};
  }
  return {.node = wanted, .failure = WhyUnsuitable(seen.target_node)};
}

// What the pod's own object says against it.
std::vector<Finding> FindingsOfPod(const Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  std::vector<Finding> findings = WhyNotMovable(*seen.source);
  if (auto owner = WhyOwnerUnsupported(seen.source->view, seen.replica_set ? &*seen.replica_set : nullptr)) {
    findings.push_back(*owner);
  }
  if (auto tight = ProbeTooTight(seen.source->view, draft.settings.freeze_cap)) findings.push_back(*tight);
  return findings;
}

// A dry run looks for all obstacles, as long as there is something to look at.
bool LooksOn(const Draft& draft) {
  const k8s::Pod& pod = draft.seen.source->view;
  return draft.dry_run() && pod.running() && !pod.metadata.terminating();
}

// What the two nodes have or lack for what preflight expects to move. Of the disk the agents' reserve counts
// as free: images go when the pod has, and a node whose disk is almost full must be left all the same.
void CompareNodes(const Draft& draft, std::vector<Finding>& findings) {
  const agent_api::NodeInfo& source = *draft.seen.source_node.agent;
  const agent_api::NodeInfo& target = *draft.seen.target_node.agent;
  const agent_api::PreflightReport& report = *draft.seen.preflight;
  auto room = [&](agent_api::FindingId id, absl::string_view what, const std::string& node, int64_t has,
                  int64_t needs) {
    auto missing = RoomMissing(id, what, node, has, needs, draft.settings.spare_bytes);
    if (missing) findings.push_back(*std::move(missing));
  };
  room("NoMemoryOnTarget", "memory", target.node, target.memory_available, report.memory_bytes);
  room("NoSpaceOnTarget", "disk space", target.node, target.storage_available,
       report.memory_bytes + report.file_bytes);
  room("NoSpaceOnSource", "disk space", source.node, source.storage_available, report.memory_bytes);
  for (crds::Finding& finding : CompareMachines(source, target, report.other_users))
    findings.push_back(std::move(finding));
}

// The nodes were not asked about the pod before this look.
bool WaitsForPreflights(const Draft& draft) {
  const k8s::Condition* complete = k8s::FindCondition(draft.status.conditions, crds::kComplete);
  return draft.seen.preflight_waits || (complete != nullptr && complete->reason == kWaitingForPreflights);
}

// Why memory cannot be copied while the pod runs, for all that is known before the source's agent has tried.
std::optional<Failure> WhyNodesCannotPreCopy(const MigrationObserved& seen) {
  for (const NodeView* node : {&seen.source_node, &seen.target_node}) {
    if (node->agent->no_pre_copy.empty()) continue;
    return Failure{"NodeCannotPreCopy",
                   absl::StrCat("node ", node->name, " cannot pre-copy: ", node->agent->no_pre_copy)};
  }
  return std::nullopt;
}

// What is found is no obstacle: settles the strategy and begins.
MigrationDecision Passed(Draft& draft) {
  const std::string size = absl::StrCat((draft.status.preflight.memory_bytes >> 20), " MiB of memory and ",
                                        (draft.status.preflight.file_bytes >> 20), " MiB of files");
  draft.Condition(crds::kPreflightPassed, "True", "Passed",
                  absl::StrCat("nothing stands in the way; ", size, " will move"));
  const Strategy wanted = draft.seen.migration.spec.strategy;
  draft.status.strategy = wanted == Strategy::kAuto ? Strategy::kPreCopy : wanted;
  if (wanted == Strategy::kAuto) {
    if (auto why = WhyNodesCannotPreCopy(draft.seen)) draft.FallBack(*why);
  }
  if (draft.dry_run()) {
    return draft.Enter(MigrationPhase::kRehearsing,
                       absl::StrCat("watching the pod's memory for a moment and measuring the link to node ",
                                    draft.status.target_node, "; ", size, " would move"));
  }
  if (draft.status.strategy == Strategy::kStopAndCopy) {
    return draft.Enter(MigrationPhase::kPreparing,
                       absl::StrCat("making target pod ", draft.status.target_pod_name, " on node ",
                                    draft.status.target_node, "; ", size, " will move"));
  }
  draft.Condition(crds::kConverged, "Unknown", "Copying",
                  "memory goes over in rounds; status.preCopy tells how far");
  return draft.Enter(MigrationPhase::kCopying,
                     absl::StrCat("copying ", size, " to node ", draft.status.target_node, " while pod ",
                                  draft.seen.migration.spec.pod_ref.name, " runs"));
}

}  // namespace

MigrationDecision FailForFindings(Draft& draft, std::vector<Finding> findings) {
  const Failure blocked = *FirstBlocking(findings);
  const Failure why{blocked.reason, absl::StrCat("the pod cannot be moved: ", blocked.message)};
  draft.status.findings = std::move(findings);
  draft.Condition(crds::kPreflightPassed, "False", why.reason, why.message);
  return draft.Fail(why);
}

MigrationDecision Decide(const MigrationObserved& seen, const MigrationSettings& settings, absl::Time now) {
  Draft draft(seen, settings, now);
  const k8s::ObjectMeta& meta = seen.migration.metadata;
  // A dry run makes nothing that would have to be removed before it goes.
  const bool ours = draft.dry_run() || meta.HasFinalizer(crds::Migration::kFinalizer);
  if (crds::Ended(draft.status.phase)) return DecideEnded(draft);
  if (!ours) return meta.terminating() ? draft.Nothing() : draft.Do(MigrationStep::kAddFinalizer);
  if (draft.failing()) return DecideFailing(draft);
  switch (draft.status.phase) {
    case MigrationPhase::kPending: return DecidePending(draft);
    case MigrationPhase::kPreflight: return DecidePreflight(draft);
    case MigrationPhase::kRehearsing: return DecideRehearsing(draft);
    case MigrationPhase::kCopying: return DecideCopying(draft);
    case MigrationPhase::kPreparing: return DecidePreparing(draft);
    case MigrationPhase::kSwitching: return DecideSwitching(draft);
    case MigrationPhase::kFinishing: return DecideFinishing(draft);
    case MigrationPhase::kSucceeded:
    case MigrationPhase::kFailed: break;
  }
  return draft.Nothing();
}

MigrationDecision DecidePending(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  const std::string& pod = seen.migration.spec.pod_ref.name;
  if (auto why = draft.WhyUnwanted()) return draft.Fail(*why);
  if (draft.status.start_time == absl::Time()) draft.status.start_time = k8s::WholeSeconds(draft.now);
  if (!seen.rival.empty()) return draft.Fail(RivalFailure(draft));
  if (!seen.source) {
    return draft.Fail({"PodNotFound", absl::StrCat("there is no pod ", pod, " in namespace ",
                                                   seen.migration.metadata.name_space)});
  }
  std::vector<Finding> findings = FindingsOfPod(draft);
  if (!findings.empty() && !LooksOn(draft)) {
    draft.SayFindings(findings);
    return FailForFindings(draft, std::move(findings));
  }
  if (auto why = WhyNoAgent(seen.source_node)) {
    return draft.Fail({why->reason, absl::StrCat("the pod's own node: ", why->message)});
  }
  const Choice choice = ChooseTarget(seen);
  if (choice.failure) return draft.Fail(*choice.failure);
  if (draft.now > draft.deadline()) return draft.Fail(Expired(draft, "while the pod could not be moved yet"));
  if (!seen.checkpoint.empty()) {
    return draft.Wait("CheckpointRunning",
                      absl::StrCat("Checkpoint ", seen.checkpoint, " of the pod is being made"),
                      absl::Seconds(1));
  }
  if (const k8s::Pod* sibling = UnreadySibling(seen); sibling != nullptr && !draft.dry_run()) {
    return draft.Wait("WaitingForSibling",
                      absl::StrCat("pod ", sibling->metadata.name,
                                   " of the same ReplicaSet is not ready; the ReplicaSet would "
                                   "delete it, and not the source, when the target joins"),
                      absl::Seconds(5));
  }
  if (!seen.sibling_move.empty() && !draft.dry_run()) {
    return draft.Wait("WaitingForSibling",
                      absl::StrCat("Migration ", seen.sibling_move,
                                   " moves another pod of the same ReplicaSet; one goes after the other, so "
                                   "that the ReplicaSet deletes and creates none"),
                      absl::Seconds(1));
  }
  // Agents take so many streams of each other, and a namespace must leave some to the others.
  if (seen.moves_in_work >= kMostMoves && !draft.dry_run()) {
    return draft.Wait(
        "WaitingForMoves",
        absl::StrCat(seen.moves_in_work, " pods of namespace ", seen.migration.metadata.name_space,
                     " are leaving node ", seen.source_node.name, " already; the others wait"),
        absl::Seconds(1));
  }
  const std::string name = MovedPodName(seen.source->view.metadata, seen.migration.metadata.uid);
  if (auto why = WhyNameTooLong(seen.migration.metadata.name_space, name)) return draft.Fail(*why);
  draft.status.source_node = seen.source_node.name;
  draft.status.target_node = choice.node;
  draft.status.source_pod_uid = seen.source->view.metadata.uid;
  if (!draft.dry_run()) draft.status.target_pod_name = name;
  return draft.Enter(MigrationPhase::kPreflight,
                     absl::StrCat("asking nodes ", draft.status.source_node, " and ",
                                  draft.status.target_node, " whether pod ", pod, " can be moved"));
}

MigrationDecision DecidePreflight(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (auto why = draft.WhyUnwanted()) return draft.Fail(*why);
  if (auto lost = WhySourceLost(draft)) return draft.Fail(*lost);
  if (!seen.rival.empty()) return draft.Fail(RivalFailure(draft));
  if (draft.now > draft.deadline()) {
    return draft.Fail(Expired(draft, WaitsForPreflights(draft) ? "while other pods' preflights came first"
                                                               : "before the nodes had answered"));
  }
  if (auto why = WhyUnsuitable(seen.target_node)) return draft.Fail(*why);
  for (const NodeView* node : {&seen.source_node, &seen.target_node}) {
    if (!node->agent.ok()) return AwaitAgent(draft, AgentFailure(node->name, node->agent.status()));
  }
  if (auto why = WhyAgentUnsuitable(seen.target_node, seen.source_node.agent->architecture))
    return draft.Fail(*why);
  if (seen.preflight_waits) {
    draft.AgentsAnswer();  // what was in doubt before is not held against them when they are asked again
    return draft.Wait(kWaitingForPreflights, "other pods are looked at first", kTurnPoll);
  }
  if (!seen.preflight.ok()) {
    const absl::Status& error = seen.preflight.status();
    if (!IsRefusal(error)) return AwaitAgent(draft, AgentFailure(seen.source_node.name, error));
    return draft.Fail({"PreflightFailed", absl::StrCat("node ", seen.source_node.name,
                                                       " could not look at the pod: ", error.message())});
  }
  draft.AgentsAnswer();
  std::vector<Finding> findings;
  if (draft.dry_run()) {
    findings = FindingsOfPod(draft);
    if (const k8s::Pod* sibling = UnreadySibling(seen))
      findings.push_back(Found("WaitsForSibling", absl::StrCat("pod ", sibling->metadata.name,
                                                               " of the same ReplicaSet is not ready")));
  }
  const auto add = [&findings](std::vector<Finding> more) {
    findings.insert(findings.end(), std::make_move_iterator(more.begin()),
                    std::make_move_iterator(more.end()));
  };
  add(WorthKnowing(*seen.source));
  for (const agent_api::Finding& finding : seen.preflight->findings) findings.push_back(FromAgent(finding));
  if (seen.host_port_taken) findings.push_back(*seen.host_port_taken);
  CompareNodes(draft, findings);
  if (seen.target_images) add(ImagesMissing(seen.source->view, *seen.target_images, seen.target_node.name));
  draft.status.preflight = {.memory_bytes = seen.preflight->memory_bytes,
                            .file_bytes = seen.preflight->file_bytes};
  const Strategy wanted = seen.migration.spec.strategy;
  if (wanted == Strategy::kPreCopy || wanted == Strategy::kPostCopy) {
    if (auto why = WhyNodesCannotPreCopy(seen)) {
      findings.push_back(Found("NodeCannotPreCopy", why->message));
    }
  }
  draft.SayFindings(findings);
  if (FirstBlocking(findings)) return FailForFindings(draft, std::move(findings));
  draft.status.findings = std::move(findings);
  return Passed(draft);
}

MigrationDecision OnRefused(const MigrationObserved& seen, const MigrationSettings& settings,
                            MigrationStep step, const absl::Status& error, absl::Time now) {
  Draft draft(seen, settings, now);
  const std::string& target = seen.target_node.name;
  switch (step) {
    case MigrationStep::kCreateTargetPod:
      if (error.code() != absl::StatusCode::kInvalidArgument &&
          error.code() != absl::StatusCode::kPermissionDenied)
        break;
      return draft.Fail({"TargetPodRefused", absl::StrCat("the target pod was refused: ", error.message())});
    case MigrationStep::kPermit:
      if (!IsRefusal(error)) return AwaitAgent(draft, AgentFailure(target, error));
      return draft.Fail(
          {error.code() == absl::StatusCode::kResourceExhausted ? "NoSpaceOnTarget" : "TargetRefused",
           absl::StrCat("node ", target, " does not take the pod: ", error.message())});
    case MigrationStep::kStartSource:
      // Refused and, as the last look said, not begun before: the source is not touched.
      if (IsRefusal(error)) {
        return draft.Fail({"SourceRefused", absl::StrCat("node ", seen.source_node.name,
                                                         " does not send the pod: ", error.message())});
      }
      draft.AgentSilent(AgentFailure(seen.source_node.name, error));
      return draft.Wait("AgentUnreachable", error.message(), absl::Seconds(1));
    case MigrationStep::kSetLimits:
    case MigrationStep::kSwitchSource:
      // Refused: the source has gone on meanwhile, and its own word, at the next look, decides.
      if (IsRefusal(error)) break;
      draft.AgentSilent(AgentFailure(seen.source_node.name, error));
      return draft.Wait("AgentUnreachable", error.message(), absl::Seconds(1));
    default:
      // Nothing to give up for: it is tried again, and says so.
      if (error.code() == absl::StatusCode::kInvalidArgument ||
          error.code() == absl::StatusCode::kPermissionDenied) {
        return draft.Wait(absl::StrCat(StepName(step), "Refused"), error.message(), absl::InfiniteDuration());
      }
  }
  return draft.Nothing();
}

}  // namespace godwit::controller
