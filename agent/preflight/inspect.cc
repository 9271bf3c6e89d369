// SPDX-License-Identifier: Apache-2.0
#include "agent/preflight/inspect.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "agent/criu/plan.h"
#include "agent/preflight/finding.h"
#include "agent/runtime/mounts.h"
#include "agent/runtime/processes.h"
#include "agent/runtime/volumes.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::preflight {
namespace {

constexpr uint64_t kHwcapPaca = uint64_t{1} << 30;           // arm64: pointer authentication (asm/hwcap.h)
constexpr criu::Version kSocketsOnNewKernels = {4, 2, 0};    // criu#2705: SO_PASSCRED on Linux >= 6.16
constexpr criu::Version kPointerAuthentication = {4, 2, 0};  // criu#2709, PR 2712
constexpr criu::Version kNewKernel = {6, 16, 0};
constexpr int kMaxDepth = 128;

std::string MiB(int64_t bytes) { return absl::StrFormat("%d MiB", (bytes + (1 << 20) - 1) >> 20); }

// Adds up the regular files of an open folder. False when the time is over.
bool Measure(int folder, dev_t device, int depth, absl::Time deadline, int64_t& total) {
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
    if (S_ISREG(status.st_mode)) total += std::min<int64_t>(status.st_size, int64_t{status.st_blocks} * 512);
    if (!S_ISDIR(status.st_mode) || status.st_dev != device || depth >= kMaxDepth) continue;
    const int below = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (below >= 0) in_time = Measure(below, device, depth + 1, deadline, total);
    if (!in_time || absl::Now() > deadline) {
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
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": ", ref.id, " belongs to another pod (UID ", container->pod_uid, ")"));
  }
  return container;
}

int64_t MeasureWritten(const runtime::HostView& host, const runtime::Container& container,
                       absl::Duration limit) {
  const absl::StatusOr<std::vector<runtime::Mount>> mounts =
      runtime::ReadMounts(host.proc, container.init_pid);
  if (!mounts.ok()) return 0;
  const absl::StatusOr<std::string> layer = runtime::WritableLayer(*mounts);
  return layer.ok() ? MeasureFolder(host.At(*layer), limit) : 0;
}

void Append(std::vector<agent_api::Finding>& all, std::vector<agent_api::Finding> more) {
  all.insert(all.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

}  // namespace

int64_t MeasureFolder(const std::string& folder, absl::Duration limit) {
  absl::StatusOr<UniqueFd> top = OpenFile(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  struct stat status{};
  if (!top.ok() || fstat(top->get(), &status) != 0) return 0;
  int64_t total = 0;
  Measure(top->Release(), status.st_dev, 0, absl::Now() + limit, total);
  return total;
}

std::vector<agent_api::Finding> InspectNode(const NodeFacts& facts, int64_t memory_bytes) {
  Findings findings("");
  const criu::Version criu = criu::ParseVersion(facts.node.criu_version);
  if (criu == criu::Version{}) {
    findings.Block("CriuMissing", absl::StrCat("node ", facts.node.node, " has no working CRIU"),
                   "Look at the agent's init container there: it installs CRIU.");
    return findings.Take();
  }
  if (criu < kSocketsOnNewKernels && criu::ParseVersion(facts.node.kernel) >= kNewKernel) {
    findings.Block("CriuTooOld",
                   absl::StrCat("CRIU ", facts.node.criu_version, " cannot dump sockets on Linux ",
                                facts.node.kernel, " of node ", facts.node.node),
                   "Use Godwit's own CRIU (4.2.1).");
  }
  if (facts.node.architecture == "arm64" && (facts.hwcap & kHwcapPaca) != 0 &&
      criu < kPointerAuthentication) {
    findings.Block("PointerAuthentication",
                   absl::StrCat("CRIU ", facts.node.criu_version, " hangs on restore on node ",
                                facts.node.node, ", whose CPU has pointer authentication"),
                   "Use Godwit's own CRIU (4.2.1), or start the kernel with arm64.nopauth.");
  }
  if (facts.node.storage_available > 0 && memory_bytes > facts.node.storage_available) {
    findings.Block("NoRoom",
                   absl::StrCat("node ", facts.node.node, " has ", MiB(facts.node.storage_available),
                                " free for images; the pod's memory needs ", MiB(memory_bytes)),
                   "Free space on the disk that holds Godwit's state folder.");
  }
  return findings.Take();
}

absl::StatusOr<agent_api::PreflightReport> Inspect(const runtime::HostView& host,
                                                   const agent_api::PreflightRequest& request,
                                                   const NodeFacts& facts) {
  agent_api::PreflightReport report;
  std::vector<runtime::BundleMount> mounts;
  const absl::Time deadline = absl::Now() + facts.measure_limit;
  for (const agent_api::ContainerRef& ref : request.containers) {
    GODWIT_ASSIGN_OR_RETURN(const runtime::Container container, Find(host, request.pod, ref));
    Append(report.findings, InspectConfiguration(host, container));
    const absl::StatusOr<std::vector<runtime::Process>> processes =
        runtime::ReadProcesses(host.proc, host.At(container.cgroup));
    if (!processes.ok()) return Annotate(processes.status(), absl::StrCat("container ", ref.name));
    std::vector<pid_t> pids;
    for (const runtime::Process& process : *processes) {
      pids.push_back(process.pid);
      report.memory_bytes += process.resident_bytes;
    }
    Append(report.findings, InspectProcesses(host, container, pids));
    report.file_bytes += MeasureWritten(host, container, deadline - absl::Now());
    mounts.insert(mounts.end(), container.mounts.begin(), container.mounts.end());
  }
  for (const std::string& volume : request.empty_dirs) {
    const std::string folder = runtime::EmptyDirFolder(mounts, request.pod.uid, volume);
    if (!folder.empty()) report.file_bytes += MeasureFolder(host.At(folder), deadline - absl::Now());
  }
  Append(report.findings, InspectNode(facts, report.memory_bytes));
  return report;
}

}  // namespace godwit::preflight
