// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/plan.h"

#include <fcntl.h>

#include <cctype>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "agent/criu/criu_environment.h"
#include "agent/criu/gate.h"
#include "base/file.h"
#include "base/process.h"
#include "base/status.h"

namespace godwit::criu {
namespace {

// Deleted files that a process holds open are carried in the images up to this size; CRIU's own limit is 1
// MiB.
constexpr char kGhostLimit[] = "ghost-limit 256M\n";
// CRIU's lock of established connections, made by libnftables in CRIU's process: 7-9 ms, where forking
// iptables-restore takes 54 ms a side. The images say which it was, and the restore does as they say.
constexpr char kNetworkLock[] = "network-lock nftables\n";
constexpr char kNoNetworkLock[] = "network-lock skip\n";
// Connections that nobody has accepted yet are left out; without it CRIU refuses a busy server.
constexpr char kSkipInFlight[] = "skip-in-flight\n";

// Only the cgroup v2 hierarchy, whose name is empty. A machine may have v1 hierarchies beside it, each of
// which would be read in the dump and moved into in the restore; a container's place in them is its
// runtime's.
constexpr char kCgroup2Alone[] = "cgroup-dump-controller \"\"\n";

// runc began to send "skip in flight: no" in each request with 1.3, and to have a flag for it.
constexpr Version kHasSkipInFlightFlag = {1, 3, 0};

std::string Variable(absl::string_view name, absl::string_view value) {
  return absl::StrCat(name, "=", value);
}

// runc needs little of its environment, and CRIU's children less: the caller's own is not handed on.
std::vector<std::string> BaseEnvironment(const Programs& programs, const Plan& plan) {
  return {Variable("PATH", absl::StrCat(programs.criu_folder,
                                        ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
          "HOME=/nonexistent",  // CRIU reads $HOME/.criu/default.conf
          Variable(kConfigFileVariable, plan.config_file), Variable(kMessagesVariable, plan.messages),
          Variable(kLogLevelVariable, "2")};
}

Plan Begin(absl::string_view work, absl::string_view log) {
  Plan plan;
  plan.config_file = absl::StrCat(work, "/criu.conf");
  plan.log_file = absl::StrCat(work, "/", log);
  plan.messages = absl::StrCat(work, "/criu-messages.log");
  return plan;
}

}  // namespace

std::string Version::ToString() const { return absl::StrFormat("%d.%d.%d", major, minor, patch); }

Version ParseVersion(absl::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const bool starts_number = std::isdigit(static_cast<unsigned char>(text[i])) != 0 &&
                               (i == 0 || std::isalnum(static_cast<unsigned char>(text[i - 1])) == 0);
    if (!starts_number) continue;
    int parts[3] = {0, 0, 0};
    int count = 0;
    size_t at = i;
    while (count < 3) {
      size_t digits = 0;
      while (at + digits < text.size() && digits < 6 &&
             std::isdigit(static_cast<unsigned char>(text[at + digits])) != 0) {
        parts[count] = parts[count] * 10 + (text[at + digits] - '0');
        ++digits;
      }
      if (digits == 0) break;
      at += digits;
      ++count;
      if (at >= text.size() || text[at] != '.') break;
      ++at;
    }
    if (count >= 2) return {parts[0], parts[1], parts[2]};
  }
  return {};
}

std::string LazyPagesSocket(absl::string_view work) { return absl::StrCat(work, "/lazy-pages.socket"); }

Plan PlanDump(const Programs& programs, const agent_api::GuardContainer& container,
              const DumpOptions& options) {
  Plan plan = Begin(container.work, "dump.log");
  plan.gate = options.gate;
  plan.done = absl::StrCat(container.work, "/done");
  plan.abort_file = absl::StrCat(container.work, "/abort");
  const bool has_flag = programs.runtime_version >= kHasSkipInFlightFlag;
  plan.config = absl::StrCat(options.fenced ? kNoNetworkLock : kNetworkLock, kGhostLimit, kCgroup2Alone,
                             has_flag ? "" : kSkipInFlight);
  plan.argv = {programs.runtime, "--root",         container.runc_root, "checkpoint",   "--leave-running",
               "--image-path",   container.images, "--work-path",       container.work, "--tcp-established",
               "--file-locks"};
  if (has_flag) plan.argv.push_back("--tcp-skip-in-flight");
  plan.argv.push_back(container.id);
  plan.env = BaseEnvironment(programs, plan);
  plan.env.push_back(Variable(kAbortVariable, plan.abort_file));
  plan.env.push_back(Variable(kDoneVariable, plan.done));
  plan.env.push_back(Variable(kNoConntrackVariable, "1"));
  if (!container.hidden.empty()) plan.env.push_back(Variable(kHiddenPagesVariable, container.hidden));
  if (!container.smaps.empty()) plan.env.push_back(Variable(kSmapsVariable, container.smaps));
  if (!plan.gate.empty()) plan.env.push_back(Variable(kGateVariable, plan.gate));
  return plan;
}

Plan PlanRestore(const Programs& programs, const RestoreRequest& request) {
  Plan plan = Begin(request.work, "restore.log");
  // Without cgroup-root CRIU puts the tasks back into the cgroup they were dumped in. The controller before
  // the colon is empty: cgroup v2 alone, for a machine may have v1 hierarchies beside it.
  plan.config = absl::StrCat("tcp-close\n", "cgroup-root :", request.cgroup, "\n");
  plan.argv = {programs.runtime};
  plan.argv.insert(plan.argv.end(), request.global_arguments.begin(), request.global_arguments.end());
  for (const std::string& argument :
       {std::string("restore"), std::string("--detach"), std::string("--bundle"), request.bundle,
        std::string("--image-path"), request.images, std::string("--work-path"), request.work,
        std::string("--pid-file"), request.pid_file, std::string("--file-locks")}) {
    plan.argv.push_back(argument);
  }
  if (request.lazy_pages) plan.argv.push_back("--lazy-pages");
  plan.argv.push_back(request.id);
  plan.env = BaseEnvironment(programs, plan);
  const absl::string_view root = absl::StripSuffix(request.cgroup_root, "/");
  plan.env.push_back(Variable(kHoldCgroupVariable, absl::StrCat(root, request.cgroup)));
  plan.env.push_back(Variable(kOutsideCgroupVariable, absl::StrCat(root, request.own_cgroup)));
  if (!request.gate.empty()) plan.env.push_back(Variable(kGateVariable, request.gate));
  if (!request.shared_memory.empty())
    plan.env.push_back(Variable(kSharedMemoryVariable, request.shared_memory));
  return plan;
}

void WarmUp(const Programs& programs) {
  if (FileExists("/run/criu.kdat")) return;
  RunOptions options;
  options.limit = absl::Seconds(10);
  Run({absl::StrCat(programs.criu_folder, "/criu"), "--no-default-config", "check"}, options).IgnoreError();
}

absl::Status Prepare(const Plan& plan) {
  // CRIU reads them at once, on this machine: no need to wait for the disk.
  const auto write = [](const std::string& path, absl::string_view content) -> absl::Status {
    GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
    return WriteAll(file.get(), content, path);
  };
  GODWIT_RETURN_IF_ERROR(write(plan.config_file, plan.config));
  if (!plan.abort_file.empty()) GODWIT_RETURN_IF_ERROR(write(plan.abort_file, absl::string_view("\0", 1)));
  for (const std::string& fifo : {plan.gate, plan.done}) {
    if (!fifo.empty()) GODWIT_RETURN_IF_ERROR(MakeGate(fifo));
  }
  return absl::OkStatus();
}

}  // namespace godwit::criu
