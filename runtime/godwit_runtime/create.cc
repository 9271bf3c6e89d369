// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/create.h"

#include <linux/keyctl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "agent/criu/criu_log.h"
#include "agent/criu/plan.h"
#include "agent/permits/cgroup_end.h"
#include "agent/permits/source_hold.h"
#include "agent/runtime/cgroup.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "base/status.h"
#include "runtime/godwit_runtime/agent_link.h"
#include "runtime/godwit_runtime/course.h"
#include "runtime/godwit_runtime/node_files.h"
#include "runtime/godwit_runtime/sandbox_hostname.h"
#include "runtime/godwit_runtime/watcher.h"

namespace godwit::godwit_runtime {

using agent_api::RuntimeAction;
using agent_api::RuntimeConfig;
using agent_api::RuntimeOp;
using agent_api::RuntimeReply;
using agent_api::RuntimeRequest;

namespace {

constexpr absl::Duration kCriuLook = absl::Milliseconds(500);
constexpr int kLooksAtDeadCriu = 4;  // runc takes note of one that has ended well at once
constexpr absl::Duration kPagerStart = absl::Seconds(10);
constexpr absl::Duration kAgentRestart =
    absl::Seconds(15);  // how long an agent that is being replaced is waited for

std::string MarkOf(const CommandLine& line) {
  return absl::StrCat(line.root, "/", line.id, "/godwit-restored");
}

Course CourseNow(const Bundle& bundle, const Places& places) {
  if (!bundle.is_container) return {.way = Way::kOrdinary};
  return ChooseCourse(bundle, permits::PermitStore(places.permits).ListSandbox(bundle.sandbox_uid),
                      permits::WhyHeld(places.holds, bundle.sandbox_uid));
}

// As runc does it for a container that it creates, not for one that it restores: what this process starts has
// the keyring, and so has what CRIU restores. Without it all of root's processes on the node would share one.
absl::Status JoinOwnKeyring(const std::string& id) {
  // Also to be searched by name: a later `exec` joins it so (linux/key.h).
  constexpr unsigned kPermissions = 0x3f000000u /* KEY_POS_ALL */ | 0x001b0000u /* KEY_USR_VIEW to LINK */;
  const long keyring = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, absl::StrCat("_ses.", id).c_str());
  if (keyring < 0 && errno == ENOSYS) return absl::OkStatus();  // a kernel without keys
  if (keyring < 0 || syscall(SYS_keyctl, KEYCTL_SETPERM, keyring, kPermissions) != 0)
    return ErrnoStatus("cannot make a session keyring of the container's own");
  return absl::OkStatus();
}

// What a restore needs and can be had before the source is frozen.
struct Preparation {
  criu::Programs programs;
  std::string own_cgroup;
  SandboxHostname hostname;
};

absl::StatusOr<Preparation> Prepare(const CommandLine& line, const Bundle& bundle,
                                    const RuntimeConfig& config, const Places& places) {
  if (bundle.terminal || !line.console_socket.empty()) {
    return absl::UnimplementedError("the container has a terminal, which cannot be restored");
  }
  // Without the launcher and its preload library the tasks would run as soon as CRIU has restored them.
  const std::string launcher = absl::StrCat(places.criu_folder, "/criu");
  if (access(launcher.c_str(), X_OK) != 0)
    return ErrnoStatus(absl::StrCat("Godwit's CRIU is not at ", launcher));
  GODWIT_ASSIGN_OR_RETURN(const std::string version,
                          RunOrError({config.runtime, "--version"}, {.limit = absl::Seconds(10)}));
  Preparation preparation;
  preparation.programs = {config.runtime, criu::ParseVersion(version), places.criu_folder};
  GODWIT_ASSIGN_OR_RETURN(preparation.own_cgroup, runtime::CgroupOfProcess("/proc", getpid()));
  GODWIT_ASSIGN_OR_RETURN(preparation.hostname, SandboxHostname::Remember(bundle.uts_path));
  return preparation;
}

// One conversation with the agent.
class Restore {
 public:
  Restore(const CommandLine& line, const Bundle& bundle, const RuntimeConfig& config, const Places& places,
          absl::Time deadline, const ErrorLog& log, AgentLink agent)
      : line_(line),
        bundle_(bundle),
        config_(config),
        places_(places),
        deadline_(deadline),
        log_(log),
        agent_(std::move(agent)) {}

