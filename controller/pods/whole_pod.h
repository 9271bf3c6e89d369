// SPDX-License-Identifier: Apache-2.0
// A pod as it was read: the fields we reason about, and all the others, which a copy of it must not lose.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/api/messages.h"
#include "k8s/pod.h"
#include "k8s/unstructured.h"

namespace godwit::controller {

struct WholePod {
  k8s::Pod view;
  k8s::Unstructured raw;

  static absl::StatusOr<WholePod> From(k8s::Unstructured raw);
};

// How agents are told of a pod and of its parts; containers in the order in which kubelet starts them.
agent_api::PodName NameOf(const k8s::ObjectMeta& meta);
std::vector<agent_api::ContainerRef> ContainersOf(const k8s::Pod& pod);
std::vector<std::string> ContainerNamesOf(const k8s::Pod& pod);
std::vector<std::string> EmptyDirsOf(const k8s::Pod& pod);
std::vector<std::string> AddressesOf(const k8s::Pod& pod);  // of every IP family it has

}  // namespace godwit::controller
