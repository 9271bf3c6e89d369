// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/injection.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "agent/memory/registers.h"

namespace godwit::memory {
namespace {

// Of linux/ptrace.h, which the C library's header does not go with.
constexpr int kGetRseqConfiguration = 0x420f;
constexpr int kGetSyscallUserDispatch = 0x4210;
struct RseqConfiguration {
  uint64_t pointer;
  uint32_t size, signature, flags, padding;
};
struct SyscallUserDispatch {
  uint64_t mode, selector, offset, length;
};
constexpr uint64_t kCriticalSection = 8;  // offset of rseq_cs in struct rseq

constexpr uint64_t kKernelMask = ~uint64_t{0};
constexpr uint64_t kSecond = 1'000'000'000;

uint64_t Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * kSecond + static_cast<uint64_t>(now.tv_nsec);
}

class Tracee {
 public:
  Tracee(pid_t thread, uint64_t syscall_instruction) : thread_(thread), instruction_(syscall_instruction) {}

  // Each returns 0 or an errno.
  int Seize(bool suspend_seccomp) {
    const long options = PTRACE_O_TRACESYSGOOD | (suspend_seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0);
    return ptrace(PTRACE_SEIZE, thread_, nullptr, options) == 0 ? 0 : errno;
  }

  // Until the thread stands on its way out of the kernel, with what it took to get there untouched.
  int Stop(uint64_t deadline) {
    if (ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr) != 0) return errno;
    deadline_ = deadline;
    int status = 0;
    for (int signal = 0;; signal = WSTOPSIG(status)) {
      if (stopped_ && Resume(PTRACE_CONT, signal) != 0) return errno;
      if (const int error = Wait(status); error != 0) return error;
      if (status >> 16 == PTRACE_EVENT_STOP) break;
    }
    // From here on nothing is done by halves: what is waited for is the kernel's own work.
    deadline_ = Now() + 10 * kSecond;
    return 0;
  }

  int Prepare() {
    SyscallUserDispatch dispatch{};
    if (ptrace(static_cast<__ptrace_request>(kGetSyscallUserDispatch), thread_, sizeof(dispatch),
               &dispatch) == 0 &&
        dispatch.mode != 0)
      return EOPNOTSUPP;
    if (const int error = ReadRegisters(thread_, registers_); error != 0) return error;
    if (const int error = IsAboutToRestart(thread_, registers_, in_call_); error != 0) return error;
    if (ptrace(PTRACE_GETSIGMASK, thread_, sizeof(mask_), &mask_) != 0) return errno;
    if (!in_call_) RememberCriticalSection();
    if (ptrace(PTRACE_SETSIGMASK, thread_, sizeof(kKernelMask), &kKernelMask) != 0) return errno;
    mask_changed_ = true;
    if (!in_call_) return 0;
    if (const int error = RunToSyscallStop(); error != 0) return error;
    return ReadRegisters(thread_, registers_);
  }

  // One system call of the thread, in between. An error means that the thread may not be where it was.
  int Call(long number, uint64_t argument, int64_t& result) {
    if (in_call_) {
      if (const int error = SwapSystemCall(thread_, registers_, number, argument); error != 0) return error;
    } else {
      if (const int error = StartSystemCall(thread_, registers_, instruction_, number, argument); error != 0)
        return error;
      if (const int error = RunToSyscallStop(); error != 0) return error;
    }
    if (const int error = RunToSyscallStop(); error != 0) return error;
    if (const int error = ReadResult(thread_, result); error != 0) return error;
    if (!in_call_) return LeaveSystemCall(thread_, registers_);
    if (const int error = RepeatSystemCall(thread_, registers_); error != 0) return error;
    return RunToSyscallStop();
  }

  void Detach() {
    if (!stopped_) return;  // it is let go when this process ends
    if (critical_section_ != 0)
      ptrace(PTRACE_POKEDATA, thread_, critical_section_pointer_, critical_section_);
    if (mask_changed_) ptrace(PTRACE_SETSIGMASK, thread_, sizeof(mask_), &mask_);
    ptrace(PTRACE_DETACH, thread_, nullptr, nullptr);
  }

 private:
  int Resume(__ptrace_request request, int signal) {
    if (ptrace(request, thread_, nullptr, signal) != 0) return errno;
    stopped_ = false;
    return 0;
  }

