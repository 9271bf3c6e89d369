// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/bundle.h"

#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/api/host_protocol.h"
#include "agent/runtime/cgroup.h"
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

absl::StatusOr<Bundle> ParseBundle(absl::string_view config) {
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
  GODWIT_ASSIGN_OR_RETURN(bundle.cgroup, runtime::ResolveCgroupsPath(oci->linux_.cgroups_path));
  return bundle;
}

absl::StatusOr<Bundle> ReadBundle(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/config.json");
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfig));
  absl::StatusOr<Bundle> bundle = ParseBundle(text);
  if (!bundle.ok()) return Annotate(bundle.status(), absl::StrCat("cannot read ", path));
  return bundle;
}

}  // namespace godwit::godwit_runtime
