// SPDX-License-Identifier: Apache-2.0
// apps/v1: owners of pods, as far as a controller beside theirs looks at them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "k8s/core.h"
#include "k8s/meta.h"
#include "k8s/pod.h"
#include "k8s/resource.h"

namespace godwit::k8s {

struct PodTemplateSpec {
  ObjectMeta metadata;
  PodSpec spec;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("spec", self.spec);
  }
  bool operator==(const PodTemplateSpec&) const = default;
};

struct ReplicaSetSpec {
  std::optional<int32_t> replicas;
  LabelSelector selector;
  PodTemplateSpec pod_template;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("replicas", self.replicas);
    field("selector", self.selector);
    field("template", self.pod_template);
  }
  bool operator==(const ReplicaSetSpec&) const = default;
};

struct ReplicaSetStatus {
  int32_t replicas = 0;
  int32_t ready_replicas = 0;
  int32_t available_replicas = 0;
  int64_t observed_generation = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("replicas", self.replicas);
    field("readyReplicas", self.ready_replicas);
    field("availableReplicas", self.available_replicas);
    field("observedGeneration", self.observed_generation);
  }
  bool operator==(const ReplicaSetStatus&) const = default;
};

struct ReplicaSet {
  static constexpr Resource kResource{"apps", "v1", "replicasets", "ReplicaSet"};
  ObjectMeta metadata;
  ReplicaSetSpec spec;
  ReplicaSetStatus status;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const ReplicaSet&) const = default;
};

struct DeploymentSpec {
  std::optional<int32_t> replicas;
  LabelSelector selector;
  PodTemplateSpec pod_template;
  bool paused = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("replicas", self.replicas);
    field("selector", self.selector);
    field("template", self.pod_template);
    field("paused", self.paused);
  }
  bool operator==(const DeploymentSpec&) const = default;
};

struct DeploymentStatus {
  int32_t replicas = 0;
  int32_t updated_replicas = 0;
  int32_t ready_replicas = 0;
  int32_t available_replicas = 0;
  int64_t observed_generation = 0;
  std::vector<StatusCondition> conditions;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("replicas", self.replicas);
    field("updatedReplicas", self.updated_replicas);
    field("readyReplicas", self.ready_replicas);
    field("availableReplicas", self.available_replicas);
    field("observedGeneration", self.observed_generation);
    field("conditions", self.conditions);
  }
  bool operator==(const DeploymentStatus&) const = default;
};

struct Deployment {
  static constexpr Resource kResource{"apps", "v1", "deployments", "Deployment"};
  ObjectMeta metadata;
  DeploymentSpec spec;
  DeploymentStatus status;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const Deployment&) const = default;
};

}  // namespace godwit::k8s
