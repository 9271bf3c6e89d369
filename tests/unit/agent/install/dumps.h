// SPDX-License-Identifier: Apache-2.0
// What `containerd config dump` prints, shortened.
#pragma once

namespace godwit::install {

// containerd 2.3 (its dump has version 4).
inline constexpr char kDump2[] = R"(version = 4
root = '/var/lib/containerd'
imports = ['/etc/containerd/conf.d/*.toml']

[plugins]
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.runtime']
    enable_selinux = false
    [plugins.'io.containerd.cri.v1.runtime'.containerd]
      default_runtime_name = 'runc'
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes]
        [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
          runtime_type = 'io.containerd.runc.v2'
          runtime_path = ''
          pod_annotations = ['example.com/*']
          container_annotations = []
          privileged_without_host_devices = false
          base_runtime_spec = '/etc/containerd/spec.json'
          cni_max_conf_num = 0
          sandboxer = 'podsandbox'
          [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
            BinaryName = '/usr/local/sbin/runc'
            IoGid = 0
            NoNewKeyring = true
            SystemdCgroup = true
  [plugins.'io.containerd.server.v1.grpc']
    address = '/run/containerd/containerd.sock'
)";

// containerd 1.7.
inline constexpr char kDump1[] = R"(version = 2
imports = ["/etc/containerd/config.toml"]
[grpc]
  address = "/run/other/containerd.sock"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "kata"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
    runtime_type = "io.containerd.kata.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = ""
      SystemdCgroup = false
)";

}  // namespace godwit::install
