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
#include "agent/memory/maps.h"
#include "agent/preflight/finding.h"
#include "agent/preflight/inspect.h"
#include "agent/preflight/parse.h"
#include "agent/runtime/layer.h"
#include "agent/runtime/weight.h"
#include "base/clock.h"
#include "base/file.h"

namespace godwit::preflight {
namespace {

constexpr int64_t kGhostLimit = int64_t{256} << 20;  // agent/criu/plan.cc: ghost-limit

// Of a container, all its processes together; a process may have a million.
constexpr int kMostDescriptors = 100'000;
constexpr size_t kMostText = size_t{64} << 20;
// Beyond this they, and not CRIU's constant part, decide how long the pod stands still.
constexpr int64_t kManyDescriptors = 1000, kManyProcesses = 50, kManyThreads = 500, kManyMappings = 10'000;

struct Holder {
  const runtime::Container& container;
  const runtime::Process& process;
  const absl::Time deadline;
  std::string Who() const {
    return absl::StrCat("process ", process.pid, " (", process.command, ") of container ", container.name);
  }
};

struct AnonInode {
  absl::string_view name;  // after "anon_inode:"
  agent_api::FindingId id;
  const char* what;
};
constexpr AnonInode kUnsupported[] = {
    {"[io_uring]", "IoUring", "uses io_uring"},
    {"[userfaultfd]", "Userfaultfd", "uses userfaultfd"},
    {"[perf_event]", "PerfEvent", "holds a perf event"},
    {"kvm-", "VirtualMachine", "runs a virtual machine"},
    {"bpf-prog", "BpfProgram", "holds a BPF program"},
    {"bpf_link", "BpfProgram", "holds a BPF link"},
    {"btf", "BpfProgram", "holds BPF type information"},
    {"seccomp notify", "SeccompNotify", "holds a seccomp notification descriptor"},
    {"[seccomp notify]", "SeccompNotify", "holds a seccomp notification descriptor"},
    {"[landlock-ruleset]", "LandlockRuleset", "holds a Landlock ruleset"},
    {"dmabuf", "DeviceFile", "holds a DMA buffer"},
    {"sync_file", "DeviceFile", "holds a GPU fence"},
};
// CRIU 4.2 saves these: criu/files.c, dump_one_file.
constexpr absl::string_view kSupported[] = {"[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]",
                                            "inotify",   "[fanotify]",  "bpf-map",    "[pidfd]"};

// A descriptor of a process: its link in /proc, and where that leads.
struct Descriptor {
  std::string link;
  absl::string_view target;
  std::string Evidence() const { return absl::StrCat(link, " -> ", target); }
};

void InspectAnonInode(const Holder& holder, const Descriptor& descriptor, absl::string_view name,
                      Findings& findings) {
  for (const AnonInode& kind : kUnsupported) {
    if (!absl::StartsWith(name, kind.name)) continue;
    return findings.Add(kind.id, absl::StrCat(holder.Who(), " ", kind.what), descriptor.Evidence());
  }
  if (name == "inotify") {
    const size_t number = descriptor.link.rfind("/fd/");
    const absl::StatusOr<std::string> info = ReadFile(
        absl::StrCat(descriptor.link.substr(0, number), "/fdinfo/", descriptor.link.substr(number + 4)),
        kMostText);
    std::string watch;
    if (info.ok() && HasUnresolvedWatch(*info, &watch))
      findings.Add("InotifyUnresolved", absl::StrCat(holder.Who(), " watches a file that has no handle"),
                   watch);
  }
  for (absl::string_view known : kSupported) {
    if (absl::StartsWith(name, known)) return;
  }
  findings.Add("UnknownDescriptor",
               absl::StrCat(holder.Who(),
                            " holds a kernel object of a kind that is not known here: ", name.substr(0, 40)),
               descriptor.Evidence());
}

// The protocol's name in the kernel ("TCP", "SCTP", ...), or empty.
std::string SocketProtocol(const std::string& link) {
  char name[64];
  const ssize_t size = getxattr(link.c_str(), "system.sockprotoname", name, sizeof(name) - 1);
  return size > 0 ? std::string(name, strnlen(name, static_cast<size_t>(size))) : "";
}

void InspectSocket(const Holder& holder, const Descriptor& descriptor, Findings& findings) {
  const std::string protocol = SocketProtocol(descriptor.link);
  if (protocol.empty()) return;
  for (const char* known : {"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING",
                            "PINGv6", "UNIX", "UNIX-STREAM", "NETLINK", "PACKET"}) {
    if (protocol == known) return;
  }
  const bool multipath = absl::StartsWith(protocol, "MPTCP");
  findings.Add("UnsupportedSocket", absl::StrCat(holder.Who(), " holds a socket of protocol ", protocol),
               descriptor.Evidence(),
               multipath ? "CRIU cannot save Multipath TCP. Go programs since 1.24 listen with it by "
                           "default: set GODEBUG=multipathtcp=0 in the pod."
                         : "");
}

void InspectCharacterDevice(const Holder& holder, const Descriptor& descriptor, Findings& findings) {
  const absl::string_view path = descriptor.target;
  for (const char* known : {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}) {
    if (path == known) return;
  }
  if (absl::StartsWith(path, "/dev/pts/") || path == "/dev/tty" || path == "/dev/console" ||
      path == "/dev/ptmx" || path == "/dev/pts/ptmx") {
    return findings.Add("TerminalOpen", absl::StrCat(holder.Who(), " has the terminal ", path, " open"),
                        descriptor.Evidence());
  }
  findings.Add("DeviceFile", absl::StrCat(holder.Who(), " has the device ", path, " open"),
               descriptor.Evidence(), "Devices stay on their node.");
}

// What a name ends with proves nothing: files may be called "x (deleted)".
void InspectDescriptor(const Holder& holder, const Descriptor& descriptor, Findings& findings) {
  const absl::string_view target = descriptor.target;
  absl::string_view name = target;
  if (absl::ConsumePrefix(&name, "anon_inode:")) return InspectAnonInode(holder, descriptor, name, findings);
  if (absl::StartsWith(target, "socket:")) return InspectSocket(holder, descriptor, findings);
  if (absl::StartsWith(target, "/secretmem")) {
    return findings.Add("SecretMemory", absl::StrCat(holder.Who(), " uses memfd_secret"),
                        descriptor.Evidence());
  }
  if (absl::StartsWith(target, "/dmabuf"))
    return findings.Add("DeviceFile", absl::StrCat(holder.Who(), " holds a DMA buffer"),
                        descriptor.Evidence(), "Devices stay on their node.");
  struct stat status{};
  const bool deleted = absl::EndsWith(target, " (deleted)") && !absl::StartsWith(target, "/memfd:");
  if (!deleted && !absl::StartsWith(target, "/dev/")) return;
  if (stat(descriptor.link.c_str(), &status) != 0) return;
  if (S_ISCHR(status.st_mode)) return InspectCharacterDevice(holder, descriptor, findings);
  if (S_ISBLK(status.st_mode))
    return findings.Add("DeviceFile", absl::StrCat(holder.Who(), " has the device ", target, " open"),
                        descriptor.Evidence(), "Devices stay on their node.");
}

// `left`: so many more may be looked at.
void InspectDescriptors(const std::string& proc, const Holder& holder, int& left, Findings& findings) {
  const std::string folder = absl::StrCat(proc, "/", holder.process.pid, "/fd");
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return;  // it has ended
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    if (SteadyNow() > holder.deadline) break;
    if (left-- <= 0) {
      findings.Add("NotAllLookedAt",
                   absl::StrCat("container ", holder.container.name, " has more than ", kMostDescriptors,
                                " descriptors"),
                   folder);
      break;
    }
    Descriptor descriptor{.link = absl::StrCat(folder, "/", entry->d_name)};
    char target[PATH_MAX];
    const ssize_t size = readlink(descriptor.link.c_str(), target, sizeof(target));
    if (size <= 0) continue;
    descriptor.target = absl::string_view(target, static_cast<size_t>(size));
    InspectDescriptor(holder, descriptor, findings);
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
    findings.Add(
        "NestedNamespace",
        absl::StrCat(holder.Who(), " is in a ", kind.name, " namespace that it made inside the container"),
        absl::StrCat(proc, "/", holder.process.pid, "/ns/", kind.link, " -> ", own, ", the container's is ",
                     init));
    return;
  }
}

void InspectMaps(const std::string& proc, const Holder& holder, Findings& findings) {
  const std::string path = absl::StrCat(proc, "/", holder.process.pid, "/maps");
  const absl::StatusOr<std::string> text = ReadFile(path, memory::kMostMapsText);
  if (absl::IsResourceExhausted(text.status()))
    findings.Add("TooManyObjects",
                 absl::StrCat(holder.Who(),
                              " has so many mappings, or of files with such long names, that "
                              "they cannot all be looked at"),
                 absl::StrCat(path, ": more than ", memory::kMostMapsText >> 20, " MiB"));
  if (!text.ok()) return;
  const MapsFacts facts = ParseMaps(*text);
  const auto seen = [&path](absl::string_view name) { return absl::StrCat(path, ": ", name); };
  if (facts.uprobes)
    findings.Add("Uprobes", absl::StrCat(holder.Who(), " has a uprobe set by a tracing tool of the node"),
                 seen("[uprobes]"));
  if (!facts.device.empty())
    findings.Add("DeviceMapping",
                 absl::StrCat(holder.Who(), " has memory of the device ", facts.device, " mapped"),
                 seen(facts.device));
  if (!facts.huge_pages.empty())
    findings.Add("HugePages", absl::StrCat(holder.Who(), " has huge pages mapped"), seen(facts.huge_pages));
  if (!facts.in_freeze.empty())
    findings.Add("CopiedInFreeze",
                 absl::StrCat(holder.Who(), " shares memory that is copied while the pod stands still"),
                 seen(facts.in_freeze));
}

// Zombies among the threads; `own` of the process itself.
void InspectThreads(const std::string& proc, const Holder& holder, const StatusFacts& own,
                    Findings& findings) {
  const std::string folder = absl::StrCat(proc, "/", holder.process.pid, "/task");
  if (own.state == 'Z' && own.threads > 1) {
    return findings.Add(
        "DeadLeader",
        absl::StrCat("the first thread of ", holder.Who(), " has ended and ", own.threads - 1, " go on"),
        absl::StrCat(proc, "/", holder.process.pid, "/status: State: Z, Threads: ", own.threads));
  }
  if (own.threads <= 1) return;
  const absl::StatusOr<std::vector<std::string>> threads = ListFolder(folder);
  if (!threads.ok()) return;
  for (const std::string& thread : *threads) {
    if (SteadyNow() > holder.deadline) return;
    const absl::StatusOr<std::string> text =
        ReadFile(absl::StrCat(folder, "/", thread, "/status"), kMostText);
    if (!text.ok() || ParseStatus(*text).state != 'Z') continue;
    return findings.Add("ZombieThread", absl::StrCat("thread ", thread, " of ", holder.Who(), " is a zombie"),
                        absl::StrCat(folder, "/", thread, "/status: State: Z"));
  }
}

void InspectStatus(const std::string& proc, const Holder& holder, Findings& findings) {
  const std::string path = absl::StrCat(proc, "/", holder.process.pid, "/status");
  const absl::StatusOr<std::string> text = ReadFile(path, kMostText);
  if (!text.ok()) return;
  const StatusFacts facts = ParseStatus(*text);
  if (facts.seccomp == 1)
    findings.Add("SeccompStrict", absl::StrCat(holder.Who(), " is in seccomp's strict mode"),
                 absl::StrCat(path, ": Seccomp: 1"));
  InspectThreads(proc, holder, facts, findings);
}

// AppArmor's profile or SELinux' label; none and AppArmor's "unconfined" are no matter.
void InspectLabel(const std::string& proc, const Holder& holder, Findings& findings) {
  const std::string path = absl::StrCat(proc, "/", holder.process.pid, "/attr/current");
  const absl::StatusOr<std::string> text = ReadFile(path, 4096);
  if (!text.ok()) return;
  absl::string_view label = *text;
  label = label.substr(0, label.find_first_of(absl::string_view("\0\n", 2)));
  if (label.empty() || label == "unconfined" || label == "kernel") return;
  findings.Add("SecurityLabel", absl::StrCat("container ", holder.container.name, " runs as ", label),
               absl::StrCat(path, ": ", label));
}

void InspectConnections(const std::string& proc, pid_t pid, Findings& findings) {
  TcpFacts all;
  std::string seen;
  for (const char* table : {"tcp", "tcp6"}) {
    const std::string path = absl::StrCat(proc, "/", pid, "/net/", table);
    const absl::StatusOr<std::string> text = ReadFile(path, kMostText);
    if (!text.ok()) continue;
    const TcpFacts facts = ParseTcp(*text);
    all.established += facts.established;
    all.in_flight += facts.in_flight;
    absl::StrAppend(&seen, seen.empty() ? "" : ", ", path, ": ", facts.established, " established, ",
                    facts.in_flight, " being made");
  }
  if (all.established > 0) {
    findings.Add(
        "ConnectionsClose",
        absl::StrCat("the pod has ", all.established, " established TCP connections, which will be closed"),
        seen);
  }
  if (all.in_flight > 0)
    findings.Add("ConnectionInFlight",
                 absl::StrCat(all.in_flight, " TCP connections are being made in this moment"), seen);
}

void InspectTree(const std::vector<runtime::Process>& processes, pid_t init, const std::string& container,
                 Findings& findings) {
  if (const auto ending = runtime::BeingEnded(processes); !ending.empty())
    findings.Add("PendingTermination",
                 absl::StrCat("of container ", container, " are being ended: ", runtime::Describe(ending)),
                 "SIGTERM or SIGKILL is pending");
  if (const auto outside = runtime::OutsideTree(processes, init); !outside.empty())
    findings.Add("ExecInFlight",
                 absl::StrCat("not descended from the first process of container ", container, ": ",
                              runtime::Describe(outside)),
                 absl::StrCat("its first process is ", init));
}

void InspectWeight(const std::string& proc, const agent_api::Weight& weight, const std::string& container,
                   Findings& findings) {
  if (weight.processes < kManyProcesses && weight.threads < kManyThreads &&
      weight.descriptors < kManyDescriptors && weight.mappings < kManyMappings)
    return;
  findings.Add(
      "ManyObjects",
      absl::StrCat("container ", container, " has ", weight.processes, " processes, ", weight.threads,
                   " threads, ", weight.descriptors, " descriptors and ", weight.mappings, " mappings"),
      absl::StrCat(proc, "/PID/{task,fd,maps}"));
}

}  // namespace

