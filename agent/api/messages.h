// SPDX-License-Identifier: Apache-2.0
// What controller and agent say to each other: JSON over HTTPS with client certificates (docs/agent-api.md).
// The controller names everything; an agent knows of Kubernetes only what stands here. Every request can be
// repeated: the same PUT twice is one piece of work. Sizes are bytes, durations Go notation ("1.5s"), times
// RFC 3339.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/json.h"

namespace godwit::agent_api {

inline constexpr int kDefaultApiPort = 9551;      // HTTPS, controller only
inline constexpr int kDefaultStreamPort = 9552;   // TLS, agent to agent (agent/transfer)
inline constexpr int kDefaultMetricsPort = 9553;  // HTTP, Prometheus

// The error body of every answer that is not 2xx: {"error":{"reason":"NotFound","message":"..."}}.
struct ErrorBody {
  struct Error {
    std::string reason;   // absl status code in CamelCase: NotFound, FailedPrecondition, ...
    std::string message;  // for a person
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field.Required("reason", self.reason);
      field.Required("message", self.message);
    }
    bool operator==(const Error&) const = default;
  };
  Error error;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("error", self.error);
  }
};

struct PodName {
  std::string name_space;
  std::string name;
  std::string uid;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("namespace", self.name_space);
    field.Required("name", self.name);
    field.Required("uid", self.uid);
  }
  bool operator==(const PodName&) const = default;
};

// One container of a running pod, as its status in the API server says.
struct ContainerRef {
  std::string name;
  std::string id;  // as in status.containerStatuses[].containerID, e.g. "containerd://3f2a..."
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("name", self.name);
    field("id", self.id);
  }
  bool operator==(const ContainerRef&) const = default;
};

// Something preflight found. Blocking findings refuse the migration or checkpoint.
enum class Severity { kInfo, kWarning, kBlocking };
constexpr std::array<std::pair<Severity, absl::string_view>, 3> JsonNames(Severity) {
  return {{{Severity::kInfo, "Info"}, {Severity::kWarning, "Warning"}, {Severity::kBlocking, "Blocking"}}};
}
struct Finding {
  std::string id;  // stable, CamelCase: "IoUring", "DeviceFile", "ArchitectureMismatch"
  Severity severity = Severity::kInfo;
  std::string container;  // empty: the pod or the node
  std::string message;    // a sentence: what was found, and where
  std::string remedy;     // a sentence: what a person can do
  std::string evidence;   // what was read, printable: "/proc/77/fd/12 -> anon_inode:[io_uring]"
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("id", self.id);
    field.Required("severity", self.severity);
    field("container", self.container);
    field.Required("message", self.message);
    field("remedy", self.remedy);
    field("evidence", self.evidence);
  }
  bool operator==(const Finding&) const = default;
};

// GET /v1/node
struct NodeInfo {
  std::string node;          // the name in the agent's certificate
  std::string version;       // Godwit's
  std::string architecture;  // amd64 or arm64
  std::string kernel;        // uname -r
  std::string criu_version;
  std::string runc_version;
  bool runtime_ready = false;     // the container runtime knows the handler "godwit"
  int64_t memory_available = 0;   // MemAvailable
  int64_t storage_available = 0;  // free bytes where images and archives are written
  int64_t storage_reserve = 0;    // of these, what archives leave free; images of migrations may take it
  int64_t images_bytes = 0;       // bytes that Godwit holds there
  std::string no_pre_copy;        // not empty: why this node's kernel cannot pre-copy ("kernel 6.1 has no
                                  // PAGEMAP_SCAN ...")
  std::vector<std::string> cpu_features;      // flags (amd64) or Features (arm64) of /proc/cpuinfo, sorted
  std::string cgroup_mode;                    // "v2", "hybrid" or "v1"
  std::vector<std::string> security_modules;  // that are active: "apparmor", "selinux", ...
  std::string criu_check;                     // not empty: what `criu check` had against this node
  bool lacks_sys_resource = false;            // the node's own processes do not have CAP_SYS_RESOURCE
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("node", self.node);
    field.Required("version", self.version);
    field.Required("architecture", self.architecture);
    field.Required("kernel", self.kernel);
    field("criuVersion", self.criu_version);
    field("runcVersion", self.runc_version);
    field("runtimeReady", self.runtime_ready);
    field("memoryAvailable", self.memory_available);
    field("storageAvailable", self.storage_available);
    field("storageReserve", self.storage_reserve);
    field("imagesBytes", self.images_bytes);
    field("noPreCopy", self.no_pre_copy);
    field("cpuFeatures", self.cpu_features);
    field("cgroupMode", self.cgroup_mode);
    field("securityModules", self.security_modules);
    field("criuCheck", self.criu_check);
    field("lacksSysResource", self.lacks_sys_resource);
  }
};

