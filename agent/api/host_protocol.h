// SPDX-License-Identifier: Apache-2.0
// What the agent and its two companions on the host say to each other, as JSON lines (one object, '\n') over
// Unix sockets:
//   godwit-runtime -> agent   /run/godwit/agent.sock            RuntimeRequest, answered by RuntimeReply
//   agent -> godwit-guard     <work folder>/guard.sock          GuardCommand, answered by GuardReply
// Host paths throughout; the agent sees the host through /proc/1/root where it does not mount the same path.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "agent/api/messages.h"
#include "base/json.h"

namespace godwit::agent_api {

inline constexpr char kInstallFolder[] =
    "/opt/godwit";  // bin/, criu/, etc/runtime.json; written by the installer
inline constexpr char kStateFolder[] =
    "/var/lib/godwit";  // permits/, migrations/, checkpoints/, restores/, journal/
inline constexpr char kRuntimeSocket[] = "/run/godwit/agent.sock";
inline constexpr char kMigrationAnnotation[] =
    "godwit.io/migration";  // value: UID of the Migration or Restore behind a pod

// --- godwit-runtime -> agent
// -------------------------------------------------------------------------------------

enum class RuntimeOp { kCreate, kRestored, kFailed };
constexpr std::array<std::pair<RuntimeOp, absl::string_view>, 3> JsonNames(RuntimeOp) {
  return {
      {{RuntimeOp::kCreate, "Create"}, {RuntimeOp::kRestored, "Restored"}, {RuntimeOp::kFailed, "Failed"}}};
}
// kCreate opens the conversation and is answered when the agent knows what to do (one connection a `create`;
// the agent takes a closed connection for a runtime that died). After kRestore the runtime answers kRestored
// or kFailed, and the agent says kDone (create succeeds, the container stands still) or kRefuse (the runtime
// destroys the container).
struct RuntimeRequest {
  RuntimeOp op = RuntimeOp::kCreate;
  std::string sandbox_uid;  // io.kubernetes.cri.sandbox-uid, set by the container runtime, not by the pod
  std::string container;    // io.kubernetes.cri.container-name
  std::string container_id;
  std::string bundle;
  std::string cgroup;   // below the host's cgroup2 mount, from linux.cgroupsPath, with both drivers resolved
  int64_t pid = 0;      // kRestored: the restored init process, in the host's pid namespace
  std::string message;  // kFailed
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("op", self.op);
    field("sandboxUID", self.sandbox_uid);
    field("container", self.container);
    field("containerID", self.container_id);
    field("bundle", self.bundle);
    field("cgroup", self.cgroup);
    field("pid", self.pid);
    field("message", self.message);
  }
};

enum class RuntimeAction { kRun, kRestore, kDone, kRefuse };
constexpr std::array<std::pair<RuntimeAction, absl::string_view>, 4> JsonNames(RuntimeAction) {
  return {{{RuntimeAction::kRun, "Run"},
           {RuntimeAction::kRestore, "Restore"},
           {RuntimeAction::kDone, "Done"},
           {RuntimeAction::kRefuse, "Refuse"}}};
}
struct RuntimeReply {
  RuntimeAction action = RuntimeAction::kRefuse;
  std::string images;  // kRestore: folder of CRIU images
  std::string work;    // kRestore: folder for CRIU's logs
  std::string gate;  // kRestore: FIFO at which CRIU waits until the agent writes a byte (criu_environment.h);
                     // empty: none. The images may come meanwhile; descriptors.json is there already.
  bool lazy_pages =
      false;  // kRestore: godwit-pager fills the memory; started by godwit-runtime before the restore
  std::string shared_memory;  // kRestore: file of the shared memory that the agent holds
                              // (criu_environment.h); empty: none
  std::string message;        // kRefuse: becomes the container's failure message that kubectl describe shows
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("action", self.action);
    field("images", self.images);
    field("work", self.work);
    field("gate", self.gate);
    field("lazyPages", self.lazy_pages);
    field("sharedMemory", self.shared_memory);
    field("message", self.message);
  }
};

// --- godwit-pager -> agent
// ---------------------------------------------------------------------------------------

