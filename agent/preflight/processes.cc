// SPDX-License-Identifier: Apache-2.0
// What a container's processes are and hold open. A descriptor is known by its link in /proc/<pid>/fd, a
// socket's protocol by the attribute system.sockprotoname of that link's target.
#include "agent/runtime/processes.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/preflight/finding.h"
#include "agent/preflight/inspect.h"
#include "base/file.h"

namespace godwit::preflight {
namespace {

constexpr int64_t kGhostLimit = int64_t{256} << 20;  // agent/criu/plan.cc: ghost-limit

struct Holder {
  const runtime::Container& container;
  const runtime::Process& process;
  std::string Who() const {
    return absl::StrCat("process ", process.pid, " (", process.command, ") of container ", container.name);
  }
};

struct AnonInode {
  absl::string_view name;  // after "anon_inode:"
  const char *id, *what, *remedy;
};
constexpr AnonInode kUnsupported[] = {
    {"[io_uring]", "IoUring", "uses io_uring",
     "CRIU cannot save it: turn io_uring off in the application (nginx and libuv fall back to epoll, "
     "Node.js: UV_USE_IO_URING=0)."},
    {"[userfaultfd]", "Userfaultfd", "uses userfaultfd",
     "CRIU cannot save it; a pod that was restored a moment ago may still be filling its memory: try again "
     "later."},
    {"[perf_event]", "PerfEvent", "holds a perf event", "CRIU cannot save it: end the profiler."},
    {"kvm-", "VirtualMachine", "runs a virtual machine",
     "CRIU cannot save it: KubeVirt migrates virtual machines."},
    {"bpf-prog", "BpfProgram", "holds a BPF program", "CRIU cannot save it."},
    {"bpf_link", "BpfProgram", "holds a BPF link", "CRIU cannot save it."},
    {"btf", "BpfProgram", "holds BPF type information", "CRIU cannot save it."},
    {"seccomp notify", "SeccompNotify", "holds a seccomp notification descriptor", "CRIU cannot save it."},
    {"[seccomp notify]", "SeccompNotify", "holds a seccomp notification descriptor", "CRIU cannot save it."},
    {"[landlock-ruleset]", "LandlockRuleset", "holds a Landlock ruleset", "CRIU cannot save it."},
    {"dmabuf", "DeviceFile", "holds a DMA buffer", "Devices stay on their node."},
    {"sync_file", "DeviceFile", "holds a GPU fence", "Devices stay on their node."},
};
// CRIU 4.2 saves these: criu/files.c, dump_one_file.
constexpr absl::string_view kSupported[] = {"[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]",
                                            "inotify",   "[fanotify]",  "bpf-map",    "[pidfd]"};

void InspectAnonInode(const Holder& holder, absl::string_view name, Findings& findings) {
  for (const AnonInode& kind : kUnsupported) {
    if (!absl::StartsWith(name, kind.name)) continue;
    return findings.Block(kind.id, absl::StrCat(holder.Who(), " ", kind.what), kind.remedy);
  }
  for (absl::string_view known : kSupported) {
    if (absl::StartsWith(name, known)) return;
  }
  findings.Warn("UnknownDescriptor",
                absl::StrCat(holder.Who(),
                             " holds a kernel object of a kind that is not known here: ", name.substr(0, 40)),
                "CRIU may not be able to save it; the dump would fail then, and the pod go on where it is.");
}

// The protocol's name in the kernel ("TCP", "SCTP", ...), or empty.
std::string SocketProtocol(const std::string& link) {
  char name[64];
  const ssize_t size = getxattr(link.c_str(), "system.sockprotoname", name, sizeof(name) - 1);
  return size > 0 ? std::string(name, strnlen(name, static_cast<size_t>(size))) : "";
}

void InspectSocket(const Holder& holder, const std::string& link, Findings& findings) {
  const std::string protocol = SocketProtocol(link);
  if (protocol.empty()) return;
  for (const char* known : {"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING",
                            "PINGv6", "UNIX", "UNIX-STREAM", "NETLINK", "PACKET"}) {
    if (protocol == known) return;
  }
  const bool multipath = absl::StartsWith(protocol, "MPTCP");
  findings.Block("UnsupportedSocket", absl::StrCat(holder.Who(), " holds a socket of protocol ", protocol),
                 multipath ? "CRIU cannot save Multipath TCP. Go programs since 1.24 listen with it by "
                             "default: set GODEBUG=multipathtcp=0 in the pod."
                           : "CRIU cannot save sockets of this protocol.");
}

void InspectCharacterDevice(const Holder& holder, absl::string_view path, Findings& findings) {
  for (const char* known : {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}) {
    if (path == known) return;
  }
  if (absl::StartsWith(path, "/dev/pts/") || path == "/dev/tty" || path == "/dev/console" ||
      path == "/dev/ptmx" || path == "/dev/pts/ptmx") {
    return findings.Warn("Terminal", absl::StrCat(holder.Who(), " has the terminal ", path, " open"),
                         "A terminal moves only with both of its ends: the dump fails when the other end is "
                         "outside of the container.");
  }
  findings.Block("DeviceFile", absl::StrCat(holder.Who(), " has the device ", path, " open"),
                 "Devices stay on their node.");
}

void InspectDescriptor(const Holder& holder, const std::string& link, absl::string_view target,
                       Findings& findings) {
  absl::string_view name = target;
  if (absl::ConsumePrefix(&name, "anon_inode:")) return InspectAnonInode(holder, name, findings);
  if (absl::StartsWith(target, "socket:")) return InspectSocket(holder, link, findings);
  if (absl::StartsWith(target, "/secretmem")) {
    return findings.Block("SecretMemory", absl::StrCat(holder.Who(), " uses memfd_secret"),
                          "CRIU cannot read this memory.");
  }
  if (absl::StartsWith(target, "/dmabuf"))
    return findings.Block("DeviceFile", absl::StrCat(holder.Who(), " holds a DMA buffer"),
                          "Devices stay on their node.");
  struct stat status{};
  const bool deleted = absl::EndsWith(target, " (deleted)") && !absl::StartsWith(target, "/memfd:");
  if (!deleted && !absl::StartsWith(target, "/dev/")) return;
  if (stat(link.c_str(), &status) != 0) return;
  if (S_ISCHR(status.st_mode)) return InspectCharacterDevice(holder, target, findings);
  if (S_ISBLK(status.st_mode))
    return findings.Block("DeviceFile", absl::StrCat(holder.Who(), " has the device ", target, " open"),
                          "Devices stay on their node.");
  if (deleted && S_ISREG(status.st_mode) && status.st_nlink == 0 && status.st_blocks * 512 > kGhostLimit) {
    findings.Block("LargeDeletedFile",
                   absl::StrCat(holder.Who(), " holds a deleted file of ", status.st_blocks / 2048,
                                " MiB open: ", target),
                   "Deleted files are carried up to 256 MiB: let the application close it.");
  }
}

void InspectDescriptors(const std::string& proc, const Holder& holder, Findings& findings) {
  const std::string folder = absl::StrCat(proc, "/", holder.process.pid, "/fd");
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return;  // it has ended
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    const std::string link = absl::StrCat(folder, "/", entry->d_name);
    char target[PATH_MAX];
    const ssize_t size = readlink(link.c_str(), target, sizeof(target));
    if (size > 0)
      InspectDescriptor(holder, link, absl::string_view(target, static_cast<size_t>(size)), findings);
  }
  closedir(dir);
}

std::string NamespaceOf(const std::string& proc, pid_t pid, absl::string_view type) {
  char target[64];
  const ssize_t size = readlink(absl::StrCat(proc, "/", pid, "/ns/", type).c_str(), target, sizeof(target));
  return size > 0 ? std::string(target, static_cast<size_t>(size)) : "";
}

// CRIU restores one pid, UTS, IPC, user and time namespace a container; mount namespaces may be nested.
void InspectNamespaces(const std::string& proc, const Holder& holder, Findings& findings) {
  const struct {
    const char *link, *name;
  } kinds[] = {
      {"pid", "pid"},   {"pid_for_children", "pid"}, {"uts", "UTS"}, {"ipc", "IPC"}, {"user", "user"},
      {"time", "time"}, {"net", "network"}};
  for (const auto& kind : kinds) {
    const std::string init =
        NamespaceOf(proc, holder.container.init_pid, absl::StripSuffix(kind.link, "_for_children"));
    const std::string own = NamespaceOf(proc, holder.process.pid, kind.link);
    if (init.empty() || own.empty() || own == init) continue;
    findings.Block(
        "NestedNamespace",
        absl::StrCat(holder.Who(), " is in a ", kind.name, " namespace that it made inside the container"),
        "CRIU cannot save nested namespaces: run this part (a build, a browser's sandbox, an inner "
        "container) elsewhere.");
    return;
  }
}

// Established connections among the sockets of the pod's network namespace: state 01 in /proc/<pid>/net/tcp.
int EstablishedConnections(const std::string& proc, pid_t pid) {
  int count = 0;
  for (const char* table : {"tcp", "tcp6"}) {
    const absl::StatusOr<std::string> text =
        ReadFile(absl::StrCat(proc, "/", pid, "/net/", table), size_t{64} << 20);
    if (!text.ok()) continue;
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
      if (words.size() > 9 && words[3] == "01") ++count;
    }
  }
  return count;
}

}  // namespace

