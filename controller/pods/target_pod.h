// SPDX-License-Identifier: Apache-2.0
// Makes pods from pods: the one that receives a migrated pod's processes, the manifest that a checkpoint
// keeps, and the pod that is restored from it. Pure: what goes in decides what comes out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "controller/pods/whole_pod.h"
#include "k8s/meta.h"
#include "k8s/unstructured.h"

namespace godwit::controller {

struct NewPod {
  std::string name;
  std::string node;       // by required node affinity: the scheduler must count the pod
  std::string owner_uid;  // of the Migration or Restore
};

// The target pod of a migration of `source`. It is bare and has no labels but Godwit's, so that no Service
// sends it traffic and no owner counts it before HandOver; it waits at a scheduling gate, is not ready before
// the commit (readiness gate), starts without init containers and postStart hooks, and its readiness and
// startup probes begin at once.
k8s::Unstructured TargetPod(const WholePod& source, const NewPod& target);

// The pod as a checkpoint keeps it: bare, cleaned of what belongs to its node and to its moment.
k8s::Unstructured PodManifest(const WholePod& source);

// A pod from such a manifest, behind the same scheduling gate. InvalidArgument when the manifest is no pod.
absl::StatusOr<k8s::Unstructured> RestoredPod(const k8s::Unstructured& manifest,
                                              const std::string& name_space, const NewPod& target);

// What the target gets when the source hands over: its labels, and its controller. Read from the source while
// it exists, else from the annotation that TargetPod left.
struct HandOver {
  std::map<std::string, std::string> labels;
  std::vector<k8s::OwnerReference> owners;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("labels", self.labels);
    field("ownerReferences", self.owners);
  }
  bool operator==(const HandOver&) const = default;
};
HandOver HandOverOf(const k8s::ObjectMeta& source);
HandOver HandOverFromTarget(const k8s::ObjectMeta& target);
// Whether the target has all of it.
bool HandedOver(const k8s::ObjectMeta& target, const HandOver& hand_over);
// The one merge patch that hands over, with the target's uid and resourceVersion as preconditions.
k8s::Unstructured HandOverPatch(const k8s::ObjectMeta& target, const HandOver& hand_over);

}  // namespace godwit::controller