// POST /v1/preflight: looks at a pod that runs here, before anything is touched.
struct PreflightRequest {
  PodName pod;
  std::vector<ContainerRef> containers;
  std::vector<std::string> empty_dirs;  // names of the pod's emptyDir volumes
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("pod", self.pod);
    field.Required("containers", self.containers);
    field("emptyDirs", self.empty_dirs);
  }
};
// What CRIU's part of a freeze depends on beside memory, of all processes of a pod.
struct Weight {
  int64_t processes = 0;
  int64_t threads = 0;      // the processes' first ones included
  int64_t descriptors = 0;  // one that two processes hold counts twice
  int64_t mappings = 0;
  Weight& operator+=(const Weight& more) {
    processes += more.processes;
    threads += more.threads;
    descriptors += more.descriptors;
    mappings += more.mappings;
    return *this;
  }
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("processes", self.processes);
    field("threads", self.threads);
    field("descriptors", self.descriptors);
    field("mappings", self.mappings);
  }
  bool operator==(const Weight&) const = default;
};
struct PreflightReport {
  std::vector<Finding> findings;
  int64_t memory_bytes = 0;  // resident anonymous and shared memory that would move
  int64_t file_bytes = 0;    // writable layers and emptyDirs that would move
  Weight weight;
  bool other_users = false;  // some process is not root's
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("findings", self.findings);
    field("memoryBytes", self.memory_bytes);
    field("fileBytes", self.file_bytes);
    field("weight", self.weight);
    field("otherUsers", self.other_users);
  }
};

// PUT /v1/migrations/{uid}/target: the permit. From now on `create` of these containers in this pod waits for
// the state of migration {uid}, which only the agent of `source_node` may bring.
struct TargetSpec {
  PodName migration;
  PodName pod;  // the target pod; its uid is the sandbox UID that the container runtime reports
  std::vector<std::string> containers;  // in the order in which kubelet starts them
  std::string source_node;
  int64_t expected_bytes = 0;  // memory_bytes + file_bytes of preflight; checked against what is free here
  absl::Duration
      create_limit;  // the longest that one `create` may wait (below kubelet's runtimeRequestTimeout)
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("migration", self.migration);
    field.Required("pod", self.pod);
    field.Required("containers", self.containers);
    field.Required("sourceNode", self.source_node);
    field("expectedBytes", self.expected_bytes);
    field("createLimit", self.create_limit);
  }
  bool operator==(const TargetSpec&) const = default;
};

// How a source copies the memory. kPostCopy: in rounds as kPreCopy, but one is enough, and what is written
// after the last is not sent in the freeze: the target runs without it and pulls it.
enum class CopyMode { kStopAndCopy, kPreCopy, kPostCopy };
constexpr std::array<std::pair<CopyMode, absl::string_view>, 3> JsonNames(CopyMode) {
  return {{{CopyMode::kStopAndCopy, "StopAndCopy"},
           {CopyMode::kPreCopy, "PreCopy"},
           {CopyMode::kPostCopy, "PostCopy"}}};
}
// What a pre-copy does when it will not come within its freeze budget. kPostCopy: it freezes, and ends as
// kPostCopy does.
enum class WhenNotConverging { kFail, kFreeze, kPostCopy };
constexpr std::array<std::pair<WhenNotConverging, absl::string_view>, 3> JsonNames(WhenNotConverging) {
  return {{{WhenNotConverging::kFail, "Fail"},
           {WhenNotConverging::kFreeze, "Freeze"},
           {WhenNotConverging::kPostCopy, "PostCopy"}}};
}

