// SPDX-License-Identifier: Apache-2.0
#include "agent/install/commands.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/api/host_protocol.h"
#include "agent/install/install.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

ABSL_FLAG(
    std::string, containerd_restart, "auto",
    "install, uninstall: whether containerd is restarted when it must know the runtime handler: auto, never");
ABSL_FLAG(std::string, containerd_restart_command, "systemctl restart containerd",
          "install, uninstall: what restarts containerd, run by /bin/sh on the host");
ABSL_FLAG(std::string, containerd_config, "/etc/containerd/config.toml",
          "install, uninstall: containerd's main configuration on the host");
ABSL_FLAG(
    std::string, containerd_drop_in_folder, "/etc/containerd/conf.d",
    "install, uninstall: where the runtime handler is put; the main configuration must import its *.toml");
ABSL_FLAG(std::string, host_tree, "/usr/share/godwit/host", "install: what is put on the host (bin/, criu/)");

namespace godwit::install {
namespace {

constexpr char kTerminationLog[] = "/dev/termination-log";

// Moves this process, whose source tree and termination log it keeps open, to where the host's first process
// is. The pod shares the host's process ids.
absl::Status EnterHost() {
  std::vector<UniqueFd> spaces;
  for (const char* kind :
       {"ipc", "uts", "net", "cgroup", "mnt"}) {  // mnt last: /proc is still the container's
    GODWIT_ASSIGN_OR_RETURN(UniqueFd space, OpenFile(absl::StrCat("/proc/1/ns/", kind), O_RDONLY));
    spaces.push_back(std::move(space));
  }
  for (const UniqueFd& space : spaces) {
    if (setns(space.get(), 0) != 0) {
      return ErrnoStatus("cannot enter the host's namespaces (the pod needs hostPID and must be privileged)");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Options> ReadOptions() {
  const std::string restart = absl::GetFlag(FLAGS_containerd_restart);
  if (restart != "auto" && restart != "never") {
    return absl::InvalidArgumentError(
        absl::StrCat("--containerd_restart is \"", restart, "\": auto or never"));
  }
  return Options{.folder = agent_api::kInstallFolder,
                 .state = agent_api::kStateFolder,
                 .run = "/run/godwit",
                 .guards = "/sys/fs/cgroup/godwit-guard",
                 .pagers = absl::StrCat("/sys/fs/cgroup/", agent_api::kPagersFamily),
                 .drop_in_folder = absl::GetFlag(FLAGS_containerd_drop_in_folder),
                 .config = absl::GetFlag(FLAGS_containerd_config),
                 .may_restart = restart == "auto"};
}

using Work = absl::StatusOr<Report> (*)(const Options&, Containerd&, Clock&);

absl::StatusOr<Report> DoOnHost(Work work, bool needs_tree) {
  GODWIT_ASSIGN_OR_RETURN(Options options, ReadOptions());
  UniqueFd tree;
  if (needs_tree) {
    GODWIT_ASSIGN_OR_RETURN(tree, OpenFile(absl::GetFlag(FLAGS_host_tree), O_PATH | O_DIRECTORY));
    options.source = absl::StrCat("/proc/self/fd/", tree.get(), "/.");
  }
  GODWIT_RETURN_IF_ERROR(EnterHost());
  const std::unique_ptr<Containerd> containerd =
      HostContainerd(options.config, absl::GetFlag(FLAGS_containerd_restart_command));
  return work(options, *containerd, Clock::Real());
}

int Run(int argc, char** argv, Work work, bool needs_tree) {
  absl::ParseCommandLine(argc, argv);
  // Before the container's /dev is left.
  const absl::StatusOr<UniqueFd> termination = OpenFile(kTerminationLog, O_WRONLY);
  const absl::StatusOr<Report> report = DoOnHost(work, needs_tree);
  std::string text;
  if (report.ok()) {
    for (const std::string& line : report->lines) LOG(INFO) << Log("installation").With("what", line);
    text = absl::StrJoin(report->lines, "\n");
  } else {
    LOG(ERROR) << Log("installation failed").With(report.status());
    text = std::string(report.status().message());
  }
  if (termination.ok()) (void)WriteAll(termination->get(), text, kTerminationLog);
  return report.ok() ? 0 : 1;
}

}  // namespace

int RunInstall(int argc, char** argv) { return Run(argc, argv, Install, true); }

int RunUninstall(int argc, char** argv) { return Run(argc, argv, Uninstall, false); }

int RunStay() {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  int signal = 0;
  sigwait(&ends, &signal);
  return 0;
}

}  // namespace godwit::install
