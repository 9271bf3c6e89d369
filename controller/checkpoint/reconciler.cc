// SPDX-License-Identifier: Apache-2.0
#include "controller/checkpoint/reconciler.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "controller/pods/eligibility.h"
#include "controller/pods/manifest.h"
#include "controller/pods/target_pod.h"
#include "controller/runtime/writes.h"
#include "k8s/error.h"

namespace godwit::controller {
namespace {

using crds::CheckpointPhase;

std::string MigrationOf(Cluster& cluster, const crds::Checkpoint& checkpoint) {
  for (const auto& other : cluster.migrations().List()) {
    if (other->metadata.name_space != checkpoint.metadata.name_space ||
        other->spec.pod_ref != checkpoint.spec.pod_ref || other->spec.dry_run)
      continue;
    const bool waits = other->status.phase == crds::MigrationPhase::kPending;
    if (!waits && !crds::Ended(other->status.phase)) return other->metadata.name;
  }
  return "";
}

std::string OlderOf(Cluster& cluster, const crds::Checkpoint& checkpoint) {
  auto rank = [](const crds::Checkpoint& c) {
    return std::make_tuple(c.metadata.creation_timestamp.value_or(absl::InfiniteFuture()), c.metadata.uid);
  };
  for (const auto& other : cluster.checkpoints().List()) {
    if (other->metadata.name_space != checkpoint.metadata.name_space ||
        other->metadata.uid == checkpoint.metadata.uid)
      continue;
    if (other->spec.pod_ref != checkpoint.spec.pod_ref || crds::Ended(other->status.phase)) continue;
    if (other->status.phase == CheckpointPhase::kRunning || rank(*other) < rank(checkpoint))
      return other->metadata.name;
  }
  return "";
}

std::string RestoreOf(Cluster& cluster, const crds::Checkpoint& checkpoint) {
  for (const auto& restore : cluster.restores().List()) {
    if (restore->metadata.name_space == checkpoint.metadata.name_space &&
        restore->status.checkpoint_uid == checkpoint.metadata.uid &&
        restore->status.phase == crds::RestorePhase::kRestoring) {
      return restore->metadata.name;
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<CheckpointObserved> CheckpointReconciler::Observe(const crds::Checkpoint& checkpoint) const {
  CheckpointObserved seen{.checkpoint = checkpoint};
  const k8s::ObjectName pod{checkpoint.metadata.name_space, checkpoint.spec.pod_ref.name};
  if (checkpoint.status.phase == CheckpointPhase::kPending) {
    GODWIT_ASSIGN_OR_RETURN(seen.pod, cluster_->ReadPod(pod));
    seen.migration = MigrationOf(*cluster_, checkpoint);
    seen.older = OlderOf(*cluster_, checkpoint);
    if (!seen.pod || !WhyNotMovable(*seen.pod).empty()) return seen;
    seen.node = cluster_->View(seen.pod->view.spec.node_name, true);
    if (!seen.node.agent.ok() || !seen.older.empty()) return seen;
    const k8s::Pod& view = seen.pod->view;
    const std::optional<Turns::Turn> turn =
        cluster_->preflights().Take(checkpoint.metadata.uid, view.metadata.name_space, SteadyNow());
    seen.preflight_waits = !turn.has_value();
    if (!turn) return seen;
    seen.preflight = cluster_->AgentOn(seen.node)->Preflight(
        {.pod = NameOf(view.metadata), .containers = ContainersOf(view), .empty_dirs = EmptyDirsOf(view)});
    return seen;
  }
  seen.node = cluster_->View(checkpoint.status.node_name, false);
  seen.restore = RestoreOf(*cluster_, checkpoint);
  const bool asleep = crds::Ended(checkpoint.status.phase) && !checkpoint.metadata.terminating() &&
                      !k8s::FindCondition(checkpoint.status.conditions, crds::kCleanedUp);
  if (asleep) return seen;
  seen.side = AskSide<agent_api::CheckpointStatus>(cluster_->AgentOn(seen.node), [&](Agent& agent) {
    return agent.GetCheckpoint(checkpoint.metadata.uid);
  });
  if (checkpoint.status.phase == CheckpointPhase::kRunning) {
    GODWIT_ASSIGN_OR_RETURN(seen.pod, cluster_->ReadPod(pod));
    if (seen.pod) seen.manifest = PodManifest(*seen.pod).ToJson();
    seen.manifest_digest = Digest(seen.manifest);
  }
  return seen;
}

absl::Status CheckpointReconciler::Execute(const CheckpointObserved& seen, CheckpointStep step) const {
  const k8s::ObjectMeta& meta = seen.checkpoint.metadata;
  if (step == CheckpointStep::kNothing) return absl::OkStatus();
  if (step == CheckpointStep::kAddFinalizer) return SetFinalizer(cluster_->api(), seen.checkpoint, true);
  if (step == CheckpointStep::kRemoveFinalizer) return SetFinalizer(cluster_->api(), seen.checkpoint, false);
  const std::shared_ptr<Agent> agent = cluster_->AgentOn(seen.node);
  if (agent == nullptr) return absl::UnavailableError(absl::StrCat("no agent runs on node ", seen.node.name));
  if (step == CheckpointStep::kRemoveArchives) return agent->RemoveCheckpoint(meta.uid);
  const k8s::Pod& pod = seen.pod->view;
  GODWIT_ASSIGN_OR_RETURN(const absl::Duration limit, FreezeLimit(pod, settings_.freeze_cap));
  return agent
      ->PutCheckpoint(meta.uid, {.checkpoint = NameOf(meta),
                                 .pod = NameOf(pod.metadata),
                                 .containers = ContainersOf(pod),
                                 .empty_dirs = EmptyDirsOf(pod),
                                 .freeze_limit = limit,
                                 .pod_addresses = AddressesOf(pod),
                                 .pod_manifest = {seen.manifest}})
      .status();
}

absl::StatusOr<absl::Duration> CheckpointReconciler::Reconcile(const k8s::ObjectName& name) {
  auto checkpoint = k8s::Client<crds::Checkpoint>(cluster_->api()).Get(name.name_space, name.name);
  if (!checkpoint.ok() && k8s::IsNotFound(checkpoint.status())) return absl::InfiniteDuration();
  if (!checkpoint.ok()) return checkpoint.status();
  GODWIT_ASSIGN_OR_RETURN(const CheckpointObserved seen, Observe(*checkpoint));
  const CheckpointDecision decision = Decide(seen, settings_, clock_->Now());
  if (decision.status != seen.checkpoint.status) {
    GODWIT_RETURN_IF_ERROR(WriteStatus(seen, decision));
    return decision.step == CheckpointStep::kNothing ? decision.again : absl::ZeroDuration();
  }
  const absl::Status done = Execute(seen, decision.step);
  if (done.ok()) return decision.again;
  if (decision.step != CheckpointStep::kTake) return done;
  const CheckpointDecision refused = OnTakeRefused(seen, settings_, done, clock_->Now());
  GODWIT_RETURN_IF_ERROR(WriteStatus(seen, refused));
  return refused.again;
}

absl::Status CheckpointReconciler::WriteStatus(const CheckpointObserved& seen,
                                               const CheckpointDecision& decision) const {
  crds::Checkpoint after = seen.checkpoint;
  after.status = decision.status;
  const absl::Status written =
      k8s::Client<crds::Checkpoint>(cluster_->api()).PatchStatus(seen.checkpoint, after).status();
  if (k8s::IsNotFound(written)) return absl::OkStatus();  // it is gone for good
  GODWIT_RETURN_IF_ERROR(written);
  for (const Tell& tell : decision.tells) {
    const absl::string_view type = tell.warning ? k8s::kEventWarning : k8s::kEventNormal;
    events_->Record(seen.checkpoint, type, tell.reason, tell.message);
    if (seen.pod) {
      events_->Record(seen.pod->view, type, tell.reason,
                      absl::StrCat("Checkpoint ", after.metadata.name, ": ", tell.message));
    }
  }
  if (after.status.phase == seen.checkpoint.status.phase) return absl::OkStatus();
  LOG(INFO) << Log("phase")
                   .With("checkpoint", after.metadata.uid)
                   .With("object", after.metadata.object_name().ToString())
                   .With("phase", json::Name(after.status.phase));
  telemetry_->Changed(after.metadata,
                      {.kind = crds::Checkpoint::kResource.kind,
                       .from = json::Name(seen.checkpoint.status.phase),
                       .to = json::Name(after.status.phase),
                       .ended = crds::Ended(after.status.phase),
                       .succeeded = after.status.phase == CheckpointPhase::kReady,
                       .reason = CompleteReason(after.status.conditions)},
                      clock_->Now());
  return absl::OkStatus();
}

}  // namespace godwit::controller
