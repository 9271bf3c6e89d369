// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/pod_on_node.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/migration/mapped_files.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/layer.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

// The part of a bundle's config.json that says where files go.
struct BundleConfig {
  struct Root {
    std::string path;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field.Required("path", self.path);
    }
  };
  struct Mount {
    std::string source;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("source", self.source);
    }
  };
  Root root;
  std::vector<Mount> mounts;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("root", self.root);
    field("mounts", self.mounts);
  }
};

// Kubelet's folder of the pod ("/var/lib/kubelet/pods/<uid>", wherever it keeps them), known by any mount
// that comes from it: each container has some (termination log, hosts file). Empty when none does.
std::string PodFolder(const std::vector<std::string>& mount_sources, const std::string& pod_uid) {
  const std::string mark = absl::StrCat("/pods/", pod_uid, "/");
  for (const std::string& source : mount_sources) {
    const size_t at = source.find(mark);
    if (at != std::string::npos) return source.substr(0, at + mark.size() - 1);
  }
  return "";
}

absl::StatusOr<std::string> EmptyDirFolder(const std::vector<std::string>& mount_sources,
                                           const std::string& pod_uid, const std::string& volume) {
  const std::string pod = PodFolder(mount_sources, pod_uid);
  if (pod.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot tell where the emptyDir ", volume,
                     " is: no mount of the container comes from kubelet's folder of the pod"));
  }
  return absl::StrCat(pod, "/volumes/kubernetes.io~empty-dir/", volume);
}

// A path under which an open folder can be used as a folder.
std::string PathOf(const UniqueFd& folder) { return absl::StrCat("/proc/self/fd/", folder.get(), "/."); }

absl::Status ApplyTars(const TarSequence& tars, const UniqueFd& folder, files::Layout base) {
  for (size_t i = tars.applied; i < tars.paths.size(); ++i) {
    GODWIT_RETURN_IF_ERROR(
        files::Apply(tars.paths[i], PathOf(folder), i == 0 ? base : files::Layout::kChanges));
  }
  return absl::OkStatus();
}

absl::StatusOr<PodOnNode::Part> FindPart(const runtime::HostView& host, const agent_api::PodName& pod,
                                         const agent_api::ContainerRef& ref) {
  const std::string what = absl::StrCat("container ", ref.name, " of pod ", pod.name_space, "/", pod.name);
  absl::StatusOr<runtime::Container> container = runtime::FindContainer(host, ref.id);
  if (!container.ok()) return Annotate(container.status(), what);
  if (container->pod_uid != pod.uid || container->name != ref.name) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": the container ", ref.id, " is container ", container->name, " of pod ",
                     container->pod_namespace, "/", container->pod_name, " with UID ", container->pod_uid));
  }
  absl::StatusOr<std::string> layer = runtime::FindWritableLayer(host, *container);
  if (!layer.ok()) return Annotate(layer.status(), what);
  return PodOnNode::Part{*std::move(container), *std::move(layer)};
}

}  // namespace

absl::StatusOr<PodOnNode> FindPod(const runtime::HostView& host, const agent_api::PodName& pod,
                                  const std::vector<agent_api::ContainerRef>& containers,
                                  const std::vector<std::string>& empty_dirs) {
  PodOnNode found;
  std::vector<std::string> sources;
  for (const agent_api::ContainerRef& ref : containers) {
    GODWIT_ASSIGN_OR_RETURN(PodOnNode::Part part, FindPart(host, pod, ref));
    for (const runtime::BundleMount& mount : part.container.mounts) sources.push_back(mount.source);
    found.parts.push_back(std::move(part));
  }
  for (const std::string& volume : empty_dirs) {
    GODWIT_ASSIGN_OR_RETURN(std::string folder, EmptyDirFolder(sources, pod.uid, volume));
    found.volumes[volume] = folder;
  }
  return found;
}

absl::StatusOr<UniqueFd> OpenHostFolder(const runtime::HostView& host, const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd root, OpenFile(host.root.empty() ? "/" : host.root, O_PATH | O_DIRECTORY));
  open_how how{};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  const long fd = syscall(SYS_openat2, root.get(), path.c_str(), &how, sizeof(how));
  if (fd < 0) return ErrnoStatus(absl::StrCat("cannot open the host's folder ", path));
  return UniqueFd(static_cast<int>(fd));
}

absl::StatusOr<files::PackTotals> PackHostFolder(const runtime::HostView& host, const std::string& path,
                                                 files::Layout layout, const files::Pass& pass, int round,
                                                 files::Snapshot& snapshot, const files::Sink& sink) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd folder, OpenHostFolder(host, path));
  absl::StatusOr<files::PackTotals> totals =
      (round == 0 ? files::PackBase : files::PackChanges)(PathOf(folder), layout, pass, snapshot, sink);
  if (!totals.ok()) return Annotate(totals.status(), path);
  return totals;
}

absl::StatusOr<files::MappedFiles> FindMappedFiles(const runtime::HostView& host, const PodOnNode& pod) {
  files::MappedFiles mapped;
  for (const PodOnNode::Part& part : pod.parts) {
    GODWIT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids,
                            runtime::ProcessesInCgroup(host.At(part.container.cgroup)));
    GODWIT_ASSIGN_OR_RETURN(UniqueFd layer, OpenHostFolder(host, part.writable_layer));
    GODWIT_RETURN_IF_ERROR(AddMappedFiles(host.proc, pids, layer.get(), mapped));
  }
  return mapped;
}

absl::Status ApplyFiles(const runtime::HostView& host, const permits::Claim& claim,
                        const std::string& pod_uid, const FilesToApply& files) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd bundle, OpenHostFolder(host, claim.bundle));
  GODWIT_ASSIGN_OR_RETURN(std::string text,
                          ReadFile(absl::StrCat("/proc/self/fd/", bundle.get(), "/config.json")));
  absl::StatusOr<BundleConfig> config = json::Decode<BundleConfig>(text);
  if (!config.ok()) return Annotate(config.status(), absl::StrCat(claim.bundle, "/config.json"));
  if (files.rootfs.applied < files.rootfs.paths.size()) {
    const std::string& root = config->root.path;
    GODWIT_ASSIGN_OR_RETURN(
        UniqueFd folder,
        OpenHostFolder(host, absl::StartsWith(root, "/") ? root : absl::StrCat(claim.bundle, "/", root)));
    GODWIT_RETURN_IF_ERROR(ApplyTars(files.rootfs, folder, files::Layout::kOverlay));
  }
  std::vector<std::string> sources;
  for (const BundleConfig::Mount& mount : config->mounts) sources.push_back(mount.source);
  for (const auto& [volume, tars] : files.volumes) {
    GODWIT_ASSIGN_OR_RETURN(std::string path, EmptyDirFolder(sources, pod_uid, volume));
    GODWIT_ASSIGN_OR_RETURN(UniqueFd folder, OpenHostFolder(host, path));
    GODWIT_RETURN_IF_ERROR(ApplyTars(tars, folder, files::Layout::kPlain));
  }
  return absl::OkStatus();
}

}  // namespace godwit::migration