// POST /v1/migrations/{uid}/source/limits: replaces those of the SourceSpec while it runs.
struct PreCopyLimits {
  absl::Duration freeze_budget;     // freeze only when the prediction is below
  absl::Duration pre_copy_timeout;  // from the first round
  WhenNotConverging when_not_converging = WhenNotConverging::kFail;
  int64_t bandwidth_limit = 0;  // bytes per second; 0: none
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("freezeBudget", self.freeze_budget);
    field("preCopyTimeout", self.pre_copy_timeout);
    field("whenNotConverging", self.when_not_converging);
    field("bandwidthLimit", self.bandwidth_limit);
  }
  bool operator==(const PreCopyLimits&) const = default;
};

// PUT /v1/migrations/{uid}/source: freeze, dump, send, and commit or abort with the target agent.
// StopAndCopy: sent when the first container of the target pod waits in `create`, and freezes at once.
// PreCopy: sent when the target has its permit; copies in rounds, says `converged` in its status, and goes on
// with that until it is told to switch. PostCopy: as PreCopy; once the target runs the source goes on serving
// pages (status: `serving`), frozen, until all have arrived.
//
// POST /v1/migrations/{uid}/source/switch (no body): the target's first container waits in `create`; freeze
// when the prediction fits. May be repeated. Before it a PreCopy source freezes nothing.
struct SourceSpec {
  PodName migration;
  PodName pod;
  PodName target_pod;
  std::vector<ContainerRef> containers;  // in the order in which kubelet starts them
  std::vector<std::string> empty_dirs;
  std::string target_node;     // the name that the target agent's certificate must carry
  std::string target_address;  // ip:port of its stream
  absl::Duration
      freeze_limit;  // the longest freeze; the source thaws by itself then (design: tightest liveness probe)
  CopyMode mode = CopyMode::kStopAndCopy;
  PreCopyLimits limits;                    // not kStopAndCopy
  std::vector<std::string> pod_addresses;  // fenced on the source's node while the pod stands still
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("migration", self.migration);
    field.Required("pod", self.pod);
    field.Required("targetPod", self.target_pod);
    field.Required("containers", self.containers);
    field("emptyDirs", self.empty_dirs);
    field.Required("targetNode", self.target_node);
    field.Required("targetAddress", self.target_address);
    field.Required("freezeLimit", self.freeze_limit);
    field("mode", self.mode);
    field("limits", self.limits);
    field("podAddresses", self.pod_addresses);
  }
  bool operator==(const SourceSpec&) const = default;
};

// POST /v1/rehearsal: what a migration of a pod that runs here would be like. Looks at its memory for a
// moment with the tracker of a pre-copy and sends a sample of it to the target's agent, which drops it;
// answers in some seconds. Nothing is written, frozen or promised, and nothing is left when either agent dies
// in between.
struct RehearsalRequest {
  PodName pod;
  std::vector<ContainerRef> containers;
  std::string target_node;     // as in SourceSpec
  std::string target_address;  // as in SourceSpec
  CopyMode mode = CopyMode::kPreCopy;
  PreCopyLimits limits;
  int64_t memory_bytes = 0;  // as preflight has found them
  int64_t file_bytes = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("pod", self.pod);
    field.Required("containers", self.containers);
    field.Required("targetNode", self.target_node);
    field.Required("targetAddress", self.target_address);
    field("mode", self.mode);
    field("limits", self.limits);
    field("memoryBytes", self.memory_bytes);
    field("fileBytes", self.file_bytes);
  }
};
struct RehearsalReport {
  std::vector<Finding> findings;
  std::string fallback;  // not empty: memory cannot be pre-copied, and why; the rest is of a stop-and-copy
  // The prediction.
  bool converges = false;      // the freeze comes within the budget; true where nothing is pre-copied
  int64_t rounds = 0;          // of pre-copy until then, or until it gives up
  absl::Duration copying;      // for so long, while the pod runs
  absl::Duration freeze;       // predicted
  absl::Duration fixed;        // within it: what no round makes shorter
  absl::Duration pulling;      // of a post-copy: from the thaw until all has arrived
  int64_t transfer_bytes = 0;  // over the network, in all
  // What it was made from.
  Weight weight;
  int64_t memory_bytes = 0;   // that the page engine carries; as PreCopyProgress
  int64_t dirty_bytes = 0;    // written within the longest look
  int64_t dirty_rate = 0;     // bytes per second, then
  int64_t throughput = 0;     // bytes of pages per second
  int64_t sampled_bytes = 0;  // sent as a sample
  absl::Duration sampled;     // for so long the pod's memory was looked at
  absl::Duration round_trip;  // to the target's agent and back
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("findings", self.findings);
    field("fallback", self.fallback);
    field("converges", self.converges);
    field("rounds", self.rounds);
    field("copying", self.copying);
    field("freeze", self.freeze);
    field("fixed", self.fixed);
    field("pulling", self.pulling);
    field("transferBytes", self.transfer_bytes);
    field("weight", self.weight);
    field("memoryBytes", self.memory_bytes);
    field("dirtyBytes", self.dirty_bytes);
    field("dirtyRate", self.dirty_rate);
    field("throughput", self.throughput);
    field("sampledBytes", self.sampled_bytes);
    field("sampled", self.sampled);
    field("roundTrip", self.round_trip);
  }
};

