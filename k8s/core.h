// SPDX-License-Identifier: Apache-2.0
// core/v1 (and coordination, authentication): the fields that a controller reads. These structs are views:
// what they do not name is lost when one is written back, so objects of others are changed by patches, and
// copied as Unstructured.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "k8s/meta.h"
#include "k8s/resource.h"

namespace godwit::k8s {

struct ConfigMap {
  static constexpr Resource kResource{"", "v1", "configmaps", "ConfigMap"};
  ObjectMeta metadata;
  std::map<std::string, std::string> data;
  std::map<std::string, Bytes> binary_data;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("data", self.data);
    field("binaryData", self.binary_data);
  }
  bool operator==(const ConfigMap&) const = default;
};

struct Secret {
  static constexpr Resource kResource{"", "v1", "secrets", "Secret"};
  ObjectMeta metadata;
  std::string type;  // "Opaque", "kubernetes.io/tls"
  std::map<std::string, Bytes> data;
  std::optional<bool> immutable;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("type", self.type);
    field("data", self.data);
    field("immutable", self.immutable);
  }
  bool operator==(const Secret&) const = default;
};

struct Taint {
  std::string key;
  std::string value;
  std::string effect;  // NoSchedule, PreferNoSchedule, NoExecute
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("key", self.key);
    field("value", self.value);
    field("effect", self.effect);
  }
  bool operator==(const Taint&) const = default;
};

// Conditions of nodes, pods, deployments: looser than metav1's, reason and message may be absent.
struct StatusCondition {
  std::string type;
  std::string status;
  std::string reason;
  std::string message;
  std::optional<absl::Time> last_transition_time;
  int64_t observed_generation = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("type", self.type);
    field("status", self.status);
    field("reason", self.reason);
    field("message", self.message);
    field("lastTransitionTime", self.last_transition_time);
    field("observedGeneration", self.observed_generation);
  }
  bool operator==(const StatusCondition&) const = default;
};

// The condition of that type, or null.
const StatusCondition* FindCondition(const std::vector<StatusCondition>& conditions, absl::string_view type);
bool IsConditionTrue(const std::vector<StatusCondition>& conditions, absl::string_view type);

struct NodeSpec {
  bool unschedulable = false;
  std::vector<Taint> taints;
  std::string pod_cidr;
  std::string provider_id;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("unschedulable", self.unschedulable);
    field("taints", self.taints);
    field("podCIDR", self.pod_cidr);
    field("providerID", self.provider_id);
  }
  bool operator==(const NodeSpec&) const = default;
};

struct NodeAddress {
  std::string type;  // InternalIP, Hostname, ...
  std::string address;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("type", self.type);
    field("address", self.address);
  }
  bool operator==(const NodeAddress&) const = default;
};

struct NodeSystemInfo {
  std::string architecture;  // amd64, arm64
  std::string operating_system;
  std::string os_image;
  std::string kernel_version;
  std::string kubelet_version;
  std::string container_runtime_version;  // "containerd://2.3.7"
  std::string boot_id;
  std::string machine_id;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("architecture", self.architecture);
    field("operatingSystem", self.operating_system);
    field("osImage", self.os_image);
    field("kernelVersion", self.kernel_version);
    field("kubeletVersion", self.kubelet_version);
    field("containerRuntimeVersion", self.container_runtime_version);
    field("bootID", self.boot_id);
    field("machineID", self.machine_id);
  }
  bool operator==(const NodeSystemInfo&) const = default;
};

struct NodeRuntimeHandler {
  std::string name;  // "": the default handler
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("name", self.name);
  }
  bool operator==(const NodeRuntimeHandler&) const = default;
};

struct NodeStatus {
  std::map<std::string, std::string> capacity;  // quantities: k8s/quantity.h
  std::map<std::string, std::string> allocatable;
  std::vector<StatusCondition> conditions;
  std::vector<NodeAddress> addresses;
  NodeSystemInfo node_info;
  std::vector<NodeRuntimeHandler> runtime_handlers;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("capacity", self.capacity);
    field("allocatable", self.allocatable);
    field("conditions", self.conditions);
    field("addresses", self.addresses);
    field("nodeInfo", self.node_info);
    field("runtimeHandlers", self.runtime_handlers);
  }
  bool operator==(const NodeStatus&) const = default;
};

