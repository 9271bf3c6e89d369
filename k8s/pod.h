// SPDX-License-Identifier: Apache-2.0
// core/v1 Pod: the fields that decide whether and how a pod can be moved, placed and judged. To create a pod
// from another read it as Unstructured, which keeps every field, and change that (k8s/unstructured.h).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "k8s/core.h"
#include "k8s/meta.h"
#include "k8s/unstructured.h"

namespace godwit::k8s {

struct EnvVar {
  std::string name;
  std::string value;
  json::Raw value_from;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("name", self.name);
    field("value", self.value);
    field("valueFrom", self.value_from);
  }
  bool operator==(const EnvVar&) const = default;
};

struct ContainerPort {
  std::string name;
  int32_t container_port = 0;
  int32_t host_port = 0;
  std::string protocol;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("name", self.name);
    field("containerPort", self.container_port);
    field("hostPort", self.host_port);
    field("protocol", self.protocol);
  }
  bool operator==(const ContainerPort&) const = default;
};

struct ResourceRequirements {
  std::map<std::string, std::string> limits;  // quantities: k8s/quantity.h
  std::map<std::string, std::string> requests;
  json::Raw claims;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("limits", self.limits);
    field("requests", self.requests);
    field("claims", self.claims);
  }
  bool operator==(const ResourceRequirements&) const = default;
};

struct VolumeMount {
  std::string name;
  std::string mount_path;
  std::string sub_path;
  std::string sub_path_expr;
  std::string mount_propagation;
  bool read_only = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("name", self.name);
    field("mountPath", self.mount_path);
    field("subPath", self.sub_path);
    field("subPathExpr", self.sub_path_expr);
    field("mountPropagation", self.mount_propagation);
    field("readOnly", self.read_only);
  }
  bool operator==(const VolumeMount&) const = default;
};

struct VolumeDevice {
  std::string name;
  std::string device_path;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("name", self.name);
    field("devicePath", self.device_path);
  }
  bool operator==(const VolumeDevice&) const = default;
};

// The action (exec, httpGet, tcpSocket, grpc) is kept as it came. Zero means that the field was absent.
struct Probe {
  json::Raw exec;
  json::Raw http_get;
  json::Raw tcp_socket;
  json::Raw grpc;
  int32_t initial_delay_seconds = 0;
  int32_t timeout_seconds = 0;
  int32_t period_seconds = 0;
  int32_t success_threshold = 0;
  int32_t failure_threshold = 0;
  std::optional<int64_t> termination_grace_period_seconds;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("exec", self.exec);
    field("httpGet", self.http_get);
    field("tcpSocket", self.tcp_socket);
    field("grpc", self.grpc);
    field("initialDelaySeconds", self.initial_delay_seconds);
    field("timeoutSeconds", self.timeout_seconds);
    field("periodSeconds", self.period_seconds);
    field("successThreshold", self.success_threshold);
    field("failureThreshold", self.failure_threshold);
    field("terminationGracePeriodSeconds", self.termination_grace_period_seconds);
  }
  bool operator==(const Probe&) const = default;
};

struct Lifecycle {
  json::Raw post_start;
  json::Raw pre_stop;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("postStart", self.post_start);
    field("preStop", self.pre_stop);
  }
  bool operator==(const Lifecycle&) const = default;
};

struct SecurityContext {
  std::optional<bool> privileged;
  std::optional<int64_t> run_as_user;
  std::optional<bool> read_only_root_filesystem;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("privileged", self.privileged);
    field("runAsUser", self.run_as_user);
    field("readOnlyRootFilesystem", self.read_only_root_filesystem);
  }
  bool operator==(const SecurityContext&) const = default;
};