std::vector<agent_api::Finding> InspectProcesses(const runtime::HostView& host,
                                                 const runtime::Container& container, const Look& look) {
  Findings findings(container.name);
  int left = kMostDescriptors;
  std::vector<runtime::Process> seen;
  for (pid_t pid : look.processes) {
    if (SteadyNow() > look.deadline) break;
    const absl::StatusOr<runtime::Process> process = runtime::ReadProcess(host.proc, pid);
    if (!process.ok()) continue;  // it has ended
    seen.push_back(*process);
    const Holder holder{container, *process, look.deadline};
    if (process->tracer != 0) {
      findings.Add("Traced", absl::StrCat(holder.Who(), " is traced by process ", process->tracer),
                   absl::StrCat(host.proc, "/", pid, "/status: TracerPid: ", process->tracer));
    }
    InspectStatus(host.proc, holder, findings);
    InspectDescriptors(host.proc, holder, left, findings);
    InspectNamespaces(host.proc, holder, findings);
    InspectMaps(host.proc, holder, findings);
    if (pid == container.init_pid) InspectLabel(host.proc, holder, findings);
  }
  if (look.held.deleted > kGhostLimit) {
    findings.Add("LargeDeletedFile",
                 absl::StrCat("container ", container.name, " holds deleted files of ",
                              look.held.deleted >> 20, " MiB open"),
                 absl::StrCat(host.proc, "/PID/fd of its ", look.processes.size(), " processes"));
  }
  const auto overlays =
      runtime::FindInnerOverlays(host.proc, container.root_device, look.processes, look.deadline);
  if (absl::IsResourceExhausted(overlays.status()))
    findings.Add("TooManyObjects",
                 absl::StrCat("in container ", container.name, ", ", overlays.status().message()));
  for (const runtime::InnerOverlay& overlay : overlays.value_or(std::vector<runtime::InnerOverlay>())) {
    findings.Add("UnsupportedMount",
                 absl::StrCat("container ", container.name, " has mounted an overlay at ", overlay.point),
                 absl::StrCat(host.proc, "/", overlay.pid, "/mountinfo: overlay at ", overlay.point));
  }
  InspectTree(seen, container.init_pid, container.name, findings);
  InspectConnections(host.proc, container.init_pid, findings);
  InspectWeight(host.proc, look.weight, container.name, findings);
  return findings.Take();
}

}  // namespace godwit::preflight
