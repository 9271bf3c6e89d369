// SPDX-License-Identifier: Apache-2.0
#include "agent/preflight/inspect.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "agent/criu/plan.h"
#include "agent/files/content.h"
#include "agent/files/snapshot.h"
#include "agent/preflight/finding.h"
#include "agent/preflight/parse.h"
#include "agent/runtime/layer.h"
#include "agent/runtime/processes.h"
#include "agent/runtime/volumes.h"
#include "agent/runtime/weight.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::preflight {
namespace {

constexpr uint64_t kHwcapPaca = uint64_t{1} << 30;           // arm64: pointer authentication (asm/hwcap.h)
constexpr criu::Version kSocketsOnNewKernels = {4, 2, 0};    // criu#2705: SO_PASSCRED on Linux >= 6.16
constexpr criu::Version kPointerAuthentication = {4, 2, 0};  // criu#2709, PR 2712
constexpr criu::Version kNewKernel = {6, 16, 0};
constexpr criu::Version kRseqForTracers = {5, 13, 0};  // PTRACE_GET_RSEQ_CONFIGURATION; criu#1696
constexpr criu::Version kRuntime = {1, 1, 0};
constexpr int kMaxDepth = 400;           // the packer's
constexpr int64_t kTarBlock = 512;       // pax(1): headers and contents are padded to it
constexpr int64_t kUstarName = 100;      // longer ones are in the pax header, whole
constexpr int64_t kPaxRecords = 100;     // the pax header's other records, which each entry has
constexpr int64_t kLookAtTheTime = 256;  // names

std::string MiB(int64_t bytes) { return absl::StrFormat("%d MiB", (bytes + (1 << 20) - 1) >> 20); }

// A file with several names: its content travels with the first that the packer meets, whichever that is, and
// each other points to that one.
struct Linked {
  int64_t names = 0;
  int64_t longest = 0;
};

struct Measuring {
  dev_t device = 0;
  absl::Time deadline;
  bool overlay = false;  // a device 0:0 stands for what was removed
  Measured measured;
  absl::flat_hash_map<ino_t, Linked> linked;  // as many as are packed
  int64_t looked = 0;
};

int64_t Blocks(int64_t bytes) { return (bytes + kTarBlock - 1) / kTarBlock * kTarBlock; }

// What libarchive writes for a name without its content: header, pax header, its records.
int64_t TarBytes(int64_t path, int64_t target) {
  return 2 * kTarBlock +
         Blocks(kPaxRecords + (path > kUstarName ? path : 0) + (target > kUstarName ? target : 0));
}

// Counts a name that is `path` bytes long in the tar.
void Count(const struct stat& status, int64_t path, Measuring& measuring) {
  Measured& measured = measuring.measured;
  const bool hidden = S_ISCHR(status.st_mode) && measuring.overlay;
  if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode) && !S_ISLNK(status.st_mode) &&
      !S_ISFIFO(status.st_mode) && !hidden)
    return;
  ++measured.names;
  measured.path_bytes += path;
  if (S_ISREG(status.st_mode) && status.st_nlink > 1 &&
      (measuring.linked.size() < files::kMaxEntries || measuring.linked.contains(status.st_ino))) {
    Linked& linked = measuring.linked[status.st_ino];
    linked.longest = std::max(linked.longest, path);
    if (++linked.names > 1) {
      measured.bytes += TarBytes(path, 0);
      return;
    }
  }
  const int64_t target = S_ISLNK(status.st_mode) ? status.st_size : 0;
  measured.path_bytes += target;
  measured.bytes += TarBytes(path, target);
  if (!S_ISREG(status.st_mode)) return;
  const int64_t content = std::min<int64_t>(status.st_size, int64_t{status.st_blocks} * 512);
  measured.bytes += Blocks(content);
  if (content < status.st_size) measured.bytes += TarBytes(path, 0);  // the map of its holes, the path again
}

// What the further names of files point to.
void CountTargets(Measuring& measuring) {
  for (const auto& [inode, linked] : measuring.linked) {
    const int64_t further = linked.names - 1;
    measuring.measured.path_bytes += further * linked.longest;
    if (linked.longest > kUstarName) measuring.measured.bytes += further * Blocks(linked.longest);
  }
}

bool IsDevice(const struct stat& status, bool overlay) {
  if (S_ISBLK(status.st_mode)) return true;
  return S_ISCHR(status.st_mode) && !(overlay && status.st_rdev == makedev(0, 0));
}

