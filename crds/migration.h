// SPDX-License-Identifier: Apache-2.0
// Migration: moves a running pod to another node.
#pragma once

#include "crds/common.h"

namespace godwit::crds {

enum class Strategy { kStopAndCopy };
constexpr std::array<std::pair<Strategy, absl::string_view>, 1> JsonNames(Strategy) {
  return {{{Strategy::kStopAndCopy, "StopAndCopy"}}};
}

struct MigrationSpec {
  NameReference pod_ref;
  Target target;
  Strategy strategy = Strategy::kStopAndCopy;
  absl::Duration timeout = absl::Minutes(10);
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("podRef", self.pod_ref);
    field.Required("target", self.target);
    field.Required("strategy", self.strategy);
    field("timeout", self.timeout);
  }
  bool operator==(const MigrationSpec&) const = default;
};

// Switching is the time from the order to freeze to the decision; after it there is no way back.
enum class MigrationPhase { kPending, kPreflight, kPreparing, kSwitching, kFinishing, kSucceeded, kFailed };
constexpr std::array<std::pair<MigrationPhase, absl::string_view>, 7> JsonNames(MigrationPhase) {
  return {{{MigrationPhase::kPending, "Pending"},
           {MigrationPhase::kPreflight, "Preflight"},
           {MigrationPhase::kPreparing, "Preparing"},
           {MigrationPhase::kSwitching, "Switching"},
           {MigrationPhase::kFinishing, "Finishing"},
           {MigrationPhase::kSucceeded, "Succeeded"},
           {MigrationPhase::kFailed, "Failed"}}};
}

// Condition types of a Migration, beside those of common.h.
inline constexpr char kPreflightPassed[] = "PreflightPassed";
inline constexpr char kTargetReady[] = "TargetReady";      // the target pod waits for the state
inline constexpr char kSwitched[] = "Switched";            // the processes run on the target
inline constexpr char kHandedOver[] = "HandedOver";        // labels and owner are the target's
inline constexpr char kSourceRemoved[] = "SourceRemoved";  // the source pod is gone

struct PreflightSummary {
  int64_t memory_bytes = 0;
  int64_t file_bytes = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("memoryBytes", self.memory_bytes);
    field("fileBytes", self.file_bytes);
  }
  bool operator==(const PreflightSummary&) const = default;
};

struct Transfer {
  int64_t memory_bytes = 0;
  int64_t file_bytes = 0;
  int64_t wire_bytes = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("memoryBytes", self.memory_bytes);
    field("fileBytes", self.file_bytes);
    field("wireBytes", self.wire_bytes);
  }
  bool operator==(const Transfer&) const = default;
};

struct MigrationStatus {
  int64_t observed_generation = 0;
  MigrationPhase phase = MigrationPhase::kPending;
  std::vector<k8s::Condition> conditions;
  std::string source_node;
  std::string target_node;
  std::string source_pod_uid;
  std::string target_pod_name;
  std::string target_pod_uid;
  absl::Time start_time;
  absl::Time completion_time;
  absl::Duration total_duration;
  PreflightSummary preflight;
  Freeze freeze;
  Transfer transfer;
  std::vector<Finding> findings;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("observedGeneration", self.observed_generation);
    field.Required("phase", self.phase);
    field("conditions", self.conditions);
    field("sourceNode", self.source_node);
    field("targetNode", self.target_node);
    field("sourcePodUID", self.source_pod_uid);
    field("targetPodName", self.target_pod_name);
    field("targetPodUID", self.target_pod_uid);
    field("startTime", self.start_time);
    field("completionTime", self.completion_time);
    field("totalDuration", self.total_duration);
    field("preflight", self.preflight);
    field("freeze", self.freeze);
    field("transfer", self.transfer);
    field("findings", self.findings);
  }
  bool operator==(const MigrationStatus&) const = default;
};

struct Migration {
  static constexpr k8s::Resource kResource{kGroup, kVersion, "migrations", "Migration", true};
  static constexpr char kFinalizer[] = "godwit.io/migration";
  k8s::ObjectMeta metadata;
  MigrationSpec spec;
  MigrationStatus status;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field.Required("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const Migration&) const = default;
};

inline bool Ended(MigrationPhase phase) {
  return phase == MigrationPhase::kSucceeded || phase == MigrationPhase::kFailed;
}

}  // namespace godwit::crds
