// SPDX-License-Identifier: Apache-2.0
// What a container's configuration tells: mounts that would not be there on another node, devices, shared
// namespaces.
#include <sys/stat.h>
#include <unistd.h>

#include <climits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/preflight/finding.h"
#include "agent/preflight/inspect.h"
#include "agent/runtime/layer.h"
#include "agent/runtime/mounts.h"

namespace godwit::preflight {
namespace {

// Files that kubelet and the container runtime make anew for every pod.
bool MadeForEveryPod(const runtime::BundleMount& mount) {
  for (const char* destination :
       {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/dev/termination-log"}) {
    if (mount.destination == destination) return true;
  }
  return false;
}

enum class Volume { kNone, kCarried, kMadeAnew, kClaim, kHost };

// By kubelet's folder of the pod:
// .../pods/<uid>/{volumes/kubernetes.io~<plugin>/<name>,volume-subpaths/...,containers/...}
Volume Classify(const runtime::BundleMount& mount, absl::string_view pod_uid) {
  const std::string mark = absl::StrCat("/pods/", pod_uid, "/");
  const size_t at = mount.source.find(mark);
  if (pod_uid.empty() || at == std::string::npos)
    return MadeForEveryPod(mount) ? Volume::kMadeAnew : Volume::kHost;
  const absl::string_view below = absl::string_view(mount.source).substr(at + mark.size());
  if (absl::StartsWith(below, "volumes/kubernetes.io~empty-dir/")) return Volume::kCarried;
  for (const char* plugin : {"configmap", "secret", "projected", "downward-api"}) {
    if (absl::StartsWith(below, absl::StrCat("volumes/kubernetes.io~", plugin, "/")))
      return Volume::kMadeAnew;
  }
  if (absl::StartsWith(below, "volumes/")) return Volume::kClaim;
  return Volume::kMadeAnew;  // etc-hosts, termination logs, subpaths of the above
}

std::string Evidence(const runtime::Container& container, const runtime::BundleMount& mount) {
  return absl::StrCat(container.bundle, "/config.json: mount ", mount.source, " -> ", mount.destination);
}

void InspectMounts(const runtime::Container& container, Findings& findings) {
  for (const runtime::BundleMount& mount : container.mounts) {
    if (mount.type != "bind") continue;
    switch (Classify(mount, container.pod_uid)) {
      case Volume::kNone:
      case Volume::kCarried:
      case Volume::kMadeAnew: break;
      case Volume::kClaim:
        findings.Add("PersistentVolume",
                     absl::StrCat("container ", container.name, " mounts the volume ", mount.source, " at ",
                                  mount.destination),
                     Evidence(container, mount));
        break;
      case Volume::kHost:
        findings.Add("HostPath",
                     absl::StrCat("container ", container.name, " mounts ", mount.source, " of the node at ",
                                  mount.destination),
                     Evidence(container, mount));
        break;
    }
  }
}

// The kernel's name of a process' namespace ("pid:[4026531836]"), or empty.
std::string NamespaceOf(const std::string& proc, absl::string_view pid, absl::string_view type) {
  char target[64];
  const std::string path = absl::StrCat(proc, "/", pid, "/ns/", type);
  const ssize_t size = readlink(path.c_str(), target, sizeof(target));
  return size > 0 ? std::string(target, static_cast<size_t>(size)) : "";
}

void InspectNamespaces(const runtime::HostView& host, const runtime::Container& container,
                       Findings& findings) {
  const struct {
    const char* type;
    agent_api::FindingId id;
  } shared[] = {{"net", "HostNetwork"}, {"pid", "HostPID"}, {"ipc", "HostIPC"}};
  for (const auto& kind : shared) {
    const std::string own = NamespaceOf(host.proc, absl::StrCat(container.init_pid), kind.type);
    if (own.empty() || own != NamespaceOf(host.proc, "1", kind.type)) continue;
    findings.Add(kind.id,
                 absl::StrCat("container ", container.name, " shares the node's ", kind.type, " namespace"),
                 absl::StrCat(host.proc, "/", container.init_pid, "/ns/", kind.type, " -> ", own));
  }
  const auto pid = container.namespaces.find("pid");
  if (pid != container.namespaces.end() && !pid->second.empty()) {
    findings.Add(
        "SharedProcessNamespace",
        absl::StrCat("container ", container.name, " shares its process ids with the pod's other containers"),
        absl::StrCat(container.bundle, "/config.json: pid namespace ", pid->second));
  }
  if (container.namespaces.contains("user")) {
    findings.Add("UserNamespace", absl::StrCat("container ", container.name, " has a user namespace"),
                 absl::StrCat(container.bundle, "/config.json"));
  }
}

std::string MountInfo(const runtime::HostView& host, const runtime::Container& container) {
  return absl::StrCat(host.proc, "/", container.init_pid, "/mountinfo");
}

}  // namespace

std::vector<agent_api::Finding> InspectConfiguration(const runtime::HostView& host,
                                                     const runtime::Container& container) {
  Findings findings(container.name);
  if (container.terminal) {
    findings.Add("Terminal", absl::StrCat("container ", container.name, " has a terminal (tty: true)"),
                 absl::StrCat(container.bundle, "/config.json"));
  }
  for (const std::string& device : container.devices) {
    findings.Add("DeviceFile", absl::StrCat("container ", container.name, " was given the device ", device),
                 absl::StrCat(container.bundle, "/config.json"));
  }
  InspectMounts(container, findings);
  InspectNamespaces(host, container, findings);

  const absl::StatusOr<std::string> layer = runtime::FindWritableLayer(host, container);
  if (!layer.ok()) findings.Add("NoWritableLayer", layer.status().message(), container.rootfs);
  const absl::StatusOr<std::vector<runtime::Mount>> mounts =
      runtime::ReadContainerMounts(host.proc, container.init_pid);
  if (!mounts.ok()) return findings.Take();
  for (const runtime::Mount& mount : *mounts) {
    for (const char* type : {"fuse", "nfs", "cifs", "ceph", "9p", "virtiofs", "autofs"}) {
      if (!absl::StartsWith(mount.type, type)) continue;
      findings.Add(
          "UnsupportedMount",
          absl::StrCat("container ", container.name, " has a ", mount.type, " file system at ", mount.point),
          absl::StrCat(MountInfo(host, container), ": ", mount.type, " ", mount.source, " at ", mount.point));
    }
  }
  return findings.Take();
}

}  // namespace godwit::preflight
