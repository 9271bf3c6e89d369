// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/node_facts.h"

#include <sys/statvfs.h>
#include <sys/utsname.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/criu/plan.h"
#include "agent/install/cri_status.h"
#include "agent/memory/tracker.h"
#include "agent/preflight/parse.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::serve {
namespace {

constexpr absl::Duration kAskHandlers = absl::Seconds(2);
constexpr char kHandler[] = "godwit";

std::string Architecture(absl::string_view machine) {
  if (machine == "x86_64") return "amd64";
  if (machine == "aarch64") return "arm64";
  return std::string(machine);
}

constexpr uint64_t kSysResource = uint64_t{1} << 24;  // CAP_SYS_RESOURCE, linux/capability.h

// The value of a line "Key:\tvalue" of <proc>/1/status; empty when there is none.
std::string InitStatus(const std::string& proc, absl::string_view key) {
  const auto text = ReadFile(absl::StrCat(proc, "/1/status"), 65536);
  if (!text.ok()) return "";
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (absl::ConsumePrefix(&line, key) && absl::ConsumePrefix(&line, ":"))
      return std::string(absl::StripAsciiWhitespace(line));
  }
  return "";
}

bool LacksSysResource(const std::string& proc) {
  uint64_t bounding = 0;
  return absl::SimpleHexAtoi(InitStatus(proc, "CapBnd"), &bounding) && (bounding & kSysResource) == 0;
}

std::vector<std::string> SecurityModules(const runtime::HostView& host) {
  const auto text = ReadFile(host.At("/sys/kernel/security/lsm"), 4096);
  if (!text.ok()) return {};
  return absl::StrSplit(absl::StripAsciiWhitespace(*text), ',', absl::SkipEmpty());
}

std::string CgroupMode(const runtime::HostView& host, const std::string& root) {
  if (FileExists(host.At("/sys/fs/cgroup/cgroup.controllers"))) return "v2";
  return FileExists(host.At(absl::StrCat(root, "/cgroup.controllers"))) ? "hybrid" : "v1";
}

}  // namespace

absl::StatusOr<NodeFacts> NodeFacts::Make(Options options) {
  NodeFacts facts(std::move(options));
  const Options& o = facts.options_;
  const std::string config = absl::StrCat(o.install_folder, "/etc/runtime.json");
  auto text = ReadFile(o.host.At(config));
  if (!text.ok())
    return Annotate(text.status(), "Godwit is not installed on this node (run `godwit-agent install`)");
  auto runtime = json::Decode<agent_api::RuntimeConfig>(*text);
  if (!runtime.ok()) return Annotate(runtime.status(), config);
  facts.runtime_ = *std::move(runtime);
  if (facts.runtime_.cgroup_root.empty()) facts.runtime_.cgroup_root = "/sys/fs/cgroup";
  utsname kernel;
  if (uname(&kernel) != 0) return ErrnoStatus("uname");
  facts.fixed_.node = o.node;
  facts.fixed_.version = GODWIT_VERSION;
  facts.fixed_.architecture = Architecture(kernel.machine);
  facts.fixed_.kernel = kernel.release;
  GODWIT_ASSIGN_OR_RETURN(facts.fixed_.criu_version,
                          facts.VersionOf(absl::StrCat(o.install_folder, "/criu/criu")));
  GODWIT_ASSIGN_OR_RETURN(facts.fixed_.runc_version, facts.VersionOf(facts.runtime_.runtime));
  if (const auto cpus = ReadFile(absl::StrCat(o.host.proc, "/cpuinfo")); cpus.ok())
    facts.fixed_.cpu_features = preflight::ParseCpuFeatures(*cpus);
  facts.fixed_.cgroup_mode = CgroupMode(o.host, facts.runtime_.cgroup_root);
  facts.fixed_.security_modules = SecurityModules(o.host);
  facts.fixed_.lacks_sys_resource = LacksSysResource(o.host.proc);
  facts.fixed_.criu_check = facts.CriuCheck(absl::StrCat(o.install_folder, "/criu/criu"));
  return facts;
}

absl::StatusOr<RunResult> NodeFacts::RunOnHost(const std::vector<std::string>& command) const {
  RunOptions run{.limit = absl::Seconds(20), .max_output = 65536};
  run.spawn.cwd = "/";
  if (!options_.host_namespaces.empty())
    run.spawn.namespaces = {absl::StrCat(options_.host_namespaces, "/mnt")};
  return Run(command, run);
}

// What `criu check` says when it is not content; the last lines of it. Not a reason not to begin: it asks for
// more than is needed.
std::string NodeFacts::CriuCheck(const std::string& criu) const {
  const auto result = RunOnHost({criu, "check"});
  if (!result.ok()) return std::string(result.status().message());
  if (result->status.ok()) return "";
  const std::string said = absl::StrCat(result->out, result->err);
  constexpr size_t kTold = 512;
  return preflight::Printable(
      said.size() > kTold ? absl::string_view(said).substr(said.size() - kTold) : said, kTold);
}

absl::StatusOr<std::string> NodeFacts::VersionOf(const std::string& program) const {
  GODWIT_ASSIGN_OR_RETURN(RunResult result, RunOnHost({program, "--version"}));
  if (!result.status.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(program, " --version on the host: ", result.status.ToString(), ": ", result.err));
  }
  return criu::ParseVersion(result.out).ToString();
}

bool NodeFacts::RuntimeReady() const {
  absl::MutexLock lock(&live_->mutex);
  if (SteadyNow() - live_->asked < kAskHandlers) return live_->ready;
  auto handlers = install::RuntimeHandlers(options_.host.At(options_.cri_socket), absl::Seconds(3));
  live_->ready = handlers.ok() && std::find(handlers->begin(), handlers->end(), kHandler) != handlers->end();
  live_->asked = SteadyNow();
  return live_->ready;
}

absl::Status NodeFacts::CheckTracking() const {
  if (!options_.memory_tracking)
    return absl::FailedPreconditionError("memory tracking is switched off (agent.memoryTracking=false)");
  return memory::CheckTrackerSupport();
}

agent_api::NodeInfo NodeFacts::Info() const {
  agent_api::NodeInfo info = fixed_;
  info.runtime_ready = RuntimeReady();
  info.no_pre_copy = std::string(CheckTracking().message());
  info.memory_available = MemoryAvailable(options_.host.proc);
  info.storage_available = FreeBytes(options_.state_folder).value_or(0);
  info.storage_reserve = DiskReserve();
  return info;
}

int64_t NodeFacts::DiskReserve() const {
  struct statvfs info;
  if (statvfs(options_.state_folder.c_str(), &info) != 0) return 0;
  const int64_t size = static_cast<int64_t>(info.f_blocks) * static_cast<int64_t>(info.f_frsize);
  return size / 100 * options_.disk_reserve_percent;
}

int64_t MemoryAvailable(const std::string& proc) {
  auto text = ReadFile(absl::StrCat(proc, "/meminfo"), 65536);
  if (!text.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t kibibytes = 0;
    if (words.size() >= 2 && words[0] == "MemAvailable:" && absl::SimpleAtoi(words[1], &kibibytes))
      return kibibytes << 10;
  }
  return 0;
}

}  // namespace godwit::serve