struct Container {
  std::string name;
  std::string image;
  std::vector<std::string> command;
  std::vector<std::string> args;
  std::vector<EnvVar> env;
  std::vector<ContainerPort> ports;
  ResourceRequirements resources;
  std::vector<VolumeMount> volume_mounts;
  std::vector<VolumeDevice> volume_devices;
  std::optional<Probe> liveness_probe;
  std::optional<Probe> readiness_probe;
  std::optional<Probe> startup_probe;
  std::optional<Lifecycle> lifecycle;
  std::optional<SecurityContext> security_context;
  std::string image_pull_policy;
  std::string restart_policy;  // "Always" on an init container: a sidecar
  bool stdin = false;
  bool tty = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("name", self.name);
    field("image", self.image);
    field("command", self.command);
    field("args", self.args);
    field("env", self.env);
    field("ports", self.ports);
    field("resources", self.resources);
    field("volumeMounts", self.volume_mounts);
    field("volumeDevices", self.volume_devices);
    field("livenessProbe", self.liveness_probe);
    field("readinessProbe", self.readiness_probe);
    field("startupProbe", self.startup_probe);
    field("lifecycle", self.lifecycle);
    field("securityContext", self.security_context);
    field("imagePullPolicy", self.image_pull_policy);
    field("restartPolicy", self.restart_policy);
    field("stdin", self.stdin);
    field("tty", self.tty);
  }
  bool operator==(const Container&) const = default;
};

struct EmptyDir {
  std::string medium;  // "", "Memory", "HugePages..."
  std::string size_limit;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("medium", self.medium);
    field("sizeLimit", self.size_limit);
  }
  bool operator==(const EmptyDir&) const = default;
};

// Name and source. The sources that are only told apart by their kind stay in `source`: `kind` is the API's
// field name
// ("configMap", "secret", "projected", "hostPath", "persistentVolumeClaim", "emptyDir", ...), or "" when
// there is none.
struct Volume {
  std::string name;
  std::string kind;
  std::optional<EmptyDir> empty_dir;
  Unstructured source;  // the whole volume as it came; what is written

  bool operator==(const Volume&) const = default;
};
absl::Status ReadScalar(const rapidjson::Value& in, absl::string_view path, Volume& out);
rapidjson::Value WriteScalar(const Volume& in, rapidjson::Document::AllocatorType& allocator);

struct NamedReference {  // scheduling gates
  std::string name;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("name", self.name);
  }
  bool operator==(const NamedReference&) const = default;
};

struct PodReadinessGate {
  std::string condition_type;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("conditionType", self.condition_type);
  }
  bool operator==(const PodReadinessGate&) const = default;
};

struct Toleration {
  std::string key;
  std::string op;  // "" or "Equal", "Exists"
  std::string value;
  std::string effect;
  std::optional<int64_t> toleration_seconds;
  // Whether a pod with this toleration bears the taint.
  bool Tolerates(const Taint& taint) const;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("key", self.key);
    field("operator", self.op);
    field("value", self.value);
    field("effect", self.effect);
    field("tolerationSeconds", self.toleration_seconds);
  }
  bool operator==(const Toleration&) const = default;
};

struct PodSpec {
  std::string node_name;
  std::string runtime_class_name;
  std::string restart_policy;
  std::string service_account_name;
  std::string hostname;
  std::string subdomain;
  std::string scheduler_name;
  std::string priority_class_name;
  std::optional<int64_t> termination_grace_period_seconds;
  std::optional<int64_t> active_deadline_seconds;
  bool host_network = false;
  bool host_pid = false;
  bool host_ipc = false;
  std::optional<bool> host_users;
  bool share_process_namespace = false;
  std::map<std::string, std::string> node_selector;
  json::Raw affinity;
  std::vector<Toleration> tolerations;
  std::vector<Container> init_containers;
  std::vector<Container> containers;
  std::vector<Container> ephemeral_containers;
  std::vector<Volume> volumes;
  std::vector<NamedReference> scheduling_gates;
  std::vector<PodReadinessGate> readiness_gates;
  json::Raw resource_claims;
  std::map<std::string, std::string> overhead;

  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("nodeName", self.node_name);
    field("runtimeClassName", self.runtime_class_name);
    field("restartPolicy", self.restart_policy);
    field("serviceAccountName", self.service_account_name);
    field("hostname", self.hostname);
    field("subdomain", self.subdomain);
    field("schedulerName", self.scheduler_name);
    field("priorityClassName", self.priority_class_name);
    field("terminationGracePeriodSeconds", self.termination_grace_period_seconds);
    field("activeDeadlineSeconds", self.active_deadline_seconds);
    field("hostNetwork", self.host_network);
    field("hostPID", self.host_pid);
    field("hostIPC", self.host_ipc);
    field("hostUsers", self.host_users);
    field("shareProcessNamespace", self.share_process_namespace);
    field("nodeSelector", self.node_selector);
    field("affinity", self.affinity);
    field("tolerations", self.tolerations);
    field("initContainers", self.init_containers);
    field("containers", self.containers);
    field("ephemeralContainers", self.ephemeral_containers);
    field("volumes", self.volumes);
    field("schedulingGates", self.scheduling_gates);
    field("readinessGates", self.readiness_gates);
    field("resourceClaims", self.resource_claims);
    field("overhead", self.overhead);
  }
  bool operator==(const PodSpec&) const = default;
};