std::vector<agent_api::Finding> InspectProcesses(const runtime::HostView& host,
                                                 const runtime::Container& container,
                                                 const std::vector<pid_t>& processes) {
  Findings findings(container.name);
  for (pid_t pid : processes) {
    const absl::StatusOr<runtime::Process> process = runtime::ReadProcess(host.proc, pid);
    if (!process.ok()) continue;  // it has ended
    const Holder holder{container, *process};
    if (process->tracer != 0) {
      findings.Block("Traced", absl::StrCat(holder.Who(), " is traced by process ", process->tracer),
                     "Detach the debugger (gdb, strace).");
    }
    InspectDescriptors(host.proc, holder, findings);
    InspectNamespaces(host.proc, holder, findings);
    const absl::StatusOr<std::string> maps =
        ReadFile(absl::StrCat(host.proc, "/", pid, "/maps"), size_t{64} << 20);
    if (maps.ok() && absl::StrContains(*maps, "[uprobes]")) {
      findings.Block("Uprobes", absl::StrCat(holder.Who(), " has a uprobe set by a tracing tool of the node"),
                     "Detach the tool (bpftrace, perf, an eBPF profiler) from it.");
    }
  }
  const int connections = EstablishedConnections(host.proc, container.init_pid);
  if (connections > 0) {
    findings.Tell(
        "ConnectionsClose",
        absl::StrCat("the pod has ", connections, " established TCP connections, which will be closed"),
        "Clients and the application have to connect again after the move.");
  }
  return findings.Take();
}

}  // namespace godwit::preflight
