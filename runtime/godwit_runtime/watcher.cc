// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/watcher.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/permits/cgroup_end.h"
#include "agent/runtime/mounts.h"
#include "agent/runtime/processes.h"
#include "base/clock.h"
#include "base/process.h"
#include "base/status.h"

namespace godwit::godwit_runtime {
namespace {

constexpr absl::Duration kKillLimit = absl::Seconds(10);
constexpr absl::Duration kDestroyLimit = absl::Seconds(30);  // kKillLimit twice, and `runc delete`
constexpr absl::Duration kReleaseLimit = absl::Seconds(5);

// What the watcher and godwit-runtime say to each other, one byte each.
constexpr char kSucceeded = '+', kFailed = '-';        // the command has ended
constexpr char kDestroyed = 'd', kNotDestroyed = 'n';  // last words
constexpr char kDestroy = 'D', kRelease = 'R';         // orders

void Send(int socket, char word) {
  while (send(socket, &word, 1, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

// 0: the other end has closed.
char Receive(int socket) {
  char word = 0;
  ssize_t size = 0;
  do {
    size = recv(socket, &word, 1, 0);
  } while (size < 0 && errno == EINTR);
  return size == 1 ? word : '\0';
}

// Of all its threads.
std::vector<pid_t> ChildrenOf(pid_t pid) {
  std::vector<pid_t> children;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"), error)) {
    const absl::StatusOr<std::string> text = ReadFile(task.path().string() + "/children");
    if (!text.ok()) continue;
    for (absl::string_view word : absl::StrSplit(*text, ' ', absl::SkipWhitespace())) {
      if (int child = 0; absl::SimpleAtoi(word, &child) && child > 1) children.push_back(child);
    }
  }
  return children;
}

// Kills and reaps until this process has no child: what a killed one leaves behind comes to this subreaper.
bool KillAllBelow(absl::Time deadline) {
  while (SteadyNow() < deadline) {
    for (pid_t child : ChildrenOf(getpid())) kill(child, SIGKILL);
    pid_t reaped = 0;
    do {
      reaped = waitpid(-1, nullptr, WNOHANG | __WALL);
    } while (reaped > 0);
    if (reaped < 0 && errno == ECHILD) return true;
    poll(nullptr, 0, 1);  // a killed process needs a moment
  }
  return false;
}

// Whether nothing is mounted below `folder` (any more). Mounts are detached, the last one first; several may
// be stacked.
bool DetachMountsBelow(const std::string& folder) {
  std::error_code error;
  const std::string prefix = absl::StrCat(std::filesystem::canonical(folder, error).string(), "/");
  if (error) return !FileExists(folder);
  for (int round = 0; round < 8; ++round) {
    const absl::StatusOr<std::vector<runtime::Mount>> mounts = runtime::ReadMounts("/proc", getpid());
    if (!mounts.ok()) return false;
    bool found = false;
    for (auto mount = mounts->rbegin(); mount != mounts->rend(); ++mount) {
      if (!absl::StartsWith(mount->point, prefix)) continue;
      found = true;
      umount2(mount->point.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
    }
    if (!found) return true;
  }
  return false;
}

bool DestroyAll(const Watcher::Task& task) {
  const absl::Time deadline = SteadyNow() + kKillLimit;
  // First the tasks, then their tracer; the cgroup's emptiness is final only when nobody makes tasks any
  // more.
  (void)permits::KillCgroup(task.cgroup_root, task.cgroup, absl::ZeroDuration());
  const bool none_below = KillAllBelow(deadline);
  const absl::Status cgroup_empty = permits::KillCgroup(task.cgroup_root, task.cgroup, kKillLimit);
  const bool unmounted = std::all_of(task.mount_folders.begin(), task.mount_folders.end(), DetachMountsBelow);
  if (unmounted) (void)Run(task.delete_argv, {.limit = absl::Seconds(5)});
  rmdir(absl::StrCat(task.cgroup_root, task.cgroup)
            .c_str());  // where runc did not come far enough to know of it
  return none_below && cgroup_empty.ok() && unmounted;
}

[[noreturn]] void Watch(const Watcher::Task& task, int socket) {
  setsid();
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  SpawnOptions options;
  options.env = task.env;
  options.stdin_fd = 0;
  options.stdout_fd = 1;
  options.stderr_fd = 2;
  options.die_with_parent = true;
  absl::StatusOr<Child> command = Child::Spawn(task.argv, options);
  bool runs = command.ok();
  if (!runs) Send(socket, kFailed);
  char order = '\0';
  while (true) {
    pollfd sources[] = {{socket, POLLIN, 0}, {runs ? command->pidfd() : -1, POLLIN, 0}};
    if (poll(sources, 2, -1) < 0) continue;
    if (sources[1].revents != 0) {
      absl::StatusOr<ExitStatus> end = command->Wait(kKillLimit);
      runs = false;
      Send(socket, end.ok() && end->ok() ? kSucceeded : kFailed);
    }
    if (sources[0].revents != 0) {
      order = Receive(socket);
      break;
    }
  }
  if (order == kRelease && !runs) _exit(0);
  if (runs) command->Release();  // KillAllBelow reaps it
  const bool destroyed = DestroyAll(task);
  Send(socket, destroyed ? kDestroyed : kNotDestroyed);
  _exit(destroyed ? 0 : 1);
}

}  // namespace

absl::StatusOr<Watcher> Watcher::Start(const Task& task) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoStatus("cannot make a socket pair");
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus("cannot start the watcher of a restore");
  if (pid == 0) {
    ours.Reset();  // else the watcher would not see that this process has ended
    Watch(task, theirs.get());
  }
  return Watcher(pid, std::move(ours));
}

Watcher::~Watcher() {
  if (socket_.ok()) (void)Destroy();
}

bool Watcher::LeavesADeadChild() const {
  for (const pid_t command : ChildrenOf(pid_)) {
    for (const pid_t child : ChildrenOf(command)) {
      const absl::StatusOr<runtime::Process> process = runtime::ReadProcess("/proc", child);
      if (process.ok() && process->state == 'Z') return true;
    }
  }
  return false;
}

absl::Status Watcher::Ended() {
  switch (Receive(socket_.get())) {
    case kSucceeded: return absl::OkStatus();
    case kFailed: return absl::InternalError("the restore failed");
    default: return absl::InternalError("the watcher of the restore was killed");
  }
}

absl::Status Watcher::Finish(char word, absl::Duration limit) {
  const UniqueFd socket = std::move(socket_);
  Send(socket.get(), word);
  const absl::Time deadline = SteadyNow() + limit;
  char answer = '\0';
  while (answer != kDestroyed && answer != kNotDestroyed) {
    pollfd source = {socket.get(), POLLIN, 0};
    const int64_t left = absl::ToInt64Milliseconds(deadline - SteadyNow());
    if (left <= 0) {
      return absl::DeadlineExceededError(
          absl::StrCat("the watcher of the restore (process ", pid_, ") does not end"));
    }
    if (poll(&source, 1, static_cast<int>(left)) <= 0) continue;
    answer = Receive(socket.get());
    if (answer == '\0') break;
  }
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && (answer == kDestroyed) == (word == kDestroy)) {
    return absl::OkStatus();
  }
  return absl::InternalError(word == kDestroy ? "something of the restored container could not be killed"
                                              : "the restored container could not be handed over");
}

absl::Status Watcher::Destroy() { return Finish(kDestroy, kDestroyLimit); }

absl::Status Watcher::Release() { return Finish(kRelease, kReleaseLimit); }

}  // namespace godwit::godwit_runtime
