// SPDX-License-Identifier: Apache-2.0
#include "controller/migration/observe.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "controller/pods/eligibility.h"
#include "controller/pods/names.h"

namespace godwit::controller {
namespace {

using crds::MigrationPhase;

bool Failing(const crds::Migration& migration) {
  const k8s::Condition* complete = k8s::FindCondition(migration.status.conditions, crds::kComplete);
  return complete != nullptr && complete->status == "False";
}

bool Older(const crds::Migration& a, const crds::Migration& b) {
  auto rank = [](const crds::Migration& m) {
    return std::make_tuple(m.metadata.creation_timestamp.value_or(absl::InfiniteFuture()), m.metadata.uid);
  };
  return rank(a) < rank(b);
}

// The name of another Migration in the namespace that has not ended and of which this is true; empty: none.
// Dry runs are in nobody's way.
std::string OtherMigration(Cluster& cluster, const crds::Migration& migration,
                           absl::FunctionRef<bool(const crds::Migration&)> goes_first) {
  for (const auto& other : cluster.migrations().List()) {
    if (other->metadata.name_space != migration.metadata.name_space ||
        other->metadata.uid == migration.metadata.uid || crds::Ended(other->status.phase) ||
        other->spec.dry_run)
      continue;
    if (goes_first(*other)) return other->metadata.name;
  }
  return "";
}

// The oldest Migration of a pod goes first; one that froze it already goes before all.
std::string RivalOf(Cluster& cluster, const crds::Migration& migration) {
  return OtherMigration(cluster, migration, [&](const crds::Migration& other) {
    const bool switching =
        other.status.phase == MigrationPhase::kSwitching || other.status.phase == MigrationPhase::kFinishing;
    return other.spec.pod_ref == migration.spec.pod_ref &&
           (switching || migration.spec.dry_run || Older(other, migration));
  });
}

// Two sources of one ReplicaSet at the same time would be alike to it: it would delete the one while the
// other is deleted here, and then make a pod too few anew.
std::string SiblingMoveOf(Cluster& cluster, const MigrationObserved& seen) {
  if (seen.siblings.empty()) return "";
  return OtherMigration(cluster, seen.migration, [&seen](const crds::Migration& other) {
    const bool sibling =
        std::any_of(seen.siblings.begin(), seen.siblings.end(),
                    [&other](const k8s::Pod& pod) { return pod.metadata.name == other.spec.pod_ref.name; });
    return sibling && (other.status.phase != MigrationPhase::kPending || Older(other, seen.migration));
  });
}

int MovesInWork(Cluster& cluster, const MigrationObserved& seen) {
  const auto all = cluster.migrations().List();
  return static_cast<int>(std::count_if(all.begin(), all.end(), [&seen](const auto& other) {
    return other->metadata.name_space == seen.migration.metadata.name_space &&
           other->metadata.uid != seen.migration.metadata.uid && !other->spec.dry_run &&
           other->status.phase != MigrationPhase::kPending && !crds::Ended(other->status.phase) &&
           other->status.source_node == seen.source_node.name;
  }));
}

std::string CheckpointOf(Cluster& cluster, const crds::Migration& migration) {
  for (const auto& other : cluster.checkpoints().List()) {
    if (other->metadata.name_space == migration.metadata.name_space &&
        other->spec.pod_ref == migration.spec.pod_ref &&
        other->status.phase == crds::CheckpointPhase::kRunning) {
      return other->metadata.name;
    }
  }
  return "";
}

absl::Status ObserveSource(const Cluster& cluster, bool live, MigrationObserved& seen) {
  const k8s::ObjectName name{seen.migration.metadata.name_space, seen.migration.spec.pod_ref.name};
  if (live) {
    GODWIT_ASSIGN_OR_RETURN(seen.source, cluster.ReadPod(name));
  } else if (auto pod = cluster.Pod(name)) {
    seen.source = WholePod{.view = *std::move(pod)};
  }
  return absl::OkStatus();
}

// The ReplicaSet, from the source's reference or, when the source is gone, not at all; and the pods beside
// ours.
absl::Status ObserveOwner(const Cluster& cluster, MigrationObserved& seen) {
  if (!seen.source) return absl::OkStatus();
  const k8s::OwnerReference* owner = seen.source->view.metadata.Controller();
  if (owner == nullptr || owner->kind != "ReplicaSet") return absl::OkStatus();
  GODWIT_ASSIGN_OR_RETURN(seen.replica_set,
                          cluster.ReadReplicaSet({seen.migration.metadata.name_space, owner->name}));
  for (k8s::Pod& pod : cluster.PodsOwnedBy(owner->uid)) {
    const bool active = !pod.finished() && !pod.metadata.terminating();
    const bool ours =
        pod.metadata.uid == seen.source->view.metadata.uid || MadeBy(seen.migration.metadata, pod.metadata);
    if (active && !ours) seen.siblings.push_back(std::move(pod));
  }
  return absl::OkStatus();
}

void ObservePending(Cluster& cluster, MigrationObserved& seen) {
  const crds::Target& target = seen.migration.spec.target;
  seen.rival = RivalOf(cluster, seen.migration);
  seen.checkpoint = CheckpointOf(cluster, seen.migration);
  seen.sibling_move = SiblingMoveOf(cluster, seen);
  if (seen.source) seen.source_node = cluster.View(seen.source->view.spec.node_name, false);
  seen.moves_in_work = MovesInWork(cluster, seen);
  if (!target.node_name.empty()) {
    seen.target_node = cluster.View(target.node_name, false);
    return;
  }
  seen.selector = k8s::LabelSelector{.match_labels = target.node_selector}.ToString();
  seen.candidates = cluster.Views(cluster.NodesWith(target.node_selector));
}

// By a list, which the informers need as well, and not from them: nobody else needs images. nullopt: nobody
// knows.
std::optional<std::vector<std::string>> ImagesOn(const k8s::Api& api, const std::string& node) {
  const auto nodes = k8s::Client<k8s::Unstructured>(api, k8s::Node::kResource)
                         .List("", {.field_selector = absl::StrCat("metadata.name=", node)});
  if (!nodes.ok()) return std::nullopt;
  for (const k8s::Unstructured& found : nodes->items) {
    const rapidjson::Value* images = found.Find("/status/images");
    if (found.String("/metadata/name") != node || images == nullptr || !images->IsArray()) continue;
    std::vector<std::string> names;
    for (const rapidjson::Value& image : images->GetArray()) {
      if (!image.IsObject() || !image.HasMember("names") || !image["names"].IsArray()) continue;
      for (const rapidjson::Value& name : image["names"].GetArray()) {
        if (name.IsString()) names.emplace_back(name.GetString(), name.GetStringLength());
      }
    }
    return names;
  }
  return std::nullopt;
}

void ObservePreflight(Cluster& cluster, MigrationObserved& seen) {
  seen.rival = RivalOf(cluster, seen.migration);
  std::vector<NodeView> nodes =
      cluster.Views({seen.migration.status.source_node, seen.migration.status.target_node});
  seen.source_node = std::move(nodes[0]);
  seen.target_node = std::move(nodes[1]);
  if (!seen.source || !seen.source_node.agent.ok() || !seen.target_node.agent.ok()) return;
  const k8s::Pod& pod = seen.source->view;
  const std::optional<Turns::Turn> turn =
      cluster.preflights().Take(seen.migration.metadata.uid, pod.metadata.name_space, SteadyNow());
  seen.preflight_waits = !turn.has_value();
  if (!turn) return;
  seen.target_images = ImagesOn(cluster.api(), seen.target_node.name);
  seen.host_port_taken = HostPortTaken(pod, cluster.PodsOnNode(seen.target_node.name), seen.target_node.name);
  seen.preflight =
      cluster.AgentOn(seen.source_node)
          ->Preflight(
              {.pod = NameOf(pod.metadata), .containers = ContainersOf(pod), .empty_dirs = EmptyDirsOf(pod)});
}

void ObserveRehearsal(Cluster& cluster, const MigrationSettings& settings, MigrationObserved& seen) {
  const crds::Migration& migration = seen.migration;
  seen.rival = RivalOf(cluster, migration);
  seen.source_node = cluster.View(migration.status.source_node, false);
  seen.target_node = cluster.View(migration.status.target_node, false);
  const std::shared_ptr<Agent> agent = cluster.AgentOn(seen.source_node);
  if (!seen.source || agent == nullptr || seen.target_node.address.empty() ||
      migration.metadata.terminating()) {
    seen.rehearsal = absl::UnavailableError("there is no agent on one of the nodes any more");
    return;
  }
  agent_api::RehearsalRequest request{
      .pod = NameOf(seen.source->view.metadata),
      .containers = ContainersOf(seen.source->view),
      .target_node = seen.target_node.name,
      .target_address = HostPort(seen.target_node.address, settings.stream_port),
      .memory_bytes = migration.status.preflight.memory_bytes,
      .file_bytes = migration.status.preflight.file_bytes};
  if (migration.status.strategy == crds::Strategy::kStopAndCopy)
    request.mode = agent_api::CopyMode::kStopAndCopy;
  if (migration.status.strategy == crds::Strategy::kPostCopy) request.mode = agent_api::CopyMode::kPostCopy;
  absl::StatusOr<agent_api::PreCopyLimits> limits = LimitsOf(migration.spec);
  if (!limits.ok()) {
    seen.rehearsal = limits.status();
    return;
  }
  request.limits = *std::move(limits);
  const std::optional<Turns::Turn> turn =
      cluster.rehearsals().Take(migration.metadata.uid, seen.source_node.name, SteadyNow());
  seen.rehearsal_waits = !turn.has_value();
  if (turn) seen.rehearsal = agent->Rehearse(request);
}

void ObserveSides(const Cluster& cluster, bool source, MigrationObserved& seen) {
  const std::string& uid = seen.migration.metadata.uid;
  seen.source_node = cluster.View(seen.migration.status.source_node, false);
  seen.target_node = cluster.View(seen.migration.status.target_node, false);
  seen.target_side = AskSide<agent_api::TargetStatus>(cluster.AgentOn(seen.target_node),
                                                      [&](Agent& agent) { return agent.GetTarget(uid); });
  if (!source) return;
  seen.source_side = AskSide<agent_api::SourceStatus>(cluster.AgentOn(seen.source_node),
                                                      [&](Agent& agent) { return agent.GetSource(uid); });
}

// The source has not been told to freeze.
bool AwaitsOrder(const MigrationObserved& seen) {
  if (!seen.source_side.ok()) return false;
  if (seen.source_side->state == agent_api::SourceState::kNone) return true;
  return SourceWorksFirst(seen.migration.status) &&
         seen.source_side->state == agent_api::SourceState::kOpen && !seen.source_side->switching;
}

// It ends before anything was made: nobody need be asked.
bool EndsAtOnce(const crds::Migration& migration) {
  const MigrationPhase phase = migration.status.phase;
  const bool before = phase == MigrationPhase::kPending || phase == MigrationPhase::kPreflight;
  return before && (migration.spec.cancel || migration.metadata.terminating());
}

}  // namespace

absl::StatusOr<MigrationObserved> Observe(Cluster& cluster, const MigrationSettings& settings,
                                          const crds::Migration& migration, absl::Time now) {
  MigrationObserved seen{.migration = migration};
  const MigrationPhase phase = migration.status.phase;
  const bool clean = k8s::IsConditionTrue(migration.status.conditions, crds::kCleanedUp);
  if (crds::Ended(phase) && clean) return seen;
  if (EndsAtOnce(migration)) {
    GODWIT_RETURN_IF_ERROR(ObserveSource(cluster, false, seen));
    return seen;
  }
  const bool before = phase == MigrationPhase::kPending || phase == MigrationPhase::kPreflight ||
                      phase == MigrationPhase::kRehearsing;
  const bool copying = phase == MigrationPhase::kCopying;
  const bool preparing = phase == MigrationPhase::kPreparing;
  // The target pod is made from all that the source's object says, not only from what our copies keep of it.
  const bool whole = before || preparing || (copying && migration.status.target_pod_uid.empty());
  GODWIT_RETURN_IF_ERROR(ObserveSource(cluster, whole, seen));
  if (phase == MigrationPhase::kPending || phase == MigrationPhase::kFinishing ||
      (before && migration.spec.dry_run)) {
    GODWIT_RETURN_IF_ERROR(ObserveOwner(cluster, seen));
  }
  if (phase == MigrationPhase::kPending) ObservePending(cluster, seen);
  if (phase == MigrationPhase::kPreflight) ObservePreflight(cluster, seen);
  if (phase == MigrationPhase::kRehearsing) ObserveRehearsal(cluster, settings, seen);
  if (before) return seen;
  if (copying || preparing) seen.rival = RivalOf(cluster, migration);
  ObserveSides(cluster, !preparing || SourceWorksFirst(migration.status) || Failing(migration), seen);
  // The order to freeze is about to be given: not to a pod that is being deleted, even if our copy does not
  // know it.
  if (phase == MigrationPhase::kSwitching && AwaitsOrder(seen)) {
    GODWIT_RETURN_IF_ERROR(ObserveSource(cluster, true, seen));
  }
  const k8s::ObjectName target{migration.metadata.name_space, migration.status.target_pod_name};
  seen.target = cluster.Pod(target);
  // Where nothing may be left behind, what our copies do not show may be there all the same.
  if (!seen.target && !target.name.empty() && (Failing(migration) || crds::Ended(phase))) {
    GODWIT_ASSIGN_OR_RETURN(const std::optional<WholePod> pod, cluster.ReadPod(target));
    if (pod) seen.target = pod->view;
  }
  const k8s::Condition* waits = k8s::FindCondition(migration.status.conditions, crds::kComplete);
  const bool starts = waits != nullptr && waits->reason == kWaitingForTarget;
  if (preparing && seen.target && starts && now > migration.status.waiting_since + kStartPatience) {
    seen.target_warning = cluster.LastWarning(seen.target->metadata);
  }
  return seen;
}

}  // namespace godwit::controller