struct Node {
  static constexpr Resource kResource{"", "v1", "nodes", "Node", /*namespaced=*/false};
  ObjectMeta metadata;
  NodeSpec spec;
  NodeStatus status;

  bool ready() const { return IsConditionTrue(status.conditions, "Ready"); }
  std::string Address(absl::string_view type) const;  // "" when there is none
  bool HasRuntimeHandler(absl::string_view name) const;

  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const Node&) const = default;
};

struct Namespace {
  static constexpr Resource kResource{"", "v1", "namespaces", "Namespace", /*namespaced=*/false};
  ObjectMeta metadata;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
  }
  bool operator==(const Namespace&) const = default;
};

struct ServiceAccount {
  static constexpr Resource kResource{"", "v1", "serviceaccounts", "ServiceAccount"};
  ObjectMeta metadata;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
  }
  bool operator==(const ServiceAccount&) const = default;
};

struct EventSource {
  std::string component;
  std::string host;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("component", self.component);
    field("host", self.host);
  }
  bool operator==(const EventSource&) const = default;
};

struct Event {
  static constexpr Resource kResource{"", "v1", "events", "Event"};
  ObjectMeta metadata;
  ObjectReference involved_object;
  std::string reason;
  std::string message;
  std::string type;  // Normal, Warning
  EventSource source;
  std::optional<absl::Time> first_timestamp;
  std::optional<absl::Time> last_timestamp;
  int64_t count = 0;
  std::string action;
  std::optional<ObjectReference> related;
  std::string reporting_component;
  std::string reporting_instance;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field.Required("involvedObject", self.involved_object);
    field("reason", self.reason);
    field("message", self.message);
    field("type", self.type);
    field("source", self.source);
    field("firstTimestamp", self.first_timestamp);
    field("lastTimestamp", self.last_timestamp);
    field("count", self.count);
    field("action", self.action);
    field("related", self.related);
    field("reportingComponent", self.reporting_component);
    field("reportingInstance", self.reporting_instance);
  }
  bool operator==(const Event&) const = default;
};

struct LeaseSpec {
  std::string holder_identity;
  int64_t lease_duration_seconds = 0;
  std::optional<MicroTime> acquire_time;
  std::optional<MicroTime> renew_time;
  int64_t lease_transitions = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("holderIdentity", self.holder_identity);
    field("leaseDurationSeconds", self.lease_duration_seconds);
    field("acquireTime", self.acquire_time);
    field("renewTime", self.renew_time);
    field("leaseTransitions", self.lease_transitions);
  }
  bool operator==(const LeaseSpec&) const = default;
};

struct Lease {
  static constexpr Resource kResource{"coordination.k8s.io", "v1", "leases", "Lease"};
  ObjectMeta metadata;
  LeaseSpec spec;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("spec", self.spec);
  }
  bool operator==(const Lease&) const = default;
};

struct TokenReviewSpec {
  std::string token;
  std::vector<std::string> audiences;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("token", self.token);
    field("audiences", self.audiences);
  }
  bool operator==(const TokenReviewSpec&) const = default;
};

struct UserInfo {
  std::string username;  // "system:serviceaccount:<namespace>:<name>"
  std::string uid;
  std::vector<std::string> groups;
  std::map<std::string, std::vector<std::string>> extra;  // e.g. "authentication.kubernetes.io/node-name"
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("username", self.username);
    field("uid", self.uid);
    field("groups", self.groups);
    field("extra", self.extra);
  }
  bool operator==(const UserInfo&) const = default;
};

struct TokenReviewStatus {
  bool authenticated = false;
  UserInfo user;
  std::vector<std::string> audiences;
  std::string error;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("authenticated", self.authenticated);
    field("user", self.user);
    field("audiences", self.audiences);
    field("error", self.error);
  }
  bool operator==(const TokenReviewStatus&) const = default;
};

// Create it with a spec; the answer has the status. It is never stored.
struct TokenReview {
  static constexpr Resource kResource{"authentication.k8s.io", "v1", "tokenreviews", "TokenReview",
                                      /*namespaced=*/false};
  ObjectMeta metadata;
  TokenReviewSpec spec;
  TokenReviewStatus status;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const TokenReview&) const = default;
};

}  // namespace godwit::k8s
