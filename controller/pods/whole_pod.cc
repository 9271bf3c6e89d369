// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/whole_pod.h"

#include "base/status.h"

namespace godwit::controller {

absl::StatusOr<WholePod> WholePod::From(k8s::Unstructured raw) {
  GODWIT_ASSIGN_OR_RETURN(k8s::Pod view, raw.As<k8s::Pod>());
  return WholePod{.view = std::move(view), .raw = std::move(raw)};
}

agent_api::PodName NameOf(const k8s::ObjectMeta& meta) {
  return {.name_space = meta.name_space, .name = meta.name, .uid = meta.uid};
}

std::vector<agent_api::ContainerRef> ContainersOf(const k8s::Pod& pod) {
  std::vector<agent_api::ContainerRef> containers;
  for (const k8s::Container& container : pod.spec.containers) {
    const k8s::ContainerStatus* status = pod.FindStatus(container.name);
    containers.push_back({.name = container.name, .id = status == nullptr ? "" : status->container_id});
  }
  return containers;
}

std::vector<std::string> ContainerNamesOf(const k8s::Pod& pod) {
  std::vector<std::string> names;
  for (const k8s::Container& container : pod.spec.containers) names.push_back(container.name);
  return names;
}

std::vector<std::string> EmptyDirsOf(const k8s::Pod& pod) {
  std::vector<std::string> names;
  for (const k8s::Volume& volume : pod.spec.volumes) {
    if (volume.kind == "emptyDir") names.push_back(volume.name);
  }
  return names;
}

std::vector<std::string> AddressesOf(const k8s::Pod& pod) {
  std::vector<std::string> addresses;
  for (const k8s::PodIp& address : pod.status.pod_ips) addresses.push_back(address.ip);
  if (addresses.empty() && !pod.status.pod_ip.empty()) addresses.push_back(pod.status.pod_ip);
  return addresses;
}

}  // namespace godwit::controller