// One step of a freeze, in the order in which they ran. Offset and duration are from a monotonic clock.
struct FreezeStep {
  std::string name;  // "freeze", "dump", "files", "send", "restore", "commit", ...
  std::string container;
  absl::Duration offset;  // from the beginning of the freeze
  absl::Duration duration;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("name", self.name);
    field("container", self.container);
    field("offset", self.offset);
    field("duration", self.duration);
  }
  bool operator==(const FreezeStep&) const = default;
};

enum class SourceState { kNone, kOpen, kFrozen, kCeded, kDone, kAborted };
constexpr std::array<std::pair<SourceState, absl::string_view>, 6> JsonNames(SourceState) {
  return {{{SourceState::kNone, "None"},
           {SourceState::kOpen, "Open"},
           {SourceState::kFrozen, "Frozen"},
           {SourceState::kCeded, "Ceded"},
           {SourceState::kDone, "Done"},
           {SourceState::kAborted, "Aborted"}}};
}
enum class TargetState { kNone, kOpen, kPrepared, kRunning, kAborted };
constexpr std::array<std::pair<TargetState, absl::string_view>, 5> JsonNames(TargetState) {
  return {{{TargetState::kNone, "None"},
           {TargetState::kOpen, "Open"},
           {TargetState::kPrepared, "Prepared"},
           {TargetState::kRunning, "Running"},
           {TargetState::kAborted, "Aborted"}}};
}

// How far a pre-copy is.
struct PreCopyProgress {
  int64_t rounds = 0;           // finished
  int64_t memory_bytes = 0;     // that the container's tasks have mapped and the engine carries
  int64_t dirty_bytes = 0;      // found written in the last round
  int64_t dirty_rate = 0;       // bytes per second
  int64_t throughput = 0;       // bytes of pages per second that the last rounds reached
  int64_t sent_bytes = 0;       // content that went over, all rounds
  int64_t zero_bytes = 0;       // sent as zeros
  int64_t unchanged_bytes = 0;  // written but of the same content: not sent
  absl::Duration predicted_freeze;
  bool converged = false;  // the prediction fits the budget
  bool gave_up = false;    // it will not fit; when_not_converging was done
  std::string fallback;  // not empty: memory is not pre-copied, and why ("... has files open with O_DIRECT")
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("rounds", self.rounds);
    field("memoryBytes", self.memory_bytes);
    field("dirtyBytes", self.dirty_bytes);
    field("dirtyRate", self.dirty_rate);
    field("throughput", self.throughput);
    field("sentBytes", self.sent_bytes);
    field("zeroBytes", self.zero_bytes);
    field("unchangedBytes", self.unchanged_bytes);
    field("predictedFreeze", self.predicted_freeze);
    field("converged", self.converged);
    field("gaveUp", self.gave_up);
    field("fallback", self.fallback);
  }
  bool operator==(const PreCopyProgress&) const = default;
};