// Over kPagesSocket: the pager asks before it listens, to be refused in time, and again when CRIU connects,
// for the stores of all tasks (the gate is open then, so that the agent knows them). Each time it asks once,
// and gets one line for every batch of at most kMaxPagesBatch tasks, with as many memfds beside it by
// SCM_RIGHTS, in the order of `tasks`; `more` is true in all lines but the last. Both sides close then,
// unless the lines say `pulled`: pages are missing, the target's agent still pulls them from the source. Then
// each task's memfd is followed by a second one, the map of its missing pages (agent/memory/page_set.h), and
// the connection stays: the pager sends PagerWords, the agent AgentWords. When it is cut, by the end of
// either, the pager that then is asks again, with `resume`, and gets maps of what is missing by now; or, of
// an agent that was restarted and has lost all that, a line with `give`: then it sends its own stores and
// maps, in lines of the same kind.
inline constexpr char kPagesSocket[] = "/run/godwit/pages.sock";
inline constexpr size_t kMaxPagesBatch = 120;
struct PagesRequest {
  std::string sandbox_uid;
  std::string container;
  bool resume = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("sandboxUID", self.sandbox_uid);
    field.Required("container", self.container);
    field("resume", self.resume);
  }
};
struct PagesReply {
  bool ok = false;
  std::string message;  // when not ok
  std::vector<int64_t>
      tasks;  // container pids; a memfd each: a page lies at the offset of its address, holes are zeros
  bool more = false;
  bool pulled = false;
  bool give = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("ok", self.ok);
    field("message", self.message);
    field("tasks", self.tasks);
    field("more", self.more);
    field("pulled", self.pulled);
    field("give", self.give);
  }
};
// Whole pages of a task's store; addresses are those of the store.
struct PageSpan {
  int64_t task = 0;  // container pid
  uint64_t start = 0;
  uint64_t bytes = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("task", self.task);
    field.Required("start", self.start);
    field.Required("bytes", self.bytes);
  }
  bool operator==(const PageSpan&) const = default;
};
inline constexpr size_t kMaxSpans = 512;  // in one word
inline constexpr size_t kMaxWord = size_t{64} << 10;
struct PagerWord {
  std::vector<PageSpan> wanted;  // missing pages that a process waits for
  int64_t faults = 0;            // so far: missing pages that were waited for
  absl::Duration fault_p50;      // until they were installed
  absl::Duration fault_p99;
  bool complete = false;  // none is missing any more
  bool ended = false;     // nor needed: the container has ended
  std::string failed;     // why the pager has killed it
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("wanted", self.wanted);
    field("faults", self.faults);
    field("faultP50", self.fault_p50);
    field("faultP99", self.fault_p99);
    field("complete", self.complete);
    field("ended", self.ended);
    field("failed", self.failed);
  }
};
struct AgentWord {
  std::vector<PageSpan> arrived;  // are in the store, verified
  std::string lost;  // not empty: the rest will never come, and why; the container is to be killed
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("arrived", self.arrived);
    field("lost", self.lost);
  }
};

