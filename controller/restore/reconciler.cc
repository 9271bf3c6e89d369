// SPDX-License-Identifier: Apache-2.0
#include "controller/restore/reconciler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "controller/pods/manifest.h"
#include "controller/pods/names.h"
#include "controller/pods/target_pod.h"
#include "controller/runtime/writes.h"
#include "k8s/error.h"

namespace godwit::controller {

using crds::RestorePhase;

static constexpr absl::Duration kStartPatience = absl::Seconds(3);  // so long a start is ordinary

void RestoreReconciler::ObserveManifest(RestoreObserved& seen) const {
  const std::shared_ptr<Agent> agent = cluster_->AgentOn(seen.archive_node);
  if (agent == nullptr) {
    seen.manifest = absl::UnavailableError("no agent runs on the node that holds the archives");
    return;
  }
  const absl::StatusOr<std::string> text = agent->GetManifest(seen.checkpoint->metadata.uid);
  if (!text.ok()) {
    seen.manifest = text.status();
    return;
  }
  seen.manifest = CheckedManifest(*text, seen.checkpoint->status.manifest_digest);
}

int RestoreReconciler::RestoresInWork(const crds::Restore& restore) const {
  const auto all = cluster_->restores().List();
  return static_cast<int>(std::count_if(all.begin(), all.end(), [&restore](const auto& other) {
    return other->metadata.name_space == restore.metadata.name_space &&
           other->metadata.uid != restore.metadata.uid && other->status.phase == RestorePhase::kRestoring;
  }));
}

void RestoreReconciler::ObservePending(RestoreObserved& seen) const {
  const crds::Restore& restore = seen.restore;
  seen.restores_in_work = RestoresInWork(restore);
  if (!seen.checkpoint || seen.checkpoint->status.phase != crds::CheckpointPhase::kReady) return;
  seen.archive_node = cluster_->View(seen.checkpoint->status.node_name, true);
  if (!restore.spec.target.node_selector.empty()) {
    seen.selector = k8s::LabelSelector{.match_labels = restore.spec.target.node_selector}.ToString();
    seen.candidates = cluster_->Views(cluster_->NodesWith(restore.spec.target.node_selector));
  } else if (const std::string& node = restore.spec.target.node_name;
             !node.empty() && node != seen.archive_node.name) {
    seen.target_node = cluster_->View(node, true);
  } else {
    seen.target_node = seen.archive_node;
  }
  ObserveManifest(seen);
  seen.pod_name = restore.spec.pod_name;
  if (seen.pod_name.empty() && seen.manifest.ok())
    seen.pod_name = MovedPodName(seen.manifest->Meta(), restore.metadata.uid);
}

absl::StatusOr<RestoreObserved> RestoreReconciler::Observe(const crds::Restore& restore) const {
  RestoreObserved seen{.restore = restore};
  const bool clean = k8s::IsConditionTrue(restore.status.conditions, crds::kCleanedUp);
  if (crds::Ended(restore.status.phase) && clean) return seen;
  auto checkpoint = k8s::Client<crds::Checkpoint>(cluster_->api())
                        .Get(restore.metadata.name_space, restore.spec.checkpoint_ref.name);
  if (!checkpoint.ok() && !k8s::IsNotFound(checkpoint.status())) return checkpoint.status();
  if (checkpoint.ok()) seen.checkpoint = *std::move(checkpoint);
  if (restore.status.phase == RestorePhase::kPending) {
    ObservePending(seen);
  } else {
    seen.pod_name = restore.status.pod_name;
    seen.target_node = cluster_->View(restore.status.node_name, false);
    seen.side = AskSide<agent_api::TargetStatus>(cluster_->AgentOn(seen.target_node), [&](Agent& agent) {
      return agent.GetRestore(restore.metadata.uid);
    });
  }
  if (!seen.pod_name.empty()) {
    // Live: whether the pod is there decides about creating it.
    GODWIT_ASSIGN_OR_RETURN(auto pod, cluster_->ReadPod({restore.metadata.name_space, seen.pod_name}));
    if (pod) seen.pod = std::move(pod->view);
  }
  if (restore.status.phase == RestorePhase::kRestoring && seen.pod && seen.pod->metadata.creation_timestamp &&
      clock_->Now() - *seen.pod->metadata.creation_timestamp > kStartPatience) {
    seen.warning = cluster_->LastWarning(seen.pod->metadata);
  }
  if (restore.status.phase == RestorePhase::kRestoring && seen.checkpoint) {
    seen.archive_node = cluster_->View(seen.checkpoint->status.node_name, false);
    if (!seen.pod && restore.status.pod_uid.empty()) ObserveManifest(seen);
  }
  return seen;
}

absl::Status RestoreReconciler::Permit(const RestoreObserved& seen, Agent& agent) const {
  const crds::Checkpoint& from = *seen.checkpoint;
  agent_api::RestoreSpec spec{.restore = NameOf(seen.restore.metadata),
                              .pod = NameOf(seen.pod->metadata),
                              .checkpoint_uid = from.metadata.uid,
                              .archive_node = from.status.node_name,
                              .create_limit = settings_.create_limit};
  if (!seen.archive_node.address.empty())
    spec.archive_address = HostPort(seen.archive_node.address, settings_.stream_port);
  for (const crds::Archive& archive : from.status.archives) {
    spec.archives.push_back({archive.container, archive.path, archive.size, archive.digest});
  }
  return agent.PutRestore(seen.restore.metadata.uid, spec).status();
}

absl::Status RestoreReconciler::Execute(const RestoreObserved& seen, const RestoreDecision& decision) const {
  const k8s::Api& api = cluster_->api();
  const k8s::ObjectMeta& meta = seen.restore.metadata;
  switch (decision.step) {
    case RestoreStep::kNothing: return absl::OkStatus();
    case RestoreStep::kAddFinalizer: return SetFinalizer(api, seen.restore, true);
    case RestoreStep::kRemoveFinalizer: return SetFinalizer(api, seen.restore, false);
    case RestoreStep::kCreatePod: {
      GODWIT_ASSIGN_OR_RETURN(const k8s::Unstructured pod, RestoredPod(*seen.manifest, meta.name_space,
                                                                       {.name = seen.restore.status.pod_name,
                                                                        .node = seen.restore.status.node_name,
                                                                        .owner_uid = meta.uid}));
      return CreatePod(api, pod);
    }
    case RestoreStep::kMarkCommitted: return MarkCommitted(api, *seen.pod, absl::Now());
    case RestoreStep::kOpenGate: return OpenPermitGate(api, *seen.pod);
    case RestoreStep::kDeletePod: return DeletePod(api, seen.pod->metadata, 1);
    case RestoreStep::kPermit:
    case RestoreStep::kAbort:
    case RestoreStep::kForget: break;
  }
  const std::shared_ptr<Agent> agent = cluster_->AgentOn(seen.target_node);
  if (agent == nullptr)
    return absl::UnavailableError(absl::StrCat("no agent runs on node ", seen.target_node.name));
  if (decision.step == RestoreStep::kPermit) return Permit(seen, *agent);
  if (decision.step == RestoreStep::kForget) return agent->ForgetRestore(meta.uid);
  const k8s::Condition* why = k8s::FindCondition(seen.restore.status.conditions, crds::kComplete);
  return agent->AbortRestore(meta.uid, {.reason = why == nullptr ? "Failed" : why->reason,
                                        .message = why == nullptr ? "" : why->message});
}

absl::StatusOr<absl::Duration> RestoreReconciler::Reconcile(const k8s::ObjectName& name) {
  auto restore = k8s::Client<crds::Restore>(cluster_->api()).Get(name.name_space, name.name);
  if (!restore.ok() && k8s::IsNotFound(restore.status())) return absl::InfiniteDuration();
  if (!restore.ok()) return restore.status();
  GODWIT_ASSIGN_OR_RETURN(const RestoreObserved seen, Observe(*restore));
  const RestoreDecision decision = Decide(seen, settings_, clock_->Now());
  if (decision.status != seen.restore.status) {
    GODWIT_RETURN_IF_ERROR(WriteStatus(seen, decision));
    return decision.step == RestoreStep::kNothing ? decision.again : absl::ZeroDuration();
  }
  const absl::Status done = Execute(seen, decision);
  if (done.ok()) return decision.again;
  const RestoreDecision refused = OnRefused(seen, settings_, decision.step, done, clock_->Now());
  if (refused.status == seen.restore.status) return done;
  GODWIT_RETURN_IF_ERROR(WriteStatus(seen, refused));
  return refused.again;
}

absl::Status RestoreReconciler::WriteStatus(const RestoreObserved& seen,
                                            const RestoreDecision& decision) const {
  crds::Restore after = seen.restore;
  after.status = decision.status;
  const absl::Status written =
      k8s::Client<crds::Restore>(cluster_->api()).PatchStatus(seen.restore, after).status();
  if (k8s::IsNotFound(written)) return absl::OkStatus();  // it is gone for good
  GODWIT_RETURN_IF_ERROR(written);
  for (const Tell& tell : decision.tells) {
    const absl::string_view type = tell.warning ? k8s::kEventWarning : k8s::kEventNormal;
    events_->Record(seen.restore, type, tell.reason, tell.message);
    if (seen.pod && MadeBy(after.metadata, seen.pod->metadata)) {
      events_->Record(*seen.pod, type, tell.reason,
                      absl::StrCat("Restore ", after.metadata.name, ": ", tell.message));
    }
  }
  if (after.status.phase == seen.restore.status.phase) return absl::OkStatus();
  LOG(INFO) << Log("phase")
                   .With("restore", after.metadata.uid)
                   .With("object", after.metadata.object_name().ToString())
                   .With("phase", json::Name(after.status.phase));
  telemetry_->Changed(after.metadata,
                      {.kind = crds::Restore::kResource.kind,
                       .from = json::Name(seen.restore.status.phase),
                       .to = json::Name(after.status.phase),
                       .ended = crds::Ended(after.status.phase),
                       .succeeded = after.status.phase == RestorePhase::kSucceeded,
                       .reason = CompleteReason(after.status.conditions)},
                      clock_->Now());
  return absl::OkStatus();
}

}  // namespace godwit::controller
