// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/hold.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime/preload/shared.h"

namespace godwit::preload {
namespace {

constexpr long kFreezeLimitMs =
    2000;  // a frozen task needs microseconds; one in an uninterruptible sleep may need longer

// At a gate. Longer than a `create` may take; a process that waits for ever would be one that is left behind.
constexpr long kGateLimitMs = 10 * 60 * 1000;

long NowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// errno, or 0.
int WriteControl(const char* cgroup, const char* file, const char* value) {
  char path[kMaxPath + 32];
  snprintf(path, sizeof(path), "%s/%s", cgroup, file);
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = syscall(SYS_write, fd, value, strlen(value)) < 0 ? errno : 0;
  close(fd);
  return error;
}

// cgroup.events changes are announced by POLLPRI (kernel: Documentation/admin-guide/cgroup-v2.rst). errno, or
// 0.
int WaitFrozen(const char* cgroup) {
  char path[kMaxPath + 32];
  snprintf(path, sizeof(path), "%s/cgroup.events", cgroup);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const long deadline = NowMs() + kFreezeLimitMs;
  int error = ETIMEDOUT;
  while (true) {
    char events[256];
    const ssize_t size = pread(fd, events, sizeof(events) - 1, 0);
    if (size < 0) {
      error = errno;
      break;
    }
    events[size] = '\0';
    if (strstr(events, "frozen 1") != nullptr) {
      error = 0;
      break;
    }
    const long left = deadline - NowMs();
    if (left <= 0) break;
    pollfd change{fd, POLLPRI, 0};
    poll(&change, 1, static_cast<int>(left));
  }
  close(fd);
  return error;
}

// For kernels before 5.14, which have no cgroup.kill. Not this process, which may be in the cgroup still.
// False: none was killed.
bool KillOneByOne(const char* cgroup) {
  char path[kMaxPath + 32];
  snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
  FILE* file = fopen(path, "re");
  if (file == nullptr) return false;
  int pid = 0;
  while (fscanf(file, "%d", &pid) == 1) {
    if (pid > 0 && pid != getpid()) kill(pid, SIGKILL);
  }
  fclose(file);
  return true;
}

// Waits for the byte; the other end of the FIFO may not even be there yet.
bool AwaitWord(int gate, const Settings& settings) {
  const long deadline = NowMs() + kGateLimitMs;
  while (true) {
    const long left = deadline - NowMs();
    pollfd sources[] = {{gate, POLLIN, 0}, {settings.socket, POLLRDHUP, 0}};
    if (left <= 0 || poll(sources, 2, static_cast<int>(left)) == 0) {
      Say("nobody came to the gate: the request is refused", settings.gate, ETIMEDOUT);
      return false;
    }
    if (sources[0].revents != 0) {
      char word = 0;
      const ssize_t size = read(gate, &word, 1);
      if (size == 1) return true;
      if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      Say("the gate was closed without a word: the request is refused", settings.gate, size < 0 ? errno : 0);
      return false;
    }
    if (sources[1].revents != 0) {
      Say("runc ended while its request waited at the gate", settings.gate, 0);
      return false;
    }
  }
}

}  // namespace

bool LeaveContainer(const Settings& settings) {
  if (settings.outside_cgroup[0] == '\0') return true;
  const int error = WriteControl(settings.outside_cgroup, "cgroup.procs", "0");
  if (error != 0) Say("cannot move CRIU out of the container's cgroup to", settings.outside_cgroup, error);
  return error == 0;
}

bool HoldContainer(const Settings& settings) {
  int error = WriteControl(settings.hold_cgroup, "cgroup.freeze", "1");
  if (error == 0) error = WaitFrozen(settings.hold_cgroup);
  if (error == 0 && AllSharedTaken()) return true;
  if (error != 0) Say("cannot freeze", settings.hold_cgroup, error);
  Say("killing the restored container: it must not run before it is told to", settings.hold_cgroup, 0);
  const bool killed =
      WriteControl(settings.hold_cgroup, "cgroup.kill", "1") == 0 || KillOneByOne(settings.hold_cgroup);
  // CRIU would wait for the first of the processes, which ends after the others, and these after CRIU, which
  // traces them. What could not be killed is left to it.
  if (killed) _exit(1);
  return false;
}

void TellDone(const Settings& settings) {
  if (settings.done[0] == '\0') return;
  const int fd = open(settings.done, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0 || syscall(SYS_write, fd, "1", 1) != 1)
    Say("cannot tell that the dump is done", settings.done, errno);
  if (fd >= 0) close(fd);
}

bool PassGate(const Settings& settings) {
  if (settings.gate[0] == '\0') return true;
  const int fd = open(settings.gate, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) {
    Say("cannot open the gate", settings.gate, errno);
    return false;
  }
  const bool opened = AwaitWord(fd, settings);
  close(fd);
  return opened;
}

}  // namespace godwit::preload
