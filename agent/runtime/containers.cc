// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/containers.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/layer.h"
#include "agent/runtime/mounts.h"
#include "agent/runtime/processes.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

// The part of the OCI runtime configuration (config.json) that is looked at.
struct Config {
  struct Process {
    bool terminal = false;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("terminal", self.terminal);
    }
  };
  struct Mount {
    std::string destination, source, type;
    std::vector<std::string> options;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("destination", self.destination);
      field("source", self.source);
      field("type", self.type);
      field("options", self.options);
    }
  };
  struct Namespace {
    std::string type, path;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("type", self.type);
      field("path", self.path);
    }
  };
  struct Device {
    std::string path;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("path", self.path);
    }
  };
  struct Linux {
    std::string cgroups_path;
    std::vector<Namespace> namespaces;
    std::vector<Device> devices;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("cgroupsPath", self.cgroups_path);
      field("namespaces", self.namespaces);
      field("devices", self.devices);
    }
  };
  struct Root {
    std::string path;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("path", self.path);
    }
  };
  Process process;
  Root root;
  std::vector<Mount> mounts;
  Linux linux_part;
  std::map<std::string, std::string> annotations;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("process", self.process);
    field("root", self.root);
    field("mounts", self.mounts);
    field("linux", self.linux_part);
    field("annotations", self.annotations);
  }
};

struct Layout {
  std::string runtime;
  std::string bundles;       // folder of bundles, host path
  std::string below_id;      // from <bundles>/<id> to the bundle
  std::string pid_file;      // in the bundle
  std::string runtime_root;  // runc --root
  std::string type_key, container_type, name_key, uid_key, pod_key, namespace_key, sandbox_key;
};

bool IsContainerId(absl::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_';
  });
}

class FromFiles final : public ContainerRuntime {
 public:
  FromFiles(HostView host, Layout layout) : host_(std::move(host)), layout_(std::move(layout)) {}

  std::string name() const override { return layout_.runtime; }

  absl::StatusOr<Container> Find(const std::string& id) const override {
    if (!IsContainerId(id))
      return absl::InvalidArgumentError(absl::StrCat("\"", id, "\" is no container id"));
    const std::string bundle = absl::StrCat(layout_.bundles, "/", id, layout_.below_id);
    const absl::StatusOr<std::string> text = ReadFile(host_.At(absl::StrCat(bundle, "/config.json")));
    if (absl::IsNotFound(text.status())) {
      return absl::NotFoundError(absl::StrCat("no container ", id, " under ", layout_.runtime,
                                              " on this node (looked in ", bundle, ")"));
    }
    if (!text.ok()) return text.status();
    const absl::StatusOr<Config> config = json::Decode<Config>(*text);
    if (!config.ok()) return Annotate(config.status(), absl::StrCat(bundle, "/config.json"));
    Container container = FromConfig(*config);
    container.id = id;
    container.bundle = bundle;
    container.rootfs = absl::StartsWith(config->root.path, "/")
                           ? config->root.path
                           : absl::StrCat(bundle, "/", config->root.path);
    container.runtime_root = layout_.runtime_root;
    if (Annotation(*config, layout_.type_key) != layout_.container_type) {
      return absl::FailedPreconditionError(
          absl::StrCat(id, " is a pod's sandbox, not one of its containers"));
    }
    GODWIT_RETURN_IF_ERROR(FindProcess(container));
    GODWIT_RETURN_IF_ERROR(FindCgroup(config->linux_part.cgroups_path, container));
    return container;
  }

 private:
  static std::string Annotation(const Config& config, const std::string& key) {
    const auto found = config.annotations.find(key);
    return found == config.annotations.end() ? "" : found->second;
  }

  Container FromConfig(const Config& config) const {
    Container container;
    container.name = Annotation(config, layout_.name_key);
    container.pod_uid = Annotation(config, layout_.uid_key);
    container.pod_name = Annotation(config, layout_.pod_key);
    container.pod_namespace = Annotation(config, layout_.namespace_key);
    container.sandbox_id = Annotation(config, layout_.sandbox_key);
    container.terminal = config.process.terminal;
    for (const Config::Mount& mount : config.mounts) {
      container.mounts.push_back({mount.destination, mount.source, mount.type, mount.options});
    }
    for (const Config::Device& device : config.linux_part.devices) container.devices.push_back(device.path);
    for (const Config::Namespace& name_space : config.linux_part.namespaces) {
      container.namespaces[name_space.type] = name_space.path;
    }
    return container;
  }