  absl::StatusOr<Outcome> Talk(const absl::StatusOr<Preparation>& preparation);

 private:
  absl::Status Run(const Preparation& preparation, const RuntimeReply& order);
  absl::Status StartPager(const std::string& work);
  absl::Status WaitForRestore(Watcher& watcher, const criu::Plan& plan);
  absl::StatusOr<int64_t> CheckRestored(const Watcher& watcher) const;
  // OK for kDone only.
  absl::Status HearDone();
  absl::Status Late() const;

  const CommandLine& line_;
  const Bundle& bundle_;
  const RuntimeConfig& config_;
  const Places& places_;
  const absl::Time deadline_;
  const ErrorLog& log_;
  AgentLink agent_;
  UniqueFd
      pager_leash_;  // closed, by the end of this process at the latest: the pager need not wait for CRIU
};

absl::Status Restore::Late() const {
  return absl::DeadlineExceededError("nothing to restore came in the time that a container's start may take");
}

absl::StatusOr<Outcome> Restore::Talk(const absl::StatusOr<Preparation>& preparation) {
  GODWIT_RETURN_IF_ERROR(agent_.Send({.op = RuntimeOp::kCreate,
                                      .sandbox_uid = bundle_.sandbox_uid,
                                      .container = bundle_.container,
                                      .container_id = line_.id,
                                      .bundle = line_.bundle,
                                      .cgroup = bundle_.cgroup}));
  GODWIT_FAILPOINT("runtime.create-asked", bundle_.migration);
  absl::Status status = preparation.status();
  if (status.ok()) {
    absl::StatusOr<RuntimeReply> reply = agent_.Receive(deadline_);
    if (reply.ok() && reply->action == RuntimeAction::kRun) return Outcome::kOrdinary;
    if (reply.ok() && reply->action == RuntimeAction::kRefuse) return absl::AbortedError(reply->message);
    if (reply.ok() && reply->action == RuntimeAction::kRestore) {
      status = Run(*preparation, *reply);
    } else if (reply.ok()) {
      status = absl::InternalError("godwit-agent broke the protocol");
    } else {
      status = absl::IsDeadlineExceeded(reply.status()) ? Late() : reply.status();
    }
  }
  if (status.ok()) return Outcome::kRestored;
  // The agent may be gone, or have said so itself.
  if (agent_.Send({.op = RuntimeOp::kFailed, .message = std::string(status.message())}).ok()) {
    (void)agent_.Receive(SteadyNow() + absl::Seconds(2));
  }
  return status;
}

absl::Status Restore::Run(const Preparation& preparation, const RuntimeReply& order) {
  const criu::RestoreRequest request = {.global_arguments = line_.global,
                                        .id = line_.id,
                                        .bundle = line_.bundle,
                                        .pid_file = line_.pid_file,
                                        .images = order.images,
                                        .work = order.work,
                                        .cgroup = bundle_.cgroup,
                                        .cgroup_root = config_.cgroup_root,
                                        .own_cgroup = preparation.own_cgroup,
                                        .gate = order.gate,
                                        .lazy_pages = order.lazy_pages,
                                        .shared_memory = order.shared_memory};
  GODWIT_FAILPOINT("runtime.ordered", bundle_.migration);
  const criu::Plan plan = criu::PlanRestore(preparation.programs, request);
  GODWIT_RETURN_IF_ERROR(criu::Prepare(plan));
  if (order.lazy_pages) GODWIT_RETURN_IF_ERROR(StartPager(order.work));
  Watcher::Task task = {
      .argv = plan.argv, .env = plan.env, .cgroup_root = config_.cgroup_root, .cgroup = bundle_.cgroup};
  // Without --log: the shim may have removed the bundle, and the log's folder with it, before this is run.
  task.delete_argv = {config_.runtime, "--root", line_.root};
  if (line_.systemd_cgroup) task.delete_argv.push_back("--systemd-cgroup");
  task.delete_argv.insert(task.delete_argv.end(), {"delete", "--force", line_.id});
  task.mount_folders = {absl::StrCat(line_.root, "/", line_.id),
                        absl::StartsWith(bundle_.rootfs, "/")
                            ? bundle_.rootfs
                            : absl::StrCat(line_.bundle, "/", bundle_.rootfs),
                        order.work};  // CRIU mounts the cgroup trees below its working folder
  GODWIT_RETURN_IF_ERROR(JoinOwnKeyring(line_.id));
  GODWIT_ASSIGN_OR_RETURN(Watcher watcher, Watcher::Start(task));

  const auto restore = [&]() -> absl::Status {
    GODWIT_FAILPOINT("runtime.restore-begun", bundle_.migration);
    GODWIT_RETURN_IF_ERROR(WaitForRestore(watcher, plan));
    GODWIT_FAILPOINT("runtime.restored", bundle_.migration);
    GODWIT_RETURN_IF_ERROR(preparation.hostname.PutBack());
    GODWIT_ASSIGN_OR_RETURN(const int64_t pid, CheckRestored(watcher));
    GODWIT_RETURN_IF_ERROR(KeepNodesNull(static_cast<pid_t>(pid)));
    GODWIT_RETURN_IF_ERROR(agent_.Send({.op = RuntimeOp::kRestored, .pid = pid}));
    GODWIT_RETURN_IF_ERROR(HearDone());
    GODWIT_FAILPOINT("runtime.confirmed", bundle_.migration);
    return WriteFileDurably(MarkOf(line_), bundle_.cgroup, 0600);
  };
  absl::Status status = restore();
  if (status.ok()) return watcher.Release();
  if (absl::Status destroyed = watcher.Destroy(); !destroyed.ok()) {
    return Annotate(status, destroyed.message());
  }
  return status;
}

// It is nobody's child but the shim's, and ends by itself: before CRIU has come to it, when this object goes;
// then, when the container's cgroup is empty.
absl::Status Restore::StartPager(const std::string& work) {
  const agent_api::PagerSpec spec = {.migration_uid = bundle_.migration,
                                     .sandbox_uid = bundle_.sandbox_uid,
                                     .container = bundle_.container,
                                     .container_id = line_.id,
                                     .socket = criu::LazyPagesSocket(work),
                                     .pages_socket = places_.pages_socket,
                                     .cgroup = absl::StrCat(config_.cgroup_root, bundle_.cgroup),
                                     .status = absl::StrCat(places_.pagers, "/", line_.id, ".json"),
                                     .log = absl::StrCat(work, "/pager.log")};
  const std::string file = absl::StrCat(work, "/pager.json");
  GODWIT_RETURN_IF_ERROR(WriteFileDurably(file, json::Encode(spec)));
  RunOptions options;
  options.limit = std::min(kPagerStart, deadline_ - SteadyNow());
  options.spawn.new_session = true;
  UniqueFd leash;
  GODWIT_RETURN_IF_ERROR(MakePipe(leash, pager_leash_));
  options.spawn.stdin_fd = leash.get();
  return Annotate(RunOrError({places_.pager, "--spec", file}, options).status(),
                  "cannot start the pager of the container's memory");
}

// Until runc has ended, while the agent may still change its mind.
absl::Status Restore::WaitForRestore(Watcher& watcher, const criu::Plan& plan) {
  int dead_criu = 0;  // looks one after another
  while (true) {
    const absl::Duration left = deadline_ - SteadyNow();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("the restore took too long");
    pollfd sources[] = {{watcher.fd(), POLLIN, 0}, {agent_.fd(), POLLIN, 0}};
    if (poll(sources, 2, static_cast<int>(absl::ToInt64Milliseconds(std::min(left, kCriuLook)) + 1)) <= 0) {
      dead_criu = watcher.LeavesADeadChild() ? dead_criu + 1 : 0;
      if (dead_criu == kLooksAtDeadCriu)
        return absl::InternalError(
            absl::StrCat("cannot restore the container: CRIU was killed: ", criu::PreloadSays(plan.messages),
                         criu::ExplainFailure(plan.log_file)));
      continue;
    }
    if (sources[1].revents != 0) {
      GODWIT_ASSIGN_OR_RETURN(const RuntimeReply reply, agent_.Receive(deadline_));
      return absl::AbortedError(reply.message.empty() ? "godwit-agent took its word back" : reply.message);
    }
    if (sources[0].revents == 0) continue;
    if (absl::Status ended = watcher.Ended(); !ended.ok()) {
      return absl::InternalError(absl::StrCat(
          "cannot restore the container: ", ended.message(), ": ", criu::PreloadSays(plan.messages),
          criu::ExplainFailure(plan.log_file), "; ", config_.runtime, ": ", log_.LastError()));
    }
    return absl::OkStatus();
  }
}

// The restored init: it must stand still and must come to the shim when the watcher has ended.
absl::StatusOr<int64_t> Restore::CheckRestored(const Watcher& watcher) const {
  GODWIT_RETURN_IF_ERROR(permits::CheckStandsFrozen(config_.cgroup_root, bundle_.cgroup));
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(line_.pid_file, 64));
  int64_t pid = 0;
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &pid) || pid <= 1) {
    return absl::InternalError(absl::StrCat("pid file ", line_.pid_file, " holds no process id"));
  }
  GODWIT_ASSIGN_OR_RETURN(const std::string status, ReadFile(absl::StrCat("/proc/", pid, "/status")));
  if (!absl::StrContains(status, absl::StrCat("\nPPid:\t", watcher.pid(), "\n"))) {
    return absl::InternalError(
        absl::StrCat("the restored process ", pid, " did not stay below the container runtime's shim"));
  }
  return pid;
}

