// SPDX-License-Identifier: Apache-2.0
#include "controller/migration/execute.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "controller/pods/eligibility.h"
#include "controller/pods/names.h"
#include "controller/pods/target_pod.h"
#include "controller/runtime/writes.h"

namespace godwit::controller {
namespace {

// The target never ran when it is deleted: nothing in it needs time to end.
constexpr int64_t kTargetGraceSeconds = 1;
// kubelet kills no process of a deleted pod before; the agents give up pulling far sooner.
constexpr int64_t kRetiredGraceSeconds = 3600;

struct Call {
  const Cluster& cluster;
  const MigrationSettings& settings;
  const MigrationObserved& seen;
  const MigrationDecision& decision;

  const std::string& uid() const { return seen.migration.metadata.uid; }
  absl::StatusOr<std::shared_ptr<Agent>> AgentOf(const NodeView& node) const {
    std::shared_ptr<Agent> agent = cluster.AgentOn(node);
    if (agent == nullptr) return absl::UnavailableError(absl::StrCat("no agent runs on node ", node.name));
    return agent;
  }
};

absl::Status CreateTargetPod(const Call& call) {
  return CreatePod(call.cluster.api(),
                   TargetPod(*call.seen.source, {.name = call.seen.migration.status.target_pod_name,
                                                 .node = call.seen.migration.status.target_node,
                                                 .owner_uid = call.uid()}));
}

absl::Status Permit(const Call& call) {
  GODWIT_ASSIGN_OR_RETURN(auto agent, call.AgentOf(call.seen.target_node));
  const crds::MigrationStatus& status = call.seen.migration.status;
  return agent
      ->PutTarget(call.uid(), {.migration = NameOf(call.seen.migration.metadata),
                               .pod = NameOf(call.seen.target->metadata),
                               .containers = ContainerNamesOf(*call.seen.target),
                               .source_node = status.source_node,
                               .expected_bytes = status.preflight.memory_bytes + status.preflight.file_bytes,
                               .create_limit = call.settings.create_limit})
      .status();
}

absl::Status StartSource(const Call& call) {
  const k8s::Pod& source = call.seen.source->view;
  GODWIT_ASSIGN_OR_RETURN(const absl::Duration limit, FreezeLimit(source, call.settings.freeze_cap));
  agent_api::SourceSpec spec{
      .migration = NameOf(call.seen.migration.metadata),
      .pod = NameOf(source.metadata),
      .target_pod = NameOf(call.seen.target->metadata),
      .containers = ContainersOf(source),
      .empty_dirs = EmptyDirsOf(source),
      .target_node = call.seen.target_node.name,
      .target_address = HostPort(call.seen.target_node.address, call.settings.stream_port),
      .freeze_limit = limit,
      .pod_addresses = AddressesOf(source)};
  if (SourceWorksFirst(call.seen.migration.status)) {
    spec.mode = call.seen.migration.spec.strategy == crds::Strategy::kPostCopy
                    ? agent_api::CopyMode::kPostCopy
                    : agent_api::CopyMode::kPreCopy;
    GODWIT_ASSIGN_OR_RETURN(spec.limits, LimitsOf(call.seen.migration.spec));
  }
  GODWIT_ASSIGN_OR_RETURN(auto agent, call.AgentOf(call.seen.source_node));
  return agent->PutSource(call.uid(), spec).status();
}

absl::Status SetLimits(const Call& call) {
  GODWIT_ASSIGN_OR_RETURN(const agent_api::PreCopyLimits limits, LimitsOf(call.seen.migration.spec));
  GODWIT_ASSIGN_OR_RETURN(auto agent, call.AgentOf(call.seen.source_node));
  return agent->SetSourceLimits(call.uid(), limits);
}

absl::Status HandOverPod(const Call& call) {
  const k8s::ObjectMeta& target = call.seen.target->metadata;
  const bool there =
      call.seen.source && call.seen.source->view.metadata.uid == call.seen.migration.status.source_pod_uid;
  const HandOver hand_over = there ? HandOverOf(call.seen.source->view.metadata) : HandOverFromTarget(target);
  return k8s::Client<k8s::Pod>(call.cluster.api())
      .MergePatch(target.name_space, target.name, HandOverPatch(target, hand_over))
      .status();
}

}  // namespace

absl::Status Execute(const Cluster& cluster, const MigrationSettings& settings, const MigrationObserved& seen,
                     const MigrationDecision& decision) {
  const Call call{cluster, settings, seen, decision};
  const k8s::Api& api = cluster.api();
  const std::string& uid = call.uid();
  auto source = [&] { return call.AgentOf(seen.source_node); };
  auto target = [&] { return call.AgentOf(seen.target_node); };
  switch (decision.step) {
    case MigrationStep::kNothing: return absl::OkStatus();
    case MigrationStep::kAddFinalizer: return SetFinalizer(api, seen.migration, true);
    case MigrationStep::kRemoveFinalizer: return SetFinalizer(api, seen.migration, false);
    case MigrationStep::kCreateTargetPod: return CreateTargetPod(call);
    case MigrationStep::kPermit: return Permit(call);
    case MigrationStep::kOpenGate: return OpenPermitGate(api, *seen.target);
    case MigrationStep::kStartSource: return StartSource(call);
    case MigrationStep::kSetLimits: return SetLimits(call);
    case MigrationStep::kSwitchSource: {
      GODWIT_ASSIGN_OR_RETURN(auto agent, source());
      return agent->SwitchSource(uid);
    }
    case MigrationStep::kMarkCommitted: return MarkCommitted(api, *seen.target, absl::Now());
    case MigrationStep::kLowerDeletionCost:
      return AnnotatePod(api, seen.source->view.metadata, kDeletionCost, kLowestDeletionCost);
    case MigrationStep::kHandOver: return HandOverPod(call);
    case MigrationStep::kRetireSourcePod:
      return DeletePod(api, seen.source->view.metadata, kRetiredGraceSeconds);
    case MigrationStep::kDeleteSourcePod: return DeletePod(api, seen.source->view.metadata, -1);
    case MigrationStep::kRemoveTargetPod: return DeletePod(api, seen.target->metadata, 0);
    case MigrationStep::kRemoveSourcePod: return DeletePod(api, seen.source->view.metadata, 0);
    case MigrationStep::kDeleteTargetPod: return DeletePod(api, seen.target->metadata, kTargetGraceSeconds);
    case MigrationStep::kAbortSource: {
      GODWIT_ASSIGN_OR_RETURN(auto agent, source());
      return agent->AbortSource(uid, decision.why);
    }
    case MigrationStep::kAbortTarget: {
      GODWIT_ASSIGN_OR_RETURN(auto agent, target());
      return agent->AbortTarget(uid, decision.why);
    }
    case MigrationStep::kFinishSource:
    case MigrationStep::kAbandonSource: {
      GODWIT_ASSIGN_OR_RETURN(auto agent, source());
      return agent->FinishSource(uid, {.abandon = decision.step == MigrationStep::kAbandonSource,
                                       .unconfirmed = decision.unconfirmed});
    }
    case MigrationStep::kReclaimSource: {
      GODWIT_ASSIGN_OR_RETURN(auto agent, source());
      return agent->ReclaimSource(uid, decision.why);
    }
    case MigrationStep::kTakeOver: {
      GODWIT_ASSIGN_OR_RETURN(auto agent, target());
      return agent->TakeOver(uid);
    }
    case MigrationStep::kForgetSource: {
      GODWIT_ASSIGN_OR_RETURN(auto agent, source());
      return agent->ForgetSource(uid);
    }
    case MigrationStep::kForgetTarget: {
      GODWIT_ASSIGN_OR_RETURN(auto agent, target());
      return agent->ForgetTarget(uid);
    }
  }
  return absl::OkStatus();
}

}  // namespace godwit::controller
