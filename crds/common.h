// SPDX-License-Identifier: Apache-2.0
// What the custom resources have in common. The schemas that the API server enforces are the YAML files
// beside this one; a test compares the two.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "k8s/meta.h"

namespace godwit::crds {

inline constexpr char kGroup[] = "godwit.io";
inline constexpr char kVersion[] = "v1alpha1";

struct NameReference {
  std::string name;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("name", self.name);
  }
  bool operator==(const NameReference&) const = default;
};

// Where a pod goes: one node by name, or any that carries these labels. At most one of the two is set.
struct Target {
  std::string node_name;
  std::map<std::string, std::string> node_selector;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("nodeName", self.node_name);
    field("nodeSelector", self.node_selector);
  }
  bool operator==(const Target&) const = default;
};

enum class Severity { kInfo, kWarning, kBlocking };
constexpr std::array<std::pair<Severity, absl::string_view>, 3> JsonNames(Severity) {
  return {{{Severity::kInfo, "Info"}, {Severity::kWarning, "Warning"}, {Severity::kBlocking, "Blocking"}}};
}

// Something that stands in the way, or might: one sentence, and what to do about it.
struct Finding {
  std::string id;  // stable, CamelCase
  Severity severity = Severity::kInfo;
  std::string container;  // empty: the pod or the node
  std::string message;
  std::string remedy;
  std::string evidence;  // what was read, and where
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("id", self.id);
    field.Required("severity", self.severity);
    field("container", self.container);
    field.Required("message", self.message);
    field("remedy", self.remedy);
    field("evidence", self.evidence);
  }
  bool operator==(const Finding&) const = default;
};

struct FreezeStep {
  std::string name;
  std::string container;
  absl::Duration offset;  // from the beginning of the freeze
  absl::Duration duration;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("name", self.name);
    field("container", self.container);
    field("offset", self.offset);
    field.Required("duration", self.duration);
  }
  bool operator==(const FreezeStep&) const = default;
};

struct Freeze {
  absl::Duration duration;
  absl::Time frozen_at;
  std::vector<FreezeStep> steps;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("duration", self.duration);
    field("frozenAt", self.frozen_at);
    field("steps", self.steps);
  }
  bool operator==(const Freeze&) const = default;
};

// A duration as people read it: three significant places of its unit ("412ms", "1.54s"), whole seconds from a
// minute on.
absl::Duration Readable(absl::Duration duration);

// The condition that tells how an object stands as a whole: Unknown while it is worked on (the reason says
// what is being done or waited for), True at a good end, False as soon as it is known that it fails.
inline constexpr char kComplete[] = "Complete";
// False while an agent that is needed does not answer; lastTransitionTime tells since when.
inline constexpr char kAgentsReachable[] = "AgentsReachable";
// Of Migrations and Checkpoints. False: memory is copied while the pod stands still (of a Migration whose
// strategy is Auto); the message says why.
inline constexpr char kPreCopyPossible[] = "PreCopyPossible";
// At the end: nothing was left behind on the nodes.
inline constexpr char kCleanedUp[] = "CleanedUp";

}  // namespace godwit::crds
