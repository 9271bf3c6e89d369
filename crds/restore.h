// SPDX-License-Identifier: Apache-2.0
// Restore: makes a new pod that goes on from the state that a Checkpoint holds.
#pragma once

#include "crds/common.h"

namespace godwit::crds {

struct RestoreSpec {
  NameReference checkpoint_ref;
  std::string pod_name;  // empty: made from the checkpointed pod's name
  Target target;         // empty: the node that holds the archives
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("checkpointRef", self.checkpoint_ref);
    field("podName", self.pod_name);
    field("target", self.target);
  }
  bool operator==(const RestoreSpec&) const = default;
};

enum class RestorePhase { kPending, kRestoring, kSucceeded, kFailed };
constexpr std::array<std::pair<RestorePhase, absl::string_view>, 4> JsonNames(RestorePhase) {
  return {{{RestorePhase::kPending, "Pending"},
           {RestorePhase::kRestoring, "Restoring"},
           {RestorePhase::kSucceeded, "Succeeded"},
           {RestorePhase::kFailed, "Failed"}}};
}

struct RestoreStatus {
  int64_t observed_generation = 0;
  RestorePhase phase = RestorePhase::kPending;
  std::vector<k8s::Condition> conditions;
  std::string checkpoint_uid;
  std::string pod_name;
  std::string pod_uid;
  std::string node_name;
  absl::Time start_time;
  absl::Time completion_time;
  absl::Duration total_duration;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("observedGeneration", self.observed_generation);
    field.Required("phase", self.phase);
    field("conditions", self.conditions);
    field("checkpointUID", self.checkpoint_uid);
    field("podName", self.pod_name);
    field("podUID", self.pod_uid);
    field("nodeName", self.node_name);
    field("startTime", self.start_time);
    field("completionTime", self.completion_time);
    field("totalDuration", self.total_duration);
  }
  bool operator==(const RestoreStatus&) const = default;
};

struct Restore {
  static constexpr k8s::Resource kResource{kGroup, kVersion, "restores", "Restore", true};
  static constexpr char kFinalizer[] = "godwit.io/restore";
  k8s::ObjectMeta metadata;
  RestoreSpec spec;
  RestoreStatus status;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field.Required("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const Restore&) const = default;
};

inline bool Ended(RestorePhase phase) {
  return phase == RestorePhase::kSucceeded || phase == RestorePhase::kFailed;
}

}  // namespace godwit::crds