// Adds up what is in an open folder, called `path` in what is told. False when the time is over.
bool Measure(int folder, const std::string& path, int depth, Measuring& measuring) {
  DIR* dir = fdopendir(folder);
  if (dir == nullptr) {
    UniqueFd closes(folder);
    return true;
  }
  bool in_time = true;
  while (const dirent* entry = readdir(dir)) {
    const absl::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat status{};
    if (fstatat(dirfd(dir), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;  // removed meanwhile
    Count(status, static_cast<int64_t>(path.size() + name.size()), measuring);
    if (S_ISREG(status.st_mode) && measuring.measured.huge_file.empty() &&
        status.st_size > files::kMostFileBytes)
      measuring.measured.huge_file = absl::StrCat(path, "/", name);
    if (measuring.measured.device_file.empty() && IsDevice(status, measuring.overlay))
      measuring.measured.device_file = absl::StrCat(path, "/", name);
    if (++measuring.looked % kLookAtTheTime == 0 && SteadyNow() > measuring.deadline) {
      in_time = false;
      break;
    }
    if (!S_ISDIR(status.st_mode) || status.st_dev != measuring.device || depth >= kMaxDepth) continue;
    const int below = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (below >= 0) in_time = Measure(below, absl::StrCat(path, "/", name), depth + 1, measuring);
    if (!in_time || SteadyNow() > measuring.deadline) {
      in_time = false;
      break;
    }
  }
  closedir(dir);
  return in_time;
}

absl::StatusOr<runtime::Container> Find(const runtime::HostView& host, const agent_api::PodName& pod,
                                        const agent_api::ContainerRef& ref) {
  const std::string what = absl::StrCat("container ", ref.name, " of pod ", pod.name_space, "/", pod.name);
  absl::StatusOr<runtime::Container> container = runtime::FindContainer(host, ref.id);
  if (!container.ok()) return Annotate(container.status(), what);
  if (container->pod_uid != pod.uid) {
    return absl::FailedPreconditionError(absl::StrCat(what, ": ", ref.id, " belongs to another pod"));
  }
  return container;
}

// What is private to a process, and its share of what it shares, also what was swapped out: kB in
// /proc/PID/smaps_rollup (proc(5)). What several processes map counts once, in all of them together.
int64_t OwnMemory(const std::string& proc, const runtime::Process& process) {
  const absl::StatusOr<std::string> text =
      ReadFile(absl::StrCat(proc, "/", process.pid, "/smaps_rollup"), 65536);
  if (!text.ok()) return process.resident_bytes;
  int64_t kibibytes = 0;
  bool told = false;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() < 2 || !absl::SimpleAtoi(words[1], &value)) continue;
    told = told || words[0] == "Pss_Anon:";
    if (words[0] == "Pss_Anon:" || words[0] == "Pss_Shmem:" || words[0] == "SwapPss:") kibibytes += value;
  }
  return told ? kibibytes * 1024 : process.resident_bytes;
}

bool IsRoot(const std::string& proc, pid_t pid) {
  const absl::StatusOr<std::string> status = ReadFile(absl::StrCat(proc, "/", pid, "/status"), 65536);
  return !status.ok() || ParseStatus(*status).root;
}

