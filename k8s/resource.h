// SPDX-License-Identifier: Apache-2.0
// How a kind is addressed in the API, and the names of objects.
#pragma once

#include <compare>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace godwit::k8s {

// Each typed object T has `static constexpr Resource kResource`.
struct Resource {
  absl::string_view group;    // "" for the core group
  absl::string_view version;  // "v1"
  absl::string_view plural;   // "pods", as in the path
  absl::string_view kind;     // "Pod"
  bool namespaced = true;

  std::string ApiVersion() const {
    return group.empty() ? std::string(version) : absl::StrCat(group, "/", version);
  }
};

// Namespace and name; the namespace is empty for cluster-wide objects.
struct ObjectName {
  std::string name_space;
  std::string name;

  std::string ToString() const { return name_space.empty() ? name : absl::StrCat(name_space, "/", name); }
  // The reverse of ToString.
  static ObjectName Parse(absl::string_view text);

  auto operator<=>(const ObjectName&) const = default;
  bool operator==(const ObjectName&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const ObjectName& name) {
    return H::combine(std::move(h), name.name_space, name.name);
  }
};

// The path of a collection, of an object in it, or of an object's subresource ("status"), without a query.
// For a namespaced resource an empty namespace means all namespaces (collections only).
std::string ResourcePath(const Resource& resource, absl::string_view name_space, absl::string_view name = "",
                         absl::string_view subresource = "");

}  // namespace godwit::k8s