// GET /v1/migrations/{uid}/source
struct SourceStatus {
  SourceState state = SourceState::kNone;
  bool target_running = false;  // the target has said that RUNNING is durable there
  std::string reason;           // CamelCase, when aborted
  std::string message;          // for a person, when aborted
  absl::Time frozen_at;
  absl::Duration freeze;  // so far, or in all when the target runs or the source is thawed
  std::vector<FreezeStep> steps;
  int64_t memory_bytes = 0;  // sent: page images
  int64_t file_bytes = 0;    // sent: writable layers, emptyDirs
  int64_t wire_bytes = 0;    // sent: everything, frames included
  // What was left in the freeze for the target to pull, bytes; it lives here alone while `serving`, and until
  // then the source must not be killed, nor its pod be deleted.
  int64_t pull_bytes = 0;
  int64_t pulled_bytes = 0;  // sent of that
  bool serving = false;
  // But for CopyMode::kStopAndCopy:
  bool switching = false;  // it was told to switch
  PreCopyLimits limits;    // in use: those of the SourceSpec, or what replaced them
  PreCopyProgress pre_copy;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("state", self.state);
    field("targetRunning", self.target_running);
    field("reason", self.reason);
    field("message", self.message);
    field("frozenAt", self.frozen_at);
    field("freeze", self.freeze);
    field("steps", self.steps);
    field("memoryBytes", self.memory_bytes);
    field("fileBytes", self.file_bytes);
    field("wireBytes", self.wire_bytes);
    field("pullBytes", self.pull_bytes);
    field("pulledBytes", self.pulled_bytes);
    field("serving", self.serving);
    field("switching", self.switching);
    field("limits", self.limits);
    field("preCopy", self.pre_copy);
  }
};

// Memory that the target pulls from the source while it runs already.
struct PullStatus {
  bool pulling = false;       // some is missing, or may be; the source is needed
  int64_t total_bytes = 0;    // was missing when the target began to run, or will be when it does
  int64_t missing_bytes = 0;  // is still
  int64_t faults = 0;         // missing pages that the processes waited for
  absl::Duration fault_p50;   // from a fault on a missing page to its installation
  absl::Duration fault_p99;
  std::string lost;  // not empty: it will never come, and why; the containers concerned were killed
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("pulling", self.pulling);
    field("totalBytes", self.total_bytes);
    field("missingBytes", self.missing_bytes);
    field("faults", self.faults);
    field("faultP50", self.fault_p50);
    field("faultP99", self.fault_p99);
    field("lost", self.lost);
  }
  bool operator==(const PullStatus&) const = default;
};

// GET /v1/migrations/{uid}/target and GET /v1/restores/{uid}
struct TargetStatus {
  TargetState state = TargetState::kNone;
  bool committing = false;  // kPrepared, and the word that it is to run has come
  std::string reason;
  std::string message;
  std::vector<std::string> waiting;   // containers whose `create` waits now
  std::vector<std::string> restored;  // containers that stand restored and still
  PullStatus pull;                    // of a post-copy, with kRunning; its total_bytes with kPrepared, too
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("state", self.state);
    field("committing", self.committing);
    field("reason", self.reason);
    field("message", self.message);
    field("waiting", self.waiting);
    field("restored", self.restored);
    field("pull", self.pull);
  }
};

// POST /v1/migrations/{uid}/source/abort and .../target/abort, POST /v1/restores/{uid}/abort. And, when a
// node is gone for good or a person vouches that the pod does not and will not run there: POST
// /v1/migrations/{uid}/source/reclaim: what was ceded goes on here; only while the target's word is awaited,
// and unless it comes after all. POST .../target/takeover (no body): the prepared copy runs without the
// source's COMMIT.
struct AbortRequest {
  std::string reason;
  std::string message;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("reason", self.reason);
    field("message", self.message);
  }
};