void Append(std::vector<agent_api::Finding>& all, std::vector<agent_api::Finding> more) {
  all.insert(all.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

}  // namespace

Measured MeasureFolder(const std::string& folder, absl::Duration limit, bool overlay) {
  absl::StatusOr<UniqueFd> top = OpenFile(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  struct stat status{};
  if (!top.ok() || fstat(top->get(), &status) != 0) return {};
  Measuring measuring{.device = status.st_dev, .deadline = SteadyNow() + limit, .overlay = overlay};
  measuring.measured.whole = Measure(top->Release(), "", 0, measuring);
  CountTargets(measuring);
  return measuring.measured;
}

std::vector<agent_api::Finding> InspectNode(const NodeFacts& facts, int64_t memory_bytes, bool other_users) {
  Findings findings("");
  const agent_api::NodeInfo& node = facts.node;
  const criu::Version criu = criu::ParseVersion(node.criu_version);
  const criu::Version kernel = criu::ParseVersion(node.kernel);
  const std::string versions =
      absl::StrCat("kernel ", node.kernel, ", CRIU ", node.criu_version, ", runc ", node.runc_version);
  if (criu == criu::Version{}) {
    findings.Add("CriuMissing", absl::StrCat("node ", node.node, " has no working CRIU"), versions);
    return findings.Take();
  }
  if (criu < kSocketsOnNewKernels && kernel >= kNewKernel) {
    findings.Add("CriuTooOld",
                 absl::StrCat("CRIU ", node.criu_version, " cannot dump sockets on Linux ", node.kernel,
                              " of node ", node.node),
                 versions);
  }
  if (node.architecture == "arm64" && (facts.hwcap & kHwcapPaca) != 0 && criu < kPointerAuthentication) {
    findings.Add("PointerAuthentication",
                 absl::StrCat("CRIU ", node.criu_version, " hangs on restore on node ", node.node,
                              ", whose CPU has pointer authentication"),
                 absl::StrFormat("AT_HWCAP 0x%x, %s", facts.hwcap, versions),
                 "Use Godwit's own CRIU (4.2.1), or start the kernel with arm64.nopauth.");
  }
  if (!node.criu_check.empty())
    findings.Add("CriuCheckFailed", absl::StrCat("criu check is not content with node ", node.node),
                 node.criu_check);
  if (kernel != criu::Version{} && kernel < kRseqForTracers)
    findings.Add("KernelTooOld", absl::StrCat("node ", node.node, " runs Linux ", node.kernel), versions);
  const criu::Version runc = criu::ParseVersion(node.runc_version);
  if (runc != criu::Version{} && runc < kRuntime)
    findings.Add("RuntimeTooOld", absl::StrCat("node ", node.node, " has runc ", node.runc_version),
                 versions);
  if (node.lacks_sys_resource && other_users) {
    findings.Add(
        "NoSysResource",
        absl::StrCat("node ", node.node, " lacks CAP_SYS_RESOURCE, and processes of the pod are not root's"),
        "CapBnd in /proc/1/status of the node");
  }
  if (node.storage_available > 0 && memory_bytes > node.storage_available) {
    findings.Add("NoRoom",
                 absl::StrCat("node ", node.node, " has ", MiB(node.storage_available),
                              " free for images; the pod's memory needs ", MiB(memory_bytes)),
                 absl::StrCat(node.storage_available, " bytes are available to the agent's state folder"));
  }
  return findings.Take();
}

absl::StatusOr<agent_api::PreflightReport> Inspect(const runtime::HostView& host,
                                                   const agent_api::PreflightRequest& request,
                                                   const NodeFacts& facts) {
  agent_api::PreflightReport report;
  std::vector<runtime::BundleMount> mounts;
  std::vector<std::pair<std::string, std::string>> layers;  // container, folder
  const absl::Time begun = SteadyNow();
  const auto measure = [&](const std::string& container, absl::string_view what, const std::string& folder,
                           bool overlay) {
    const Measured measured = MeasureFolder(host.At(folder), begun + facts.limit - SteadyNow(), overlay);
    report.file_bytes += measured.bytes;
    Findings findings(container);
    if (!measured.device_file.empty())
      findings.Add("DeviceFileWritten", absl::StrCat(what, " holds the device file ", measured.device_file),
                   absl::StrCat(folder, measured.device_file));
    if (!measured.huge_file.empty())
      findings.Add("FileTooLarge", absl::StrCat(what, " holds ", measured.huge_file),
                   absl::StrCat(folder, measured.huge_file));
    if (measured.names > files::kMaxEntries || measured.path_bytes > files::kMaxPathBytes)
      findings.Add("TooManyObjects",
                   absl::StrCat(what, " has ", measured.names, " files with names of ",
                                MiB(measured.path_bytes), " in all; at most ", files::kMaxEntries, " with ",
                                MiB(files::kMaxPathBytes), " can be packed"),
                   folder);
    if (!measured.whole)
      findings.Add("FilesNotMeasured",
                   absl::StrCat("of ", what, " only ", MiB(measured.bytes), " were counted in time"), folder);
    Append(report.findings, findings.Take());
  };
  for (const agent_api::ContainerRef& ref : request.containers) {
    GODWIT_ASSIGN_OR_RETURN(const runtime::Container container, Find(host, request.pod, ref));
    Append(report.findings, InspectConfiguration(host, container));
    const absl::StatusOr<std::vector<runtime::Process>> processes =
        runtime::ReadProcesses(host.proc, host.At(container.cgroup));
    if (!processes.ok()) return Annotate(processes.status(), absl::StrCat("container ", ref.name));
    Look look{.deadline = begun + facts.look_limit};
    for (const runtime::Process& process : *processes) {
      if (SteadyNow() > look.deadline) break;
      look.processes.push_back(process.pid);
      report.memory_bytes += OwnMemory(host.proc, process);
      report.other_users = report.other_users || !IsRoot(host.proc, process.pid);
      look.weight += runtime::Weigh(host.proc, {process.pid});
    }
    report.weight += look.weight;
    look.held = runtime::HeldBytes(host.proc, look.processes, look.deadline);
    report.memory_bytes += look.held.deleted;  // CRIU's images have it
    Append(report.findings, InspectProcesses(host, container, look));
    if (SteadyNow() > look.deadline) {
      Findings late(ref.name);
      late.Add("TooManyObjects",
               absl::StrCat("container ", ref.name, " could not be looked at whole in ",
                            absl::FormatDuration(facts.look_limit), ": ", processes->size(), " processes, ",
                            look.weight.threads, " threads, ", look.weight.descriptors, " descriptors and ",
                            look.weight.mappings, " mappings were counted"));
      Append(report.findings, late.Take());
    }
    if (const std::string layer = runtime::FindWritableLayer(host, container).value_or(""); !layer.empty())
      layers.emplace_back(ref.name, layer);
    mounts.insert(mounts.end(), container.mounts.begin(), container.mounts.end());
  }
  // Files last: however many there are, all processes were looked at.
  for (const auto& [container, layer] : layers)
    measure(container, absl::StrCat("the file system of container ", container), layer, true);
  for (const std::string& volume : request.empty_dirs) {
    const std::string folder = runtime::EmptyDirFolder(mounts, request.pod.uid, volume);
    if (!folder.empty()) measure("", absl::StrCat("emptyDir ", volume), folder, false);
  }
  Append(report.findings, InspectNode(facts, report.memory_bytes, report.other_users));
  return report;
}

}  // namespace godwit::preflight
