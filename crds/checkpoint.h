// SPDX-License-Identifier: Apache-2.0
// Checkpoint: keeps the state of a running pod in archives on its node.
#pragma once

#include "crds/common.h"

namespace godwit::crds {

struct CheckpointSpec {
  NameReference pod_ref;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("podRef", self.pod_ref);
  }
  bool operator==(const CheckpointSpec&) const = default;
};

enum class CheckpointPhase { kPending, kRunning, kReady, kFailed };
constexpr std::array<std::pair<CheckpointPhase, absl::string_view>, 4> JsonNames(CheckpointPhase) {
  return {{{CheckpointPhase::kPending, "Pending"},
           {CheckpointPhase::kRunning, "Running"},
           {CheckpointPhase::kReady, "Ready"},
           {CheckpointPhase::kFailed, "Failed"}}};
}

struct Archive {
  std::string container;
  std::string path;    // on the node
  int64_t size = 0;    // bytes
  std::string digest;  // "sha256:<hex>" of the file
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("container", self.container);
    field.Required("path", self.path);
    field.Required("size", self.size);
    field.Required("digest", self.digest);
  }
  bool operator==(const Archive&) const = default;
};

struct CheckpointStatus {
  int64_t observed_generation = 0;
  CheckpointPhase phase = CheckpointPhase::kPending;
  std::vector<k8s::Condition> conditions;
  std::string node_name;
  std::string pod_uid;
  absl::Time start_time;
  absl::Time completion_time;
  absl::Duration total_duration;
  std::string criu_version;
  int64_t memory_bytes = 0;
  Freeze freeze;
  std::vector<Archive> archives;
  std::string manifest_digest;  // "sha256:<hex>" of the pod's manifest, which the archives hold
  std::vector<Finding> findings;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("observedGeneration", self.observed_generation);
    field.Required("phase", self.phase);
    field("conditions", self.conditions);
    field("nodeName", self.node_name);
    field("podUID", self.pod_uid);
    field("startTime", self.start_time);
    field("completionTime", self.completion_time);
    field("totalDuration", self.total_duration);
    field("criuVersion", self.criu_version);
    field("memoryBytes", self.memory_bytes);
    field("freeze", self.freeze);
    field("archives", self.archives);
    field("manifestDigest", self.manifest_digest);
    field("findings", self.findings);
  }
  bool operator==(const CheckpointStatus&) const = default;
};

struct Checkpoint {
  static constexpr k8s::Resource kResource{kGroup, kVersion, "checkpoints", "Checkpoint", true};
  static constexpr char kFinalizer[] = "godwit.io/checkpoint";
  k8s::ObjectMeta metadata;
  CheckpointSpec spec;
  CheckpointStatus status;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field.Required("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const Checkpoint&) const = default;
};

inline bool Ended(CheckpointPhase phase) {
  return phase == CheckpointPhase::kReady || phase == CheckpointPhase::kFailed;
}

}  // namespace godwit::crds
