// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "base/status.h"

namespace godwit::pager {
namespace {

// A copy of one thread of a process whose other threads may have held any lock: system calls only from here
// on, and no memory but the stack.
[[noreturn]] void Keep(int pager, int last_descriptor, char* const arguments[]) {
  syscall(SYS_prctl, PR_SET_NAME, "godwit-keeper", 0, 0, 0);
  pollfd end = {pager, POLLIN, 0};
  while (syscall(SYS_ppoll, &end, 1, nullptr, nullptr, 0) < 1) {
  }
  // All of them stay through execve; the new pager closes those it does not know.
  for (int fd = 3; fd <= last_descriptor; ++fd) syscall(SYS_fcntl, fd, F_SETFD, 0);
  char* const environment[] = {nullptr};
  while (true) {
    syscall(SYS_execve, "/proc/self/exe", arguments, environment);
    // Out of memory, perhaps. To end would be to lose the tasks' memory.
    const timespec pause = {1, 0};
    syscall(SYS_nanosleep, &pause, nullptr);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Keeper>> Keeper::Start(int ledger) {
  UniqueFd pager(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  rlimit limit;
  if (!pager.ok() || getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoStatus("cannot prepare a keeper");
  std::string name = "godwit-pager", option = "--resume", number = std::to_string(ledger);
  char* const arguments[] = {name.data(), option.data(), number.data(), nullptr};
  const int last_descriptor = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 1 << 20)) - 1;
  int pidfd = -1;
  // Not fork(2): it gives the child a table of its own, in which a descriptor that comes later is missing.
  const long pid = syscall(SYS_clone, CLONE_FILES | CLONE_PIDFD | SIGCHLD, nullptr, &pidfd, nullptr, nullptr);
  if (pid < 0) return ErrnoStatus("cannot start a keeper");
  if (pid == 0) Keep(pager.get(), last_descriptor, arguments);
  return std::unique_ptr<Keeper>(new Keeper(static_cast<pid_t>(pid), UniqueFd(pidfd), std::move(pager)));
}

Keeper::~Keeper() {
  syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
  siginfo_t end;
  while (waitid(P_PID, static_cast<id_t>(pid_), &end, WEXITED) != 0 && errno == EINTR) {
  }
}

}  // namespace godwit::pager
