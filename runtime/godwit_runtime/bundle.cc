// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/bundle.h"

#include <map>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/api/host_protocol.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::godwit_runtime {
namespace {

using Annotations = std::map<std::string, std::string>;

// As much of the OCI runtime specification's config.json as matters here.
struct OciNamespace {
  std::string type;
  std::string path;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("type", self.type);
    field("path", self.path);
  }
};
struct OciLinux {
  std::string cgroups_path;
  std::vector<OciNamespace> namespaces;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("cgroupsPath", self.cgroups_path);
    field("namespaces", self.namespaces);
  }
};
struct OciProcess {
  bool terminal = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("terminal", self.terminal);
  }
};
struct OciRoot {
  std::string path;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("path", self.path);
  }
};
struct OciConfig {
  OciProcess process;
  OciRoot root;
  OciLinux linux_;
  Annotations annotations;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("process", self.process);
    field("root", self.root);
    field("linux", self.linux_);
    field("annotations", self.annotations);
  }
};

std::string Value(const Annotations& annotations, const std::string& name) {
  auto found = annotations.find(name);
  return found == annotations.end() ? "" : found->second;
}

// Who this is, as containerd (io.kubernetes.cri.*) or CRI-O (io.kubernetes.cri-o.*, with kubelet's labels as
// JSON) says.
absl::Status ReadIdentity(const Annotations& annotations, Bundle& bundle) {
  if (const std::string type = Value(annotations, "io.kubernetes.cri.container-type"); !type.empty()) {
    bundle.is_container = type == "container";
    bundle.sandbox_uid = Value(annotations, "io.kubernetes.cri.sandbox-uid");
    bundle.container = Value(annotations, "io.kubernetes.cri.container-name");
    return absl::OkStatus();
  }
  const std::string type = Value(annotations, "io.kubernetes.cri-o.ContainerType");
  bundle.is_container = type == "container";
  if (!bundle.is_container) return absl::OkStatus();
  absl::StatusOr<rapidjson::Document> document = json::Parse(Value(annotations, "io.kubernetes.cri-o.Labels"),
                                                             {.max_bytes = 256u << 10, .max_depth = 4});
  if (!document.ok()) return Annotate(document.status(), "annotation io.kubernetes.cri-o.Labels");
  absl::StatusOr<Annotations> labels = Annotations();
  absl::Status read = json::internal::Read(*document, "labels", *labels);
  if (!read.ok()) return Annotate(read, "annotation io.kubernetes.cri-o.Labels");
  bundle.sandbox_uid = Value(*labels, "io.kubernetes.pod.uid");
  bundle.container = Value(*labels, "io.kubernetes.container.name");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> CgroupFolder(absl::string_view cgroups_path, bool systemd_cgroup) {
  if (!systemd_cgroup) {
    if (!absl::StartsWith(cgroups_path, "/") || absl::StrContains(absl::StrCat(cgroups_path, "/"), "/../")) {
      return absl::InvalidArgumentError(
          absl::StrCat("linux.cgroupsPath \"", cgroups_path, "\" is not an absolute path"));
    }
    return std::string(cgroups_path);
  }
  const std::vector<absl::string_view> parts = absl::StrSplit(cgroups_path, ':');
  if (parts.size() != 3 || absl::StrContains(cgroups_path, '/') || parts[2].empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "linux.cgroupsPath \"", cgroups_path, "\" is not slice:prefix:name, as the systemd driver needs"));
  }
  const absl::string_view slice = parts[0].empty() ? "system.slice" : parts[0];
  if (!absl::EndsWith(slice, ".slice")) {
    return absl::InvalidArgumentError(
        absl::StrCat("linux.cgroupsPath \"", cgroups_path, "\" names no slice"));
  }
  std::string folder;
  const absl::string_view stem = slice.substr(0, slice.size() - 6);
  if (stem != "-") {
    for (size_t dash = stem.find('-'); dash != absl::string_view::npos; dash = stem.find('-', dash + 1)) {
      absl::StrAppend(&folder, "/", stem.substr(0, dash), ".slice");
    }
    absl::StrAppend(&folder, "/", slice);
  }
  if (absl::EndsWith(parts[2], ".slice")) return absl::StrCat(folder, "/", parts[2]);
  return absl::StrCat(folder, "/", parts[1].empty() ? "" : absl::StrCat(parts[1], "-"), parts[2], ".scope");
}

absl::StatusOr<Bundle> ParseBundle(absl::string_view config, bool systemd_cgroup) {
  absl::StatusOr<OciConfig> oci = json::Decode<OciConfig>(config, {.max_bytes = kMaxConfig, .max_depth = 64});
  if (!oci.ok()) return oci.status();
  Bundle bundle;
  GODWIT_RETURN_IF_ERROR(ReadIdentity(oci->annotations, bundle));
  bundle.migration = Value(oci->annotations, agent_api::kMigrationAnnotation);
  bundle.terminal = oci->process.terminal;
  bundle.rootfs = oci->root.path;
  for (const OciNamespace& space : oci->linux_.namespaces) {
    if (space.type == "uts") bundle.uts_path = space.path;
  }
  if (!bundle.is_container) return bundle;
  GODWIT_ASSIGN_OR_RETURN(bundle.cgroup, CgroupFolder(oci->linux_.cgroups_path, systemd_cgroup));
  return bundle;
}

absl::StatusOr<Bundle> ReadBundle(const std::string& folder, bool systemd_cgroup) {
  const std::string path = absl::StrCat(folder, "/config.json");
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfig));
  absl::StatusOr<Bundle> bundle = ParseBundle(text, systemd_cgroup);
  if (!bundle.ok()) return Annotate(bundle.status(), absl::StrCat("cannot read ", path));
  return bundle;
}

}  // namespace godwit::godwit_runtime