absl::Status Restore::HearDone() {
  GODWIT_ASSIGN_OR_RETURN(const RuntimeReply reply, agent_.Receive(deadline_));
  if (reply.action == RuntimeAction::kDone) return absl::OkStatus();
  return absl::AbortedError(reply.message.empty() ? "godwit-agent refused the restored container"
                                                  : reply.message);
}

}  // namespace

absl::StatusOr<Outcome> Create(const CommandLine& line, const RuntimeConfig& config, const Places& places,
                               absl::Time began, const ErrorLog& log) {
  GODWIT_ASSIGN_OR_RETURN(const Bundle bundle, ReadBundle(line.bundle));
  const Course course = CourseNow(bundle, places);
  if (course.way == Way::kOrdinary) return Outcome::kOrdinary;
  if (course.way == Way::kFail) return absl::AbortedError(course.message);

  const absl::Time deadline = began + course.create_limit;
  const absl::StatusOr<Preparation> preparation = Prepare(line, bundle, config, places);
  absl::StatusOr<AgentLink> agent =
      AgentLink::Connect(places.agent_socket, std::min(deadline, began + kAgentRestart),
                         [&] { return CourseNow(bundle, places).way == Way::kAsk; });
  if (!agent.ok()) {
    const Course since = CourseNow(bundle, places);
    if (since.way == Way::kOrdinary) return Outcome::kOrdinary;
    return since.way == Way::kFail ? absl::AbortedError(since.message) : agent.status();
  }
  log.Info(absl::StrCat("waiting for the state to restore migration=", bundle.migration,
                        " container=", bundle.container));
  Restore restore(line, bundle, config, places, deadline, log, *std::move(agent));
  return restore.Talk(preparation);
}

bool IsRestored(const CommandLine& line) { return FileExists(MarkOf(line)); }

absl::Status KillIfStandingStill(const CommandLine& line, const RuntimeConfig& config) {
  if (line.id.empty() || (line.signal != "9" && line.signal != "KILL" && line.signal != "SIGKILL"))
    return absl::OkStatus();
  const absl::StatusOr<std::string> cgroup = ReadFile(MarkOf(line), 4096);
  if (!cgroup.ok() || cgroup->empty() || !permits::CheckStandsFrozen(config.cgroup_root, *cgroup).ok()) {
    return absl::OkStatus();
  }
  return permits::KillCgroup(config.cgroup_root, *cgroup, absl::Seconds(5));
}

}  // namespace godwit::godwit_runtime