// What godwit-pager is to do: godwit-pager --spec FILE. It detaches, listens at `socket` (CRIU's
// lazy-pages.socket in the restore's work folder) and returns 0 once it does; its two processes (pager and
// keeper) both hold every userfaultfd. It begins to fill when the container's cgroup is thawed for the first
// time, serves faults from the first moment, and ends when all is filled or the cgroup is empty.
struct PagerSpec {
  std::string migration_uid;
  std::string sandbox_uid;
  std::string container;
  std::string container_id;
  std::string socket;        // lazy-pages.socket
  std::string pages_socket;  // kPagesSocket
  std::string cgroup;        // the container's cgroup2 folder, absolute
  std::string status;        // file, rewritten as it fills: PagerStatus
  std::string log;           // file
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("migrationUID", self.migration_uid);
    field.Required("sandboxUID", self.sandbox_uid);
    field.Required("container", self.container);
    field.Required("containerID", self.container_id);
    field.Required("socket", self.socket);
    field.Required("pagesSocket", self.pages_socket);
    field.Required("cgroup", self.cgroup);
    field.Required("status", self.status);
    field.Required("log", self.log);
  }
};
// kPagersFolder/<container id>.json: removed by the pager when it ends well. A file without a live pager or
// keeper is of one that died, and the agent kills the container then. The two have a cgroup of their own,
// <cgroup2 mount>/<kPagersFamily>/<container id>.
inline constexpr char kPagersFolder[] = "/run/godwit/pagers";
inline constexpr char kPagersFamily[] = "godwit-pager";
struct PagerStatus {
  std::string migration_uid;
  std::string container;  // PagerSpec's, as the next; empty: of a pager of an older version
  std::string cgroup;
  int64_t pager_pid = 0;
  int64_t keeper_pid = 0;
  int64_t total_bytes = 0;      // to be filled in all
  int64_t remaining_bytes = 0;  // not filled yet
  int64_t missing_bytes = 0;    // of post-copy: still to be pulled from the source; in remaining_bytes or not
  int64_t faults = 0;           // pages that were waited for
  absl::Duration fault_p50;     // from the fault's message to the page's installation
  absl::Duration fault_p99;
  absl::Duration filling;  // since the first thaw
  bool failed = false;     // the container was killed, because its memory could not be filled
  std::string message;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("migrationUID", self.migration_uid);
    field("container", self.container);
    field("cgroup", self.cgroup);
    field.Required("pagerPID", self.pager_pid);
    field.Required("keeperPID", self.keeper_pid);
    field("totalBytes", self.total_bytes);
    field("remainingBytes", self.remaining_bytes);
    field("missingBytes", self.missing_bytes);
    field("faults", self.faults);
    field("faultP50", self.fault_p50);
    field("faultP99", self.fault_p99);
    field("filling", self.filling);
    field("failed", self.failed);
    field("message", self.message);
  }
};

// kStateFolder/permits/<sandbox uid>/<container>: what `create` may do without asking, also when the agent is
// down. Written by the agent with rename and fsync before the act. godwit-runtime reads it first:
//   absent, no annotation  -> ordinary start
//   absent, annotation     -> ask the agent (which refuses: no state for it)
//   Waiting                -> ask the agent
//   Aborted                -> fail at once with its message
//   Spent                  -> the restored copy ran: ordinary fresh start
enum class PermitState { kWaiting, kAborted, kSpent };
constexpr std::array<std::pair<PermitState, absl::string_view>, 3> JsonNames(PermitState) {
  return {{{PermitState::kWaiting, "Waiting"},
           {PermitState::kAborted, "Aborted"},
           {PermitState::kSpent, "Spent"}}};
}
struct PermitFile {
  PermitState state = PermitState::kWaiting;
  std::string migration_uid;  // of the Migration or Restore
  std::string message;        // kAborted
  absl::Duration create_limit;
  std::string copy_cgroup;  // kWaiting, since a `create` came: where its restored copy would be, to be
                            // destroyed on abort
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("state", self.state);
    field.Required("migrationUID", self.migration_uid);
    field("message", self.message);
    field("createLimit", self.create_limit);
    field("copyCgroup", self.copy_cgroup);
  }
};

// kStateFolder + kHoldsFolder: pods that are being handed over from here, or were (permits/source_hold.h).
// godwit-runtime looks there before anything else.
inline constexpr char kHoldsFolder[] = "/sources";

// kInstallFolder/etc/runtime.json, written by the installer.
struct RuntimeConfig {
  std::string runtime;      // the node's ordinary OCI runtime, e.g. /usr/sbin/runc
  std::string cgroup_root;  // where cgroup2 is mounted on the host
  bool systemd_cgroup = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("runtime", self.runtime);
    field("cgroupRoot", self.cgroup_root);
    field("systemdCgroup", self.systemd_cgroup);
  }
};

// --- agent -> godwit-guard
// ---------------------------------------------------------------------------------------