struct ContainerStateRunning {
  std::optional<absl::Time> started_at;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("startedAt", self.started_at);
  }
  bool operator==(const ContainerStateRunning&) const = default;
};

struct ContainerStateWaiting {
  std::string reason;  // "ContainerCreating", "ImagePullBackOff", ...
  std::string message;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("reason", self.reason);
    field("message", self.message);
  }
  bool operator==(const ContainerStateWaiting&) const = default;
};

struct ContainerStateTerminated {
  int32_t exit_code = 0;
  int32_t signal = 0;
  std::string reason;
  std::string message;
  std::optional<absl::Time> started_at;
  std::optional<absl::Time> finished_at;
  std::string container_id;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("exitCode", self.exit_code);
    field("signal", self.signal);
    field("reason", self.reason);
    field("message", self.message);
    field("startedAt", self.started_at);
    field("finishedAt", self.finished_at);
    field("containerID", self.container_id);
  }
  bool operator==(const ContainerStateTerminated&) const = default;
};

struct ContainerState {
  std::optional<ContainerStateWaiting> waiting;
  std::optional<ContainerStateRunning> running;
  std::optional<ContainerStateTerminated> terminated;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("waiting", self.waiting);
    field("running", self.running);
    field("terminated", self.terminated);
  }
  bool operator==(const ContainerState&) const = default;
};

struct ContainerStatus {
  std::string name;
  std::string image;
  std::string image_id;      // "docker.io/library/app@sha256:..." or "sha256:..."
  std::string container_id;  // "containerd://3f2a..."
  bool ready = false;
  std::optional<bool> started;
  int32_t restart_count = 0;
  ContainerState state;
  ContainerState last_state;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("name", self.name);
    field("image", self.image);
    field("imageID", self.image_id);
    field("containerID", self.container_id);
    field("ready", self.ready);
    field("started", self.started);
    field("restartCount", self.restart_count);
    field("state", self.state);
    field("lastState", self.last_state);
  }
  bool operator==(const ContainerStatus&) const = default;
};

struct PodIp {
  std::string ip;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("ip", self.ip);
  }
  bool operator==(const PodIp&) const = default;
};

struct PodStatus {
  std::string phase;  // Pending, Running, Succeeded, Failed, Unknown
  std::string reason;
  std::string message;
  int64_t observed_generation = 0;
  std::string host_ip;
  std::string pod_ip;
  std::vector<PodIp> pod_ips;
  std::string qos_class;
  std::optional<absl::Time> start_time;
  std::vector<StatusCondition> conditions;
  std::vector<ContainerStatus> init_container_statuses;
  std::vector<ContainerStatus> container_statuses;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("phase", self.phase);
    field("reason", self.reason);
    field("message", self.message);
    field("observedGeneration", self.observed_generation);
    field("hostIP", self.host_ip);
    field("podIP", self.pod_ip);
    field("podIPs", self.pod_ips);
    field("qosClass", self.qos_class);
    field("startTime", self.start_time);
    field("conditions", self.conditions);
    field("initContainerStatuses", self.init_container_statuses);
    field("containerStatuses", self.container_statuses);
  }
  bool operator==(const PodStatus&) const = default;
};

struct Pod {
  static constexpr Resource kResource{"", "v1", "pods", "Pod"};
  ObjectMeta metadata;
  PodSpec spec;
  PodStatus status;

  bool running() const { return status.phase == "Running"; }
  bool finished() const { return status.phase == "Succeeded" || status.phase == "Failed"; }
  bool ready() const { return IsConditionTrue(status.conditions, "Ready"); }
  // The status of the container with that name (not init containers), or null.
  const ContainerStatus* FindStatus(absl::string_view container) const;

  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const Pod&) const = default;
};

}  // namespace godwit::k8s
