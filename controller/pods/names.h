// SPDX-License-Identifier: Apache-2.0
// The names by which Godwit's pods, and what Godwit writes on objects of others, are found again.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "k8s/meta.h"

namespace godwit::controller {

// Label and annotation on a pod that a Migration or Restore made: its UID. (The annotation is what
// godwit-runtime sees: agent_api::kMigrationAnnotation.)
inline constexpr char kMigrationKey[] = "godwit.io/migration";
// Label: the suffix that Godwit gave the pod's name, so that the next move replaces it.
inline constexpr char kSuffixLabel[] = "godwit.io/suffix";
// Annotation of a target pod: labels, annotations and owner that it gets when the source hands over
// (HandOver).
inline constexpr char kHandOverAnnotation[] = "godwit.io/hand-over";
// Scheduling gate: kept until the agent of the target node holds the permit.
inline constexpr char kPermitGate[] = "godwit.io/permit";
// Readiness gate: true from the commit on.
inline constexpr char kCommittedCondition[] = "godwit.io/committed";
// Label of nodes whose container runtime knows the handler; the RuntimeClass schedules by it.
inline constexpr char kRuntimeLabel[] = "godwit.io/runtime";
inline constexpr char kRuntimeLabelReady[] = "ready";
inline constexpr char kRuntimeClass[] = "godwit";
inline constexpr char kDeletionCost[] = "controller.kubernetes.io/pod-deletion-cost";
inline constexpr char kLowestDeletionCost[] = "-2147483648";
inline constexpr char kPodTemplateHash[] = "pod-template-hash";

// Whether a Migration or Restore made the pod: its label says so, and it is not older. Nobody but the
// controller may write the label (policy godwit-pods); a pod that somebody had made before is never taken for
// one.
bool MadeBy(const k8s::ObjectMeta& owner, const k8s::ObjectMeta& pod);

inline bool IsGodwitKey(absl::string_view key) { return key.substr(0, 10) == "godwit.io/"; }

// Five characters that follow from `uid` alone, from the alphabet that Kubernetes uses for generated names.
std::string Suffix(absl::string_view uid);

// "<base>-<suffix of uid>", at most 253 characters. Base is the pod's name without the suffix that an earlier
// move gave it.
std::string MovedPodName(const k8s::ObjectMeta& pod, absl::string_view uid);

}  // namespace godwit::controller
