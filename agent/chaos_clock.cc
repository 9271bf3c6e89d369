// SPDX-License-Identifier: Apache-2.0
// Chaos builds only (base/failpoint.h): the agent's wall clock is ahead by the seconds in
// /run/godwit/chaos/clock, as if somebody had set it, for nodes of a test share their kernel's. All that asks
// for the time in this program comes here (ld's --wrap), and all that waits in abseil until a moment of that
// clock: what the kernel is told is its own time.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>

extern "C" {
int __real_clock_gettime(clockid_t clock, timespec* now);
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);

std::atomic<int64_t> godwit_clock_step = 0;  // seconds

int __wrap_clock_gettime(clockid_t clock, timespec* now) {
  const int result = __real_clock_gettime(clock, now);
  if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += godwit_clock_step;
  return result;
}

long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f) {
  if (number != SYS_futex || (b & FUTEX_CLOCK_REALTIME) == 0 || d == 0)
    return __real_syscall(number, a, b, c, d, e, f);
  timespec until = *reinterpret_cast<const timespec*>(d);
  until.tv_sec -= godwit_clock_step;
  if (until.tv_sec < 0) until.tv_sec = 0;
  return __real_syscall(number, a, b, c, reinterpret_cast<long>(&until), e, f);
}
}

namespace {

// Where the agent serves alone: its other commands change namespaces, which a process of one thread may.
__attribute__((constructor)) void Watch(int argc, char** argv) {
  if (argc > 1 && argv[1][0] != '-') return;
  std::thread([] {
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(20))) {
      char text[24] = {};
      const int file = open("/run/godwit/chaos/clock", O_RDONLY | O_CLOEXEC);
      if (file >= 0 && read(file, text, sizeof text - 1) < 0) text[0] = '\0';
      if (file >= 0) close(file);
      godwit_clock_step = strtoll(text, nullptr, 10);
    }
  }).detach();
}

}  // namespace
