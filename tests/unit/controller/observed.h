// SPDX-License-Identifier: Apache-2.0
// What a look at a Migration finds when all is well, for each phase; tests spoil one thing at a time.
#pragma once

#include <algorithm>
#include <string>

#include "controller/migration/decision.h"
#include "controller/pods/names.h"
#include "controller/pods/target_pod.h"
#include "crds/migration.h"
#include "tests/unit/controller/pods.h"

namespace godwit::controller {

inline constexpr char kMigrationUid[] = "0f0e0d0c-0000-4000-8000-00000000abcd";
inline const absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);
inline const absl::Time kNow = kStart + absl::Seconds(3);

inline NodeView GoodNode(const std::string& name) {
  NodeView node{.name = name,
                .exists = true,
                .ready = true,
                .schedulable = true,
                .architecture = "amd64",
                .agent_runs = true,
                .address = name == "node-a" ? "10.0.0.1" : "10.0.0.2"};
  node.agent = agent_api::NodeInfo{.node = name,
                                   .version = "0",
                                   .architecture = "amd64",
                                   .kernel = "6.12",
                                   .criu_version = "4.2.1",
                                   .runtime_ready = true,
                                   .memory_available = int64_t{4} << 30,
                                   .storage_available = int64_t{9} << 30};
  return node;
}

inline k8s::Pod GoodTarget(const WholePod& source) {
  k8s::Pod pod = *TargetPod(source, {.name = MovedPodName(source.view.metadata, kMigrationUid),
                                     .node = "node-b",
                                     .owner_uid = kMigrationUid})
                      .As<k8s::Pod>();
  pod.metadata.uid = "target-uid";
  pod.metadata.resource_version = "50";
  pod.status.phase = "Pending";
  return pod;
}

// A source that copies as it was told, two rounds done.
inline agent_api::SourceStatus CopyingSource(const crds::MigrationSpec& spec) {
  return {.state = agent_api::SourceState::kOpen,
          .limits = *LimitsOf(spec),
          .pre_copy = {.rounds = 2,
                       .memory_bytes = int64_t{512} << 20,
                       .dirty_bytes = int64_t{30} << 20,
                       .dirty_rate = int64_t{10} << 20,
                       .throughput = int64_t{100} << 20,
                       .sent_bytes = int64_t{600} << 20,
                       .predicted_freeze = absl::Milliseconds(340)}};
}

// A Migration in `phase`, with everything before it done. With strategy Auto or PreCopy its way went through
// Copying.
inline MigrationObserved GoodObserved(crds::MigrationPhase phase,
                                      crds::Strategy strategy = crds::Strategy::kStopAndCopy) {
  using crds::MigrationPhase;
  MigrationObserved seen;
  crds::Migration& m = seen.migration;
  m.metadata = {.name = "move",
                .name_space = "shop",
                .uid = kMigrationUid,
                .resource_version = "7",
                .generation = 1,
                .creation_timestamp = kStart,
                .finalizers = {crds::Migration::kFinalizer}};
  m.spec = {.pod_ref = {"cache-0"}, .target = {.node_name = "node-b"}, .strategy = strategy};
  m.status.observed_generation = 1;
  m.status.phase = phase;
  seen.source = PodWith();
  seen.source_node = GoodNode("node-a");
  seen.target_node = GoodNode("node-b");
  if (phase == MigrationPhase::kPending) return seen;
  m.status.start_time = kStart;
  m.status.source_node = "node-a";
  m.status.target_node = "node-b";
  m.status.source_pod_uid = seen.source->view.metadata.uid;
  m.status.target_pod_name = MovedPodName(seen.source->view.metadata, kMigrationUid);
  k8s::SetCondition(
      m.status.conditions,
      {.type = crds::kComplete, .status = "Unknown", .observed_generation = 1, .reason = "x", .message = "x"},
      kStart);
  if (phase == MigrationPhase::kPreflight) {
    seen.preflight =
        agent_api::PreflightReport{.memory_bytes = int64_t{512} << 20, .file_bytes = int64_t{1} << 20};
    return seen;
  }
  m.status.strategy = strategy;
  if (strategy != crds::Strategy::kStopAndCopy) {
    m.status.strategy = strategy == crds::Strategy::kAuto ? crds::Strategy::kPreCopy : strategy;
    k8s::SetCondition(m.status.conditions,
                      {.type = crds::kConverged,
                       .status = "Unknown",
                       .observed_generation = 1,
                       .reason = "Copying",
                       .message = "x"},
                      kStart);
    seen.source_side = CopyingSource(m.spec);
  }
  m.status.preflight = {.memory_bytes = int64_t{512} << 20, .file_bytes = int64_t{1} << 20};
  seen.target = GoodTarget(*seen.source);
  m.status.target_pod_uid = seen.target->metadata.uid;
  if (phase == MigrationPhase::kCopying) {
    seen.target_side = agent_api::TargetStatus{.state = agent_api::TargetState::kOpen};
    return seen;
  }
  seen.target->spec.scheduling_gates.clear();
  seen.target_side = agent_api::TargetStatus{.state = agent_api::TargetState::kOpen, .waiting = {"app"}};
  if (phase == MigrationPhase::kPreparing || phase == MigrationPhase::kSwitching) return seen;
  m.status.freeze = {.duration = absl::Milliseconds(400), .frozen_at = kStart + absl::Seconds(2)};
  seen.source_side = agent_api::SourceStatus{.state = agent_api::SourceState::kCeded,
                                             .target_running = true,
                                             .frozen_at = kStart + absl::Seconds(2),
                                             .freeze = absl::Milliseconds(400)};
  seen.target_side = agent_api::TargetStatus{.state = agent_api::TargetState::kRunning};
  seen.target->status.phase = "Running";
  seen.target->status.conditions = {{.type = "Ready", .status = "True"},
                                    {.type = kCommittedCondition, .status = "True"}};
  return seen;
}

inline std::string ReasonOf(const MigrationDecision& decision) {
  const k8s::Condition* complete = k8s::FindCondition(decision.status.conditions, crds::kComplete);
  return complete == nullptr ? "" : complete->reason;
}
inline std::string MessageOf(const MigrationDecision& decision) {
  const k8s::Condition* complete = k8s::FindCondition(decision.status.conditions, crds::kComplete);
  return complete == nullptr ? "" : complete->message;
}
inline const k8s::Condition* Find(const MigrationDecision& decision, const char* type) {
  return k8s::FindCondition(decision.status.conditions, type);
}
// By an Event.
inline bool Tells(const MigrationDecision& decision, absl::string_view reason) {
  return std::any_of(decision.tells.begin(), decision.tells.end(),
                     [reason](const Tell& tell) { return tell.reason == reason; });
}
inline bool Failing(const MigrationDecision& decision) {
  const k8s::Condition* complete = k8s::FindCondition(decision.status.conditions, crds::kComplete);
  return complete != nullptr && complete->status == "False";
}
// The Migration as it is when the decision's status has been written.
inline MigrationObserved After(MigrationObserved seen, const MigrationDecision& decision) {
  seen.migration.status = decision.status;
  return seen;
}

}  // namespace godwit::controller
