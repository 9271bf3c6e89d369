// SPDX-License-Identifier: Apache-2.0
// apimachinery's metav1 in C++: what all objects have in common. Field names are the API's, in snake_case.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "k8s/resource.h"

namespace godwit::k8s {

// metav1.MicroTime: RFC 3339 with exactly six digits of fraction. (absl::Time serves as metav1.Time; servers
// read its fraction, but write none: keep whole seconds by WholeSeconds where a value is compared later.)
struct MicroTime {
  absl::Time time;
  bool operator==(const MicroTime&) const = default;
};
absl::Status ReadScalar(const rapidjson::Value& in, absl::string_view path, MicroTime& out);
rapidjson::Value WriteScalar(const MicroTime& in, rapidjson::Document::AllocatorType& allocator);

absl::Time WholeSeconds(absl::Time time);

// []byte: base64 in JSON.
struct Bytes {
  std::string bytes;
  bool operator==(const Bytes&) const = default;
};
absl::Status ReadScalar(const rapidjson::Value& in, absl::string_view path, Bytes& out);
rapidjson::Value WriteScalar(const Bytes& in, rapidjson::Document::AllocatorType& allocator);

struct OwnerReference {
  std::string api_version;
  std::string kind;
  std::string name;
  std::string uid;
  bool controller = false;
  bool block_owner_deletion = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("apiVersion", self.api_version);
    field.Required("kind", self.kind);
    field.Required("name", self.name);
    field.Required("uid", self.uid);
    field("controller", self.controller);
    field("blockOwnerDeletion", self.block_owner_deletion);
  }
  bool operator==(const OwnerReference&) const = default;
};

// managedFields are neither kept nor written.
struct ObjectMeta {
  std::string name;
  std::string generate_name;
  std::string name_space;
  std::string uid;
  std::string resource_version;
  int64_t generation = 0;
  std::optional<absl::Time> creation_timestamp;
  std::optional<absl::Time> deletion_timestamp;
  std::optional<int64_t> deletion_grace_period_seconds;
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> annotations;
  std::vector<OwnerReference> owner_references;
  std::vector<std::string> finalizers;

  bool terminating() const { return deletion_timestamp.has_value(); }
  bool HasFinalizer(absl::string_view finalizer) const;
  // The value, or "" when there is none.
  std::string Label(const std::string& key) const;
  std::string Annotation(const std::string& key) const;
  // The one owner reference with controller=true, or null.
  const OwnerReference* Controller() const;
  ObjectName object_name() const { return {name_space, name}; }

  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("name", self.name);
    field("generateName", self.generate_name);
    field("namespace", self.name_space);
    field("uid", self.uid);
    field("resourceVersion", self.resource_version);
    field("generation", self.generation);
    field("creationTimestamp", self.creation_timestamp);
    field("deletionTimestamp", self.deletion_timestamp);
    field("deletionGracePeriodSeconds", self.deletion_grace_period_seconds);
    field("labels", self.labels);
    field("annotations", self.annotations);
    field("ownerReferences", self.owner_references);
    field("finalizers", self.finalizers);
  }
  bool operator==(const ObjectMeta&) const = default;
};

struct ListMeta {
  std::string resource_version;
  std::string continue_token;
  std::optional<int64_t> remaining_item_count;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("resourceVersion", self.resource_version);
    field("continue", self.continue_token);
    field("remainingItemCount", self.remaining_item_count);
  }
};

// metav1.Condition. `status` is "True", "False" or "Unknown".
struct Condition {
  std::string type;
  std::string status;
  int64_t observed_generation = 0;
  absl::Time last_transition_time;
  std::string reason;   // CamelCase
  std::string message;  // for a person
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("type", self.type);
    field.Required("status", self.status);
    field("observedGeneration", self.observed_generation);
    field.Required("lastTransitionTime", self.last_transition_time);
    field.Required("reason", self.reason);
    field.Required("message", self.message);
  }
  bool operator==(const Condition&) const = default;
};

// The condition of that type, or null.
const Condition* FindCondition(const std::vector<Condition>& conditions, absl::string_view type);
bool IsConditionTrue(const std::vector<Condition>& conditions, absl::string_view type);
// Longest that API servers take (CRDs: maxLength). What is longer would never be written.
inline constexpr size_t kMaxConditionMessage = 32768;
// Adds the condition or changes the one of its type, its message cut where it is too long;
// last_transition_time becomes `now` (whole seconds) only where the status changes. True when anything was
// changed.
bool SetCondition(std::vector<Condition>& conditions, Condition condition, absl::Time now);
// True when there was one.
bool RemoveCondition(std::vector<Condition>& conditions, absl::string_view type);

struct LabelSelectorRequirement {
  std::string key;
  std::string op;  // In, NotIn, Exists, DoesNotExist
  std::vector<std::string> values;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("key", self.key);
    field.Required("operator", self.op);
    field("values", self.values);
  }
  bool operator==(const LabelSelectorRequirement&) const = default;
};

// An empty selector selects everything.
struct LabelSelector {
  std::map<std::string, std::string> match_labels;
  std::vector<LabelSelectorRequirement> match_expressions;

  // An operator that is none of the four selects nothing.
  bool Matches(const std::map<std::string, std::string>& labels) const;
  // As a `labelSelector` query wants it: "app=web,tier in (a,b),!old".
  std::string ToString() const;

  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("matchLabels", self.match_labels);
    field("matchExpressions", self.match_expressions);
  }
  bool operator==(const LabelSelector&) const = default;
};

struct ObjectReference {
  std::string api_version;
  std::string kind;
  std::string name_space;
  std::string name;
  std::string uid;
  std::string resource_version;
  std::string field_path;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("apiVersion", self.api_version);
    field("kind", self.kind);
    field("namespace", self.name_space);
    field("name", self.name);
    field("uid", self.uid);
    field("resourceVersion", self.resource_version);
    field("fieldPath", self.field_path);
  }
  bool operator==(const ObjectReference&) const = default;
};

// The reference to an object, for Events and owners.
ObjectReference ReferenceTo(const Resource& resource, const ObjectMeta& meta);
template <class T>
ObjectReference ReferenceTo(const T& object) {
  return ReferenceTo(T::kResource, object.metadata);
}
template <class T>
OwnerReference OwnedBy(const T& object, bool controller = true, bool block_owner_deletion = true) {
  return {.api_version = T::kResource.ApiVersion(),
          .kind = std::string(T::kResource.kind),
          .name = object.metadata.name,
          .uid = object.metadata.uid,
          .controller = controller,
          .block_owner_deletion = block_owner_deletion};
}

}  // namespace godwit::k8s