  int Wait(int& status) {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    while (true) {
      const pid_t waited = waitpid(thread_, &status, __WALL | WNOHANG);
      if (waited < 0) return errno;
      if (waited > 0) break;
      const uint64_t now = Now();
      if (now >= deadline_) return ETIMEDOUT;
      const timespec left{static_cast<time_t>((deadline_ - now) / kSecond),
                          static_cast<long>((deadline_ - now) % kSecond)};
      sigtimedwait(&child, nullptr, &left);
    }
    stopped_ = WIFSTOPPED(status);
    return stopped_ ? 0 : ESRCH;
  }

  // With all signals blocked only SIGSTOP and the stops of job control come between; they are let pass, and
  // the kernel takes them up again when the thread is let go.
  int RunToSyscallStop() {
    int status = 0;
    for (int signal = 0;;) {
      if (const int error = Resume(PTRACE_SYSCALL, signal); error != 0) return error;
      if (const int error = Wait(status); error != 0) return error;
      if (WSTOPSIG(status) == (SIGTRAP | 0x80)) return 0;
      signal = status >> 16 != 0 ? 0 : WSTOPSIG(status);
    }
  }

  // The kernel forgets a restartable sequence (rseq(2)) when the thread is elsewhere on its way out. It must
  // find it again when the thread is back where it was, or a sequence that was interrupted would be
  // completed.
  void RememberCriticalSection() {
    RseqConfiguration rseq{};
    if (ptrace(static_cast<__ptrace_request>(kGetRseqConfiguration), thread_, sizeof(rseq), &rseq) < 0 ||
        rseq.pointer == 0)
      return;
    errno = 0;
    const long value = ptrace(PTRACE_PEEKDATA, thread_, rseq.pointer + kCriticalSection, nullptr);
    if (errno != 0) return;
    critical_section_pointer_ = rseq.pointer + kCriticalSection;
    critical_section_ = value;
  }

  const pid_t thread_;
  const uint64_t instruction_;
  uint64_t deadline_ = 0;
  bool stopped_ = false;
  Registers registers_{};
  bool in_call_ = false;
  uint64_t mask_ = 0;
  bool mask_changed_ = false;
  uint64_t critical_section_pointer_ = 0;
  long critical_section_ = 0;
};

void Fail(Injection& injection, const char* what, int error) {
  if (injection.failed != nullptr) return;
  injection.failed = what;
  injection.error = error;
}

void InjectStopped(Injection& injection, Tracee& tracee) {
  if (const int error = tracee.Prepare(); error != 0)
    return Fail(
        injection,
        error == EOPNOTSUPP ? "let it make system calls (it uses syscall user dispatch)" : "read its state",
        error);
  int64_t fd = 0;
  // For faults of user code alone it needs no privilege in the process. Writes of the kernel into its memory
  // are noted all the same: in asynchronous mode there is no fault to be handled.
  constexpr uint64_t kFlags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
  if (const int error = tracee.Call(SYS_userfaultfd, kFlags, fd); error != 0)
    return Fail(injection, "have it call userfaultfd", error);
  if (fd < 0) return Fail(injection, "make a userfaultfd in it", static_cast<int>(-fd));
  const long taken = syscall(SYS_pidfd_getfd, injection.pidfd, static_cast<int>(fd), 0);
  if (taken < 0) Fail(injection, "take its userfaultfd over", errno);
  injection.uffd = static_cast<int>(taken);
  int64_t closed = 0;
  if (const int error = tracee.Call(SYS_close, static_cast<uint64_t>(fd), closed); error != 0)
    return Fail(injection, "have it call close", error);
  if (closed != 0) Fail(injection, "close the userfaultfd in it", static_cast<int>(-closed));
}

}  // namespace

void Inject(Injection& injection) {
  Tracee tracee(injection.thread, injection.syscall_instruction);
  if (const int error = tracee.Seize(injection.suspend_seccomp); error != 0)
    return Fail(injection, "trace it", error);
  const uint64_t began = Now();
  if (const int error = tracee.Stop(began + injection.limit_ns); error != 0) {
    Fail(injection, "stop it", error);
  } else {
    InjectStopped(injection, tracee);
  }
  tracee.Detach();
  injection.stopped_ns = Now() - began;
}

}  // namespace godwit::memory
