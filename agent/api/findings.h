// SPDX-License-Identifier: Apache-2.0
// Everything that preflight can find, in one table: what it is called, how much it matters, what it means and
// what a person can do about it. docs/preflight.md is printed from here (make preflight-doc). Agents and
// controller take severity and remedy from here, so that nothing is found that is not documented.
#pragma once

#include <array>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "agent/api/messages.h"

namespace godwit::agent_api {

// Where a finding is looked for; a section of the documentation each.
enum class FoundIn { kPod, kProcesses, kFiles, kNode, kNodes, kPrediction };

struct FindingKind {
  absl::string_view id;  // stable, CamelCase
  Severity severity;
  FoundIn found_in;
  absl::string_view meaning;  // a sentence
  absl::string_view remedy;   // sentences; a finding may bring one of its own that is more to the point
};

inline constexpr Severity kInfoKind = Severity::kInfo, kWarningKind = Severity::kWarning,
                          kBlockingKind = Severity::kBlocking;

inline constexpr std::array kFindingKinds = {
    // --- what the pod's object says
    FindingKind{"PodTerminating", kBlockingKind, FoundIn::kPod, "The pod is being deleted.",
                "Nothing can be done for this pod."},
    FindingKind{"PodNotRunning", kBlockingKind, FoundIn::kPod, "The pod's phase is not Running.",
                "Wait until the pod runs (kubectl wait --for=jsonpath='{.status.phase}'=Running)."},
    FindingKind{"ContainerNotRunning", kBlockingKind, FoundIn::kPod,
                "One of the pod's containers does not run.",
                "All containers must run: the pod moves as one."},
    FindingKind{"EphemeralContainer", kBlockingKind, FoundIn::kPod,
                "An ephemeral (kubectl debug) container runs in the pod.", "End the debug session first."},
    FindingKind{"StaticPod", kBlockingKind, FoundIn::kPod, "The pod comes from a file on its node.",
                "Move the file to the other node instead."},
    FindingKind{"Windows", kBlockingKind, FoundIn::kPod, "The pod runs Windows containers.",
                "Only Linux containers can be moved."},
    FindingKind{"HostNamespace", kBlockingKind, FoundIn::kPod,
                "The pod shares namespaces of its node (hostNetwork, hostPID, hostIPC).",
                "What belongs to the node cannot move with the pod."},
    FindingKind{
        "SharedProcessNamespace", kBlockingKind, FoundIn::kPod,
        "The pod's containers share one process namespace: their process ids could be taken on the target.",
        "Such a pod cannot be moved yet; set shareProcessNamespace to false."},
    FindingKind{"UserNamespace", kBlockingKind, FoundIn::kPod,
                "The pod has a user namespace (hostUsers: false).",
                "Pods with hostUsers: false do not move yet."},
    FindingKind{"RuntimeClass", kBlockingKind, FoundIn::kPod, "The pod runs under a RuntimeClass of its own.",
                "Only pods of the nodes' ordinary runtime can be moved."},
    FindingKind{"ResourceClaim", kBlockingKind, FoundIn::kPod, "The pod uses resource claims (devices).",
                "Devices belong to their node; pods that use them cannot be moved."},
    FindingKind{"Sidecar", kBlockingKind, FoundIn::kPod,
                "An init container is a sidecar (restartPolicy Always).",
                "Pods with sidecars cannot be moved yet; make it an ordinary container."},
    FindingKind{"ExtendedResource", kBlockingKind, FoundIn::kPod,
                "A container has a device or huge pages as a resource.",
                "Devices and huge pages belong to their node; containers that use them cannot be moved."},
    FindingKind{"VolumeDevice", kBlockingKind, FoundIn::kPod, "A container uses a raw block device.",
                "Block devices cannot be moved."},
    FindingKind{"UnsupportedVolume", kBlockingKind, FoundIn::kPod,
                "A volume is of a kind that does not move.",
                "Pods move with emptyDir, configMap, secret, projected and downwardAPI volumes only."},
    FindingKind{
        "UnsupportedOwner", kBlockingKind, FoundIn::kPod,
        "The pod is owned by a StatefulSet, DaemonSet, Job or another owner but a Deployment.",
        "Pods without an owner and pods of a Deployment can be moved; others cannot be handed over yet."},
    FindingKind{"LivenessProbeTooTight", kBlockingKind, FoundIn::kPod,
                "A liveness probe has failureThreshold 1: kubelet would kill the container for standing "
                "still at the moment of one probe.",
                "Raise failureThreshold to 2 or more."},
    FindingKind{"Privileged", kWarningKind, FoundIn::kPod,
                "A container is privileged: all devices of its node are in its /dev, and it may have changed "
                "the node itself.",
                "Run the container without privileged, with the capabilities that it needs."},
    FindingKind{"AttachedStdin", kWarningKind, FoundIn::kPod,
                "A container has stdin: true: whoever is attached to it is cut off by the move.",
                "Attach again to the target pod, or remove stdin from the container."},
    // --- what its processes are and hold
    FindingKind{"Traced", kBlockingKind, FoundIn::kProcesses, "A process is traced by another.",
                "Detach the debugger (gdb, strace)."},
    FindingKind{"Uprobes", kBlockingKind, FoundIn::kProcesses,
                "A tracing tool of the node has set a uprobe in a process.",
                "Detach the tool (bpftrace, perf, an eBPF profiler) from it."},
    FindingKind{"NestedNamespace", kBlockingKind, FoundIn::kProcesses,
                "A process made namespaces inside the container (pid, UTS, IPC, user, time, network).",
                "CRIU cannot save nested namespaces: run this part (a build, a browser's sandbox, an inner "
                "container) elsewhere."},
    FindingKind{"DeadLeader", kBlockingKind, FoundIn::kProcesses,
                "A process' first thread has ended while others go on: CRIU cannot save what is left of it.",
                "Let the application end its threads before its first one ends."},
    FindingKind{"ZombieThread", kWarningKind, FoundIn::kProcesses, "A thread is a zombie.",
                "It goes by itself in a moment, unless a tracer keeps it; try again."},
    FindingKind{"PendingTermination", kBlockingKind, FoundIn::kProcesses,
                "SIGTERM or SIGKILL is pending for a process: it is being ended, and CRIU would carry the "
                "signal along.",
                "Wait until it has ended, or find out who ends it."},
    FindingKind{"ExecInFlight", kWarningKind, FoundIn::kProcesses,
                "A process in the container does not descend from its first one: a kubectl exec, or an exec "
                "probe in this moment.",
                "End the session: while it lasts, the freeze is refused. A probe is over by itself."},
    FindingKind{"SeccompStrict", kWarningKind, FoundIn::kProcesses,
                "A process is in seccomp's strict mode, in which it may not make the calls that CRIU and the "
                "tracker need it to make.",
                "The dump would probably fail; use a seccomp filter in the application."},
    FindingKind{
        "SecurityLabel", kInfoKind, FoundIn::kProcesses,
        "A process runs under an AppArmor profile or an SELinux label, which the target node must have under "
        "the same name.",
        "Nothing, where the profile is the container runtime's default or is installed on all nodes."},
    FindingKind{"IoUring", kBlockingKind, FoundIn::kProcesses,
                "A process uses io_uring, which CRIU cannot save.",
                "Turn io_uring off in the application (nginx and libuv fall back to epoll, Node.js: "
                "UV_USE_IO_URING=0)."},
    FindingKind{"Userfaultfd", kBlockingKind, FoundIn::kProcesses,
                "A process uses userfaultfd, which CRIU cannot save.",
                "A pod that was restored a moment ago may still be filling its memory: try again later."},
    FindingKind{"PerfEvent", kBlockingKind, FoundIn::kProcesses,
                "A process holds a perf event, which CRIU cannot save.", "End the profiler."},
    FindingKind{"VirtualMachine", kBlockingKind, FoundIn::kProcesses,
                "A process runs a virtual machine (KVM).", "KubeVirt migrates virtual machines."},
    FindingKind{"BpfProgram", kBlockingKind, FoundIn::kProcesses,
                "A process holds a BPF program, link or type information.",
                "CRIU cannot save it: run the BPF tool on the node and not in the pod."},
    FindingKind{"SeccompNotify", kBlockingKind, FoundIn::kProcesses,
                "A process holds a seccomp notification descriptor, which CRIU cannot save.",
                "Run the supervisor outside of the pod, or without notifications."},
    FindingKind{"LandlockRuleset", kBlockingKind, FoundIn::kProcesses,
                "A process holds a Landlock ruleset, which CRIU cannot save.",
                "Let the application close the ruleset's descriptor when it has been enforced."},
    FindingKind{"SecretMemory", kBlockingKind, FoundIn::kProcesses,
                "A process uses memfd_secret, which CRIU cannot read.",
                "Turn secret memory off in the application."},
    FindingKind{"DeviceFile", kBlockingKind, FoundIn::kProcesses,
                "A container was given a device, or a process has a device or a DMA buffer open.",
                "Devices stay on their node, and so do privileged containers, which have all of them."},
    FindingKind{"DeviceMapping", kBlockingKind, FoundIn::kProcesses,
                "A process has memory of a device mapped.", "Devices stay on their node."},
    FindingKind{"HugePages", kBlockingKind, FoundIn::kProcesses, "A process has huge pages (hugetlb) mapped.",
                "Huge pages belong to their node: turn them off in the application; transparent huge pages "
                "are no obstacle."},
    FindingKind{"UnsupportedSocket", kBlockingKind, FoundIn::kProcesses,
                "A process holds a socket of a protocol that CRIU cannot save (SCTP, Multipath TCP, AF_ALG, "
                "AF_VSOCK, CAN, ...).",
                "CRIU cannot save sockets of this protocol."},
    FindingKind{"ConnectionInFlight", kWarningKind, FoundIn::kProcesses,
                "A TCP connection is being made in this moment, which CRIU cannot save.",
                "It is over in a moment; a peer that never answers should be taken from the application's "
                "configuration."},
    FindingKind{"ConnectionsClose", kInfoKind, FoundIn::kProcesses,
                "The pod has established TCP connections, which will be closed.",
                "Clients and the application have to connect again after the move."},
    FindingKind{"InotifyUnresolved", kWarningKind, FoundIn::kProcesses,
                "A process watches a file (inotify) for which the kernel gives no handle, as on some "
                "overlayfs: CRIU has to look for its path.",
                "The dump may fail, and the pod go on where it is; watch files of an emptyDir instead."},
    FindingKind{"TerminalOpen", kWarningKind, FoundIn::kProcesses, "A process has a terminal open.",
                "A terminal moves only with both of its ends: the dump fails when the other end is outside "
                "of the container."},
    FindingKind{"UnknownDescriptor", kWarningKind, FoundIn::kProcesses,
                "A process holds a kernel object of a kind that is not known here.",
                "CRIU may not be able to save it; the dump would fail then, and the pod go on where it is."},
    FindingKind{"CopiedInFreeze", kInfoKind, FoundIn::kProcesses,
                "A process maps shared memory that is copied while the pod stands still: memfds, SysV "
                "segments, files in /dev/shm.",
                "Where that is much and the freeze matters, share anonymous memory (MAP_SHARED "
                "with MAP_ANONYMOUS), which is pre-copied."},
    FindingKind{"ManyObjects", kInfoKind, FoundIn::kProcesses,
                "The pod has so many processes, threads, descriptors or mappings that they decide how long "
                "it stands still.",
                "Fewer of them make the freeze shorter; see leastFreeze of a dry run."},
    FindingKind{"TooManyObjects", kBlockingKind, FoundIn::kProcesses,
                "The container has so many mounts, mappings, processes, threads or descriptors that they "
                "could not all be looked at in the time for it.",
                "Fewer of them can be moved: a few thousand of each are no matter."},
    FindingKind{"NotAllLookedAt", kInfoKind, FoundIn::kProcesses,
                "The container has more descriptors than preflight looks at (100,000).",
                "What the others are is found by the dump."},
    // --- mounts and files
    FindingKind{"Terminal", kBlockingKind, FoundIn::kFiles, "A container has a terminal (tty: true).",
                "A terminal's other end is in the container runtime and does not move: remove tty from the "
                "container."},
    FindingKind{"PersistentVolume", kBlockingKind, FoundIn::kFiles,
                "A container mounts a volume with a claim.",
                "Volumes with claims do not move yet: use an emptyDir, or keep the state elsewhere."},
    FindingKind{"HostPath", kBlockingKind, FoundIn::kFiles, "A container mounts a folder of its node.",
                "What a hostPath holds stays on its node: remove the volume from the pod."},
    FindingKind{"HostNetwork", kBlockingKind, FoundIn::kFiles,
                "A container shares the node's network namespace.", "Pods with hostNetwork do not move."},
    FindingKind{"HostPID", kBlockingKind, FoundIn::kFiles, "A container shares the node's process namespace.",
                "Pods with hostPID do not move."},
    FindingKind{"HostIPC", kBlockingKind, FoundIn::kFiles, "A container shares the node's IPC namespace.",
                "Pods with hostIPC do not move."},
    FindingKind{
        "NoWritableLayer", kBlockingKind, FoundIn::kFiles,
        "A container's root file system is not made by overlayfs, or its first process has left it.",
        "Use the overlayfs snapshotter on the nodes; let the first process stay in the root file system "
        "and namespaces that it was given."},
    FindingKind{"UnsupportedMount", kBlockingKind, FoundIn::kFiles,
                "A file system is mounted that CRIU cannot take along (FUSE, NFS, CIFS, an overlay of the "
                "container's own, ...).",
                "Unmount it, or remove the volume."},
    FindingKind{"DeviceFileWritten", kBlockingKind, FoundIn::kFiles,
                "A device file was made in the container's file system or in an emptyDir.",
                "Remove it: device files are not carried over."},
    FindingKind{"LargeDeletedFile", kBlockingKind, FoundIn::kFiles,
                "The processes of a container hold deleted files of more than 256 MiB open, all together.",
                "Deleted files are carried up to 256 MiB: let the application close them."},
    FindingKind{
        "FileTooLarge", kBlockingKind, FoundIn::kFiles,
        "A file in the container's file system or in an emptyDir is larger than 16 TiB, though most of "
        "it may be holes.",
        "Make it smaller (truncate), or remove it."},
    FindingKind{"FilesNotMeasured", kInfoKind, FoundIn::kFiles,
                "There are so many files that their size was not counted to its end.",
                "More goes over than is told."},
    // --- one node
    FindingKind{"CriuMissing", kBlockingKind, FoundIn::kNode, "The node has no working CRIU.",
                "Look at the agent's init container there: it installs CRIU."},
    FindingKind{"CriuTooOld", kBlockingKind, FoundIn::kNode,
                "CRIU is too old for the node's kernel: it cannot dump sockets on Linux 6.16 and newer.",
                "Use Godwit's own CRIU (4.2.1)."},
    FindingKind{"CriuCheckFailed", kWarningKind, FoundIn::kNode,
                "`criu check` misses something in the node's kernel.",
                "Moves from or to this node may fail; enable what is named in the kernel's configuration."},
    FindingKind{"PointerAuthentication", kBlockingKind, FoundIn::kNode,
                "The CPU has pointer authentication, and this CRIU hangs when it restores there.",
                "Use Godwit's own CRIU (4.2.1)."},
    FindingKind{"RuntimeTooOld", kWarningKind, FoundIn::kNode, "runc is older than 1.1.",
                "Upgrade runc on the node."},
    FindingKind{"KernelTooOld", kWarningKind, FoundIn::kNode,
                "The kernel is older than 5.13: it cannot tell CRIU of restartable sequences, which the C "
                "library uses since glibc 2.35.",
                "Upgrade the node's kernel, or start the pod with GLIBC_TUNABLES=glibc.pthread.rseq=0."},
    FindingKind{"NoSysResource", kBlockingKind, FoundIn::kNode,
                "Processes of the pod are not root's, and the node itself has no CAP_SYS_RESOURCE, without "
                "which CRIU cannot restore them.",
                "Give the machine CAP_SYS_RESOURCE (it is a container, or a restricted virtual machine), or "
                "choose another node."},
    FindingKind{"NoSpace", kBlockingKind, FoundIn::kNode, "There is too little disk space for a checkpoint.",
                "Make room on the node's disk."},
    FindingKind{"NoRoom", kBlockingKind, FoundIn::kNode,
                "There is too little disk space for the images of the pod's memory.",
                "Make room on the node's disk."},
    FindingKind{"NodeCannotPreCopy", kBlockingKind, FoundIn::kNode,
                "The node's kernel cannot tell which pages were written, and strategy PreCopy or PostCopy "
                "asks for that.",
                "Use strategy Auto or StopAndCopy, or another node."},
    // --- two nodes
    FindingKind{"HostPortTaken", kBlockingKind, FoundIn::kNodes,
                "A pod on the target has a host port that this pod needs.", "Choose another node."},
    FindingKind{"NoMemoryOnTarget", kBlockingKind, FoundIn::kNodes,
                "The target has too little memory available.",
                "Choose another node or make room on this one."},
    FindingKind{"NoSpaceOnTarget", kBlockingKind, FoundIn::kNodes, "The target has too little disk space.",
                "Choose another node or make room on this one."},
    FindingKind{"NoSpaceOnSource", kBlockingKind, FoundIn::kNodes, "The source has too little disk space.",
                "Make room on this node."},
    FindingKind{"CpuFeaturesMissing", kBlockingKind, FoundIn::kNodes,
                "The target's CPU lacks instructions that the source's has, and the processes may use them.",
                "Choose a node with a CPU of the same generation or newer, or give virtual machines a CPU "
                "model that all hosts have."},
    FindingKind{"CriuVersionDiffers", kWarningKind, FoundIn::kNodes,
                "The nodes have different versions of CRIU.",
                "Run the same version of Godwit's agent on both nodes."},
    FindingKind{
        "KernelOlder", kWarningKind, FoundIn::kNodes,
        "The target's kernel is older than the source's, and may lack something that the processes use.",
        "Choose a node whose kernel is as new."},
    FindingKind{"CgroupModeDiffers", kWarningKind, FoundIn::kNodes,
                "The nodes use different cgroup versions.", "Use cgroup v2 on all nodes."},
    FindingKind{"SecurityModulesDiffer", kWarningKind, FoundIn::kNodes,
                "AppArmor or SELinux is active on one of the nodes only, so that the pod's profile or label "
                "is not on the other.",
                "Use the same security modules on all nodes."},
    FindingKind{"ImageNotOnTarget", kInfoKind, FoundIn::kNodes,
                "The target's kubelet does not list the image: it is pulled before the freeze, and the move "
                "takes longer by that.",
                "Pull it there before, if that matters."},
    FindingKind{"ImageMissing", kBlockingKind, FoundIn::kNodes,
                "The target does not have the image, and imagePullPolicy is Never.",
                "Load the image on the target, or use another imagePullPolicy."},
    // --- what a dry run foretells
    FindingKind{
        "StreamUnreachable", kBlockingKind, FoundIn::kPrediction,
        "The source's agent cannot connect to the target's.",
        "Let the nodes reach each other on this port (a firewall, a network policy, a security group)."},
    FindingKind{
        "PodCannotPreCopy", kBlockingKind, FoundIn::kPrediction,
        "The pod's memory cannot be copied while it runs, and strategy PreCopy or PostCopy asks for that.",
        "Use strategy Auto or StopAndCopy."},
    FindingKind{"FreezeLimit", kBlockingKind, FoundIn::kPrediction,
                "The pod would stand still for longer than it may.",
                "Give its liveness probe a greater failureThreshold, or use strategy PostCopy."},
    FindingKind{"NotConverging", kWarningKind, FoundIn::kPrediction,
                "The pod writes faster than its memory goes over. Blocking with whenNotConverging: Fail, "
                "Info with PostCopy.",
                "Raise freezeBudget, lift bandwidthLimit, or use whenNotConverging: PostCopy."},
    FindingKind{"Timeout", kBlockingKind, FoundIn::kPrediction,
                "The target would take over after spec.timeout.", "Raise timeout."},
    FindingKind{"WaitsForSibling", kWarningKind, FoundIn::kPrediction,
                "Another pod of the ReplicaSet is not ready or moves: a migration would wait for it first.",
                "Wait until the other pods of the Deployment are ready."},
};

// The name of a finding in the table; another one does not compile.
class FindingId {
 public:
  consteval FindingId(const char* id) : kind_(&Find(id)) {}  // NOLINT(google-explicit-constructor)
  constexpr const FindingKind& kind() const { return *kind_; }

 private:
  static consteval const FindingKind& Find(absl::string_view id) {
    for (const FindingKind& kind : kFindingKinds) {
      if (kind.id == id) return kind;
    }
    throw "no such finding";  // at compile time
  }
  const FindingKind* kind_;
};

// A finding of this kind; `message` says what was found, and where.
inline Finding MakeFinding(FindingId id, std::string container, std::string message,
                           std::string evidence = "") {
  return {.id = std::string(id.kind().id),
          .severity = id.kind().severity,
          .container = std::move(container),
          .message = std::move(message),
          .remedy = std::string(id.kind().remedy),
          .evidence = std::move(evidence)};
}

}  // namespace godwit::agent_api