// One container as the guard needs it.
struct GuardContainer {
  std::string name;
  std::string id;           // the OCI runtime's id
  std::string cgroup;       // absolute path of its cgroup2 folder on the host
  std::string runc_root;    // runc --root
  int64_t init_pid = 0;     // host pid namespace; the guard checks that it is still in `cgroup`
  std::string root_device;  // "major:minor" of its root file system (runtime::DeviceOf)
  std::map<std::string, std::string> place;  // of its init process (runtime::PlaceOf)
  std::string images;                        // where the dump goes
  std::string work;                          // CRIU's log
  std::string hidden;  // file of the pages that CRIU's dump leaves out (criu_environment.h), written before
                       // kDump; empty: none
  std::string smaps;   // folder of what CRIU's dump reads for its tasks' smaps (there too), written before
                       // kDump; empty: none
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("name", self.name);
    field.Required("id", self.id);
    field.Required("cgroup", self.cgroup);
    field.Required("runcRoot", self.runc_root);
    field.Required("initPID", self.init_pid);
    field("rootDevice", self.root_device);
    field("place", self.place);
    field.Required("images", self.images);
    field.Required("work", self.work);
    field("hidden", self.hidden);
    field("smaps", self.smaps);
  }
};

// godwit-guard --spec FILE. One guard for each freeze of a pod. It thaws by itself when its agent's
// connection ends or the freeze limit passes, unless it has ceded. It alone writes `journal` (agent/journal
// records: FROZEN, CEDED, ABORTED, DONE).
struct GuardSpec {
  std::string migration_uid;  // of the Migration or Checkpoint
  std::string socket;         // where it listens
  std::string journal;        // file
  std::string log;            // file for its own log
  std::string runtime;        // runc
  std::string criu_folder;    // put first in PATH for runc: kInstallFolder/criu
  absl::Duration freeze_limit;
  std::vector<GuardContainer> containers;
  std::vector<std::string> addresses;  // the pod's: fenced while it stands still; empty: no fence
  // The folder that has all the pod's cgroups, held from the hand-over on; empty: not held.
  std::string pod_cgroup;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("migrationUID", self.migration_uid);
    field.Required("socket", self.socket);
    field.Required("journal", self.journal);
    field.Required("log", self.log);
    field.Required("runtime", self.runtime);
    field.Required("criuFolder", self.criu_folder);
    field.Required("freezeLimit", self.freeze_limit);
    field.Required("containers", self.containers);
    field("addresses", self.addresses);
    field("podCgroup", self.pod_cgroup);
  }
};

// kArm: starts runc and CRIU for every container and holds them at a gate, so that their start is not in the
// freeze; the pod runs. kFreeze: fences the pod's address, freezes all cgroups. kDump: dumps `container`
// (opens its gate where it is armed), which stays frozen. kCede: holds the pod's cgroup, so that nothing that
// kubelet starts in it runs, and writes CEDED; from then on it thaws only on kTargetAborted. kThaw: journals
// ABORTED, thaws (also the ordinary end of a checkpoint). kKill: only when ceded: cgroup.kill, waits until
// the processes are gone, writes DONE. kStatus changes nothing. After kThaw, kTargetAborted and kKill it
// exits.
enum class GuardOp { kArm, kFreeze, kDump, kCede, kThaw, kTargetAborted, kKill, kStatus };
constexpr std::array<std::pair<GuardOp, absl::string_view>, 8> JsonNames(GuardOp) {
  return {{{GuardOp::kArm, "Arm"},
           {GuardOp::kFreeze, "Freeze"},
           {GuardOp::kDump, "Dump"},
           {GuardOp::kCede, "Cede"},
           {GuardOp::kThaw, "Thaw"},
           {GuardOp::kTargetAborted, "TargetAborted"},
           {GuardOp::kKill, "Kill"},
           {GuardOp::kStatus, "Status"}}};
}
struct GuardCommand {
  GuardOp op = GuardOp::kStatus;
  std::string container;  // kDump
  std::string message;    // kThaw, kTargetAborted: why
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("op", self.op);
    field("container", self.container);
    field("message", self.message);
  }
};
struct GuardReply {
  bool ok = false;
  SourceState state = SourceState::kNone;
  std::string
      reason;  // CamelCase, when not ok: "PendingSignal", "ExecInFlight", "DumpFailed", "FreezeLimit", ...
  std::string message;  // when not ok; for a failed dump with the telling lines of CRIU's log
  absl::Time frozen_at;
  absl::Duration frozen_for;  // since the freeze began, monotonic
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("ok", self.ok);
    field.Required("state", self.state);
    field("reason", self.reason);
    field("message", self.message);
    field("frozenAt", self.frozen_at);
    field("frozenFor", self.frozen_for);
  }
};

}  // namespace godwit::agent_api
