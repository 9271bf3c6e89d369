// SPDX-License-Identifier: Apache-2.0
// Finding a pod's containers on this node: the container runtime's own files say where they are, no API of it
// is used.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::runtime {

// Where the node's things are seen from here. Tests hand in folders.
struct HostView {
  std::string root;                       // put before host paths: "/proc/1/root", or "" on the host itself
  std::string proc = "/proc";             // with the host's process ids
  std::string cgroup = "/sys/fs/cgroup";  // the cgroup2 mount, a host path

  std::string At(absl::string_view host_path) const;  // root + host_path
};

// An entry of config.json's mounts.
struct BundleMount {
  std::string destination;
  std::string source;
  std::string type;
  std::vector<std::string> options;
};

// Where a container's processes belong (layer.h).
using Place = std::map<std::string, std::string>;

struct Container {
  std::string id;
  std::string name;     // in the pod
  std::string pod_uid;  // as the container runtime says, not the pod
  std::string pod_name;
  std::string pod_namespace;
  std::string sandbox_id;
  std::string bundle;        // host path
  std::string rootfs;        // host path: where the container runtime mounts its root file system
  std::string root_device;   // of that (mounts.h: DeviceOf)
  Place place;               // of its init process
  std::string runtime_root;  // runc --root
  pid_t init_pid = 0;        // host's pid namespace
  std::string cgroup;        // absolute host path of its cgroup2 folder; the init process was seen in it
  bool terminal = false;     // process.terminal
  std::vector<std::string> devices;  // linux.devices: paths
  std::vector<BundleMount> mounts;
  std::map<std::string, std::string> namespaces;  // linux.namespaces: type to path ("" for a new one)
};

// One container runtime's layout on this node.
class ContainerRuntime {
 public:
  virtual ~ContainerRuntime() = default;
  virtual std::string name() const = 0;  // as in a pod's status: "containerd", "cri-o"
  // A running container by its id without the "name://". NotFound when there is none here; FailedPrecondition
  // when it does not run.
  virtual absl::StatusOr<Container> Find(const std::string& id) const = 0;
};

// /run/containerd/io.containerd.runtime.v2.task/k8s.io/ID
std::unique_ptr<ContainerRuntime> Containerd(HostView host);
// /run/containers/storage/overlay-containers/ID/userdata
std::unique_ptr<ContainerRuntime> CriO(HostView host);

// Finds a container as a pod's status names it ("containerd://3f2a...") with the runtime of that name.
// InvalidArgument for an id that is none.
absl::StatusOr<Container> FindContainer(const HostView& host, absl::string_view container_id);

}  // namespace godwit::runtime