  absl::Status FindProcess(Container& container) const {
    const std::string path = absl::StrCat(container.bundle, "/", layout_.pid_file);
    const absl::StatusOr<std::string> text = ReadFile(host_.At(path), 64);
    const absl::Status stopped = absl::FailedPreconditionError(absl::StrCat(
        "container ", container.name, " (", container.id, ") does not run: its init process is gone"));
    if (absl::IsNotFound(text.status())) return stopped;
    if (!text.ok()) return text.status();
    if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &container.init_pid) ||
        container.init_pid <= 1) {
      return absl::DataLossError(absl::StrCat(path, " holds no process id"));
    }
    const absl::StatusOr<Process> init = ReadProcess(host_.proc, container.init_pid);
    if (absl::IsNotFound(init.status()) || (init.ok() && init->state == 'Z')) return stopped;
    return init.status();
  }

  // The kernel is asked where the process is; what config.json says must agree, else the pid was given to
  // another.
  absl::Status FindCgroup(absl::string_view cgroups_path, Container& container) const {
    GODWIT_ASSIGN_OR_RETURN(const std::string seen, CgroupOfProcess(host_.proc, container.init_pid));
    const absl::StatusOr<std::string> configured = ResolveCgroupsPath(cgroups_path);
    if (!configured.ok()) return Annotate(configured.status(), absl::StrCat("container ", container.name));
    // Below it: a container that has made cgroups of its own (systemd inside).
    if (seen != *configured && !absl::StartsWith(seen, absl::StrCat(*configured, "/"))) {
      return absl::FailedPreconditionError(absl::StrCat("init process ", container.init_pid, " of container ",
                                                        container.name, " is in cgroup ", seen, ", not in ",
                                                        *configured, " as its config.json says"));
    }
    container.cgroup = absl::StrCat(host_.cgroup, *configured);
    return absl::OkStatus();
  }

  HostView host_;
  Layout layout_;
};

}  // namespace

std::string HostView::At(absl::string_view host_path) const { return absl::StrCat(root, host_path); }

std::unique_ptr<ContainerRuntime> Containerd(HostView host) {
  return std::make_unique<FromFiles>(std::move(host),
                                     Layout{.runtime = "containerd",
                                            .bundles = "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
                                            .below_id = "",
                                            .pid_file = "init.pid",
                                            .runtime_root = "/run/containerd/runc/k8s.io",
                                            .type_key = "io.kubernetes.cri.container-type",
                                            .container_type = "container",
                                            .name_key = "io.kubernetes.cri.container-name",
                                            .uid_key = "io.kubernetes.cri.sandbox-uid",
                                            .pod_key = "io.kubernetes.cri.sandbox-name",
                                            .namespace_key = "io.kubernetes.cri.sandbox-namespace",
                                            .sandbox_key = "io.kubernetes.cri.sandbox-id"});
}

std::unique_ptr<ContainerRuntime> CriO(HostView host) {
  return std::make_unique<FromFiles>(std::move(host),
                                     Layout{.runtime = "cri-o",
                                            .bundles = "/run/containers/storage/overlay-containers",
                                            .below_id = "/userdata",
                                            .pid_file = "pidfile",
                                            .runtime_root = "/run/runc",
                                            .type_key = "io.kubernetes.cri-o.ContainerType",
                                            .container_type = "container",
                                            .name_key = "io.kubernetes.container.name",
                                            .uid_key = "io.kubernetes.pod.uid",
                                            .pod_key = "io.kubernetes.pod.name",
                                            .namespace_key = "io.kubernetes.pod.namespace",
                                            .sandbox_key = "io.kubernetes.cri-o.SandboxID"});
}

absl::StatusOr<Container> FindContainer(const HostView& host, absl::string_view container_id) {
  absl::string_view id = container_id;
  std::unique_ptr<ContainerRuntime> runtime;
  if (absl::ConsumePrefix(&id, "containerd://")) {
    runtime = Containerd(host);
  } else if (absl::ConsumePrefix(&id, "cri-o://")) {
    runtime = CriO(host);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("container id \"", container_id.substr(0, 200),
                     "\" is of no container runtime that Godwit knows (containerd://, cri-o://)"));
  }
  GODWIT_ASSIGN_OR_RETURN(Container container, runtime->Find(std::string(id)));
  // None when it is just ending: then there is no device that could be its root's.
  container.root_device = DeviceOf(host.At(container.rootfs)).value_or("");
  container.place = PlaceOf(host, container).value_or(Place());
  return container;
}

}  // namespace godwit::runtime