// POST /v1/migrations/{uid}/source/finish (FinishRequest, or no body): kills the frozen source with
// cgroup.kill; only in state Ceded with target_running and not `serving`, else FailedPrecondition. DELETE
// /v1/migrations/{uid}/source, .../target: forgets a finished or aborted side and removes what it wrote; the
// permit of a running pod stays as "fresh start" until its sandbox is gone.
struct FinishRequest {
  // Also while it serves: the target's pod is gone, nobody needs its pages any more.
  bool abandon = false;
  // Also though nobody has said that the target runs: a person gives the source up.
  bool unconfirmed = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("abandon", self.abandon);
    field("unconfirmed", self.unconfirmed);
  }
};

// PUT /v1/checkpoints/{uid}: copy the memory, freeze, dump, thaw, then write one archive a container.
struct CheckpointSpec {
  PodName checkpoint;
  PodName pod;
  std::vector<ContainerRef> containers;
  std::vector<std::string> empty_dirs;
  absl::Duration freeze_limit;
  std::vector<std::string> pod_addresses;  // fenced while the pod stands still
  json::Raw pod_manifest;  // the pod as the controller wants it made again; kept in the archive, opaque to
                           // the agent
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("checkpoint", self.checkpoint);
    field.Required("pod", self.pod);
    field.Required("containers", self.containers);
    field("emptyDirs", self.empty_dirs);
    field.Required("freezeLimit", self.freeze_limit);
    field("podAddresses", self.pod_addresses);
    field("podManifest", self.pod_manifest);
  }
};

enum class CheckpointState { kNone, kRunning, kReady, kFailed };
constexpr std::array<std::pair<CheckpointState, absl::string_view>, 4> JsonNames(CheckpointState) {
  return {{{CheckpointState::kNone, "None"},
           {CheckpointState::kRunning, "Running"},
           {CheckpointState::kReady, "Ready"},
           {CheckpointState::kFailed, "Failed"}}};
}

// One archive: a tar file that `checkpointctl` reads.
struct Archive {
  std::string container;
  std::string path;    // on the node
  int64_t size = 0;    // bytes
  std::string digest;  // "sha256:<hex>" of the file
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("container", self.container);
    field.Required("path", self.path);
    field.Required("size", self.size);
    field.Required("digest", self.digest);
  }
  bool operator==(const Archive&) const = default;
};

// GET /v1/checkpoints/{uid}; GET /v1/checkpoints/{uid}/manifest gives the pod manifest; DELETE removes the
// archives.
struct CheckpointStatus {
  CheckpointState state = CheckpointState::kNone;
  std::string reason;
  std::string message;
  absl::Time frozen_at;
  absl::Duration freeze;
  std::vector<FreezeStep> steps;
  std::string fallback;  // not empty: CRIU dumped the memory in the freeze, and why ("... has files open with
                         // O_DIRECT")
  std::string criu_version;
  int64_t memory_bytes = 0;
  std::vector<Archive> archives;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("state", self.state);
    field("reason", self.reason);
    field("message", self.message);
    field("frozenAt", self.frozen_at);
    field("freeze", self.freeze);
    field("steps", self.steps);
    field("fallback", self.fallback);
    field("criuVersion", self.criu_version);
    field("memoryBytes", self.memory_bytes);
    field("archives", self.archives);
  }
};

// PUT /v1/restores/{uid}: a permit that is filled from a checkpoint's archives: those here, or those of
// another node, fetched over the stream and verified against their digests before anything is restored.
// DELETE forgets it.
struct RestoreSpec {
  PodName restore;
  PodName pod;  // the new pod
  std::string checkpoint_uid;
  std::vector<Archive>
      archives;  // as in the Checkpoint's status, in the order in which kubelet starts the containers
  std::string archive_node;
  std::string archive_address;  // ip:port of that node's agent's stream; unused when it is this node
  absl::Duration create_limit;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("restore", self.restore);
    field.Required("pod", self.pod);
    field.Required("checkpointUID", self.checkpoint_uid);
    field.Required("archives", self.archives);
    field.Required("archiveNode", self.archive_node);
    field("archiveAddress", self.archive_address);
    field("createLimit", self.create_limit);
  }
  bool operator==(const RestoreSpec&) const = default;
};

}  // namespace godwit::agent_api
