// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/injection.h"

#include <fcntl.h>
#include <linux/audit.h>
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

constexpr int kSyscallStop = SIGTRAP | 0x80;  // PTRACE_O_TRACESYSGOOD
constexpr uint64_t kKernelMask = ~uint64_t{0};
constexpr uint64_t kSecond = 1'000'000'000;

uint64_t Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * kSecond + static_cast<uint64_t>(now.tv_nsec);
}

// The signal that a stop is for, which is let pass.
int SignalOf(int status) {
  return status >> 16 != 0 || WSTOPSIG(status) == kSyscallStop ? 0 : WSTOPSIG(status);
}

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#else
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

// What the thread executes is its process's to change, at any moment and the vDSO as well. So nothing is
// known of a system call until the thread stands at its entry. Only there, where the number has been set and
// is all that the kernel still looks at, its seccomp filter is suspended, until the exit of that call: no
// instruction of the thread is executed without the filter.
class Tracee {
 public:
  explicit Tracee(const Injection& injection)
      : thread_(injection.thread),
        instruction_(injection.syscall_instruction),
        has_filter_(injection.suspend_seccomp) {}

  // Each returns 0 or an errno.
  int Seize() { return ptrace(PTRACE_SEIZE, thread_, nullptr, PTRACE_O_TRACESYSGOOD) == 0 ? 0 : errno; }

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
    // From here on nothing is done by halves: what is waited for is the kernel's own work, unless the process
    // puts code of its own there.
    deadline_ = Now() + 10 * kSecond;
    return 0;
  }

  // Once it is stopped, while nothing has been changed yet.
  int TrySuspension() {
    const int error = SuspendFilter(true);
    return error != 0 ? error : SuspendFilter(false);
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
    return in_call_ ? RunToSyscallStop() : 0;
  }

  // One system call of the thread, in between. After an error only Detach may follow. EPROTO: it has come to
  // another call, which it may for one that is `made_anywhere`, in place of what it came for.
  int Call(long number, uint64_t argument, int64_t& result, bool made_anywhere = false) {
    if (!in_call_) {
      away_ = true;
      if (const int error = StartSystemCall(thread_, registers_, instruction_, number, argument); error != 0)
        return error;
      if (const int error = RunToSyscallStop(); error != 0) return error;
    }
    Registers at_entry;
    if (const int error = ReadEntry(at_entry, made_anywhere); error != 0) return error;
    // Also where it is there by itself: the arguments may not be those that it was started with.
    if (const int error = SwapSystemCall(thread_, at_entry, number, argument); error != 0) return error;
    if (in_call_) registers_ = at_entry;
    away_ = true;
    if (const int error = SuspendFilter(true); error != 0) return error;
    if (const int error = RunToSyscallStop(); error != 0) return error;
    if (const int error = SuspendFilter(false); error != 0) return error;
    if (const int error = ReadResult(thread_, result); error != 0) return error;
    if (const int error = PutBack(); error != 0) return error;
    away_ = false;
    return in_call_ ? RunToSyscallStop() : 0;
  }

  void Detach() {
    if (mask_changed_ && (away_ || !stopped_)) BringBack();
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

  // PTRACE_SETOPTIONS(2) acts at once: the kernel comes to the filter after the stop at the entry.
  int SuspendFilter(bool suspend) {
    if (!has_filter_) return 0;
    const long options = PTRACE_O_TRACESYSGOOD | (suspend ? PTRACE_O_SUSPEND_SECCOMP : 0);
    return ptrace(PTRACE_SETOPTIONS, thread_, nullptr, options) == 0 ? 0 : errno;
  }

  // At the entry of a call: of its own, whichever it has come to, since it gets that one back; or of the one
  // that it was started for. Numbers mean other calls where the architecture is another ("int 0x80").
  int ReadEntry(Registers& registers, bool anywhere) {
    __ptrace_syscall_info info{};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread_, sizeof(info), &info) < 0) return errno;
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY) return EPROTO;
    if (info.arch != kArchitecture) return in_call_ ? ENOEXEC : EPROTO;
    const bool there = info.instruction_pointer == instruction_ + sizeof(kSyscallInstruction);
    if (!in_call_ && !there && !anywhere) return EPROTO;
    return ReadRegisters(thread_, registers);
  }

  // At the entry of a call also: it is not made then.
  int PutBack() {
    return in_call_ ? RepeatSystemCall(thread_, registers_) : LeaveSystemCall(thread_, registers_);
  }

  // From wherever it has got to. The interruption makes it stop before it leaves the kernel, so that on the
  // way it executes nothing; and the filter is not asked about a call that is not made: it might kill.
  void BringBack() {
    if (ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr) != 0) return;
    deadline_ = Now() + kSecond;
    for (int status = 0;;) {
      if (stopped_) {
        if (away_ && PutBack() != 0) return;
        // A call of its own goes on from any stop. ARM64 lets x7 be set in this one alone.
        if (in_call_ || status >> 16 == PTRACE_EVENT_STOP) break;
        if (SuspendFilter(true) != 0 || Resume(PTRACE_CONT, SignalOf(status)) != 0) return;
      }
      if (Wait(status) != 0) return;
    }
    SuspendFilter(false);
  }

  // With all signals blocked only SIGSTOP and the stops of job control come between; they are let pass, and
  // the kernel takes them up again when the thread is let go.
  int RunToSyscallStop() {
    for (int status = 0;;) {
      if (const int error = Resume(PTRACE_SYSCALL, SignalOf(status)); error != 0) return error;
      if (const int error = Wait(status); error != 0) return error;
      if (WSTOPSIG(status) == kSyscallStop) return 0;
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
  const bool has_filter_;
  uint64_t deadline_ = 0;
  bool stopped_ = false;
  bool in_call_ = false;
  Registers registers_{};  // before the injection; in_call_: at the entry of its own call
  bool away_ = false;      // it has others now
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

void FailCall(Injection& injection, const char* call, int error) {
  Fail(injection, error == EPROTO ? "have it make system calls (it changes the code that it executes)" : call,
       error);
}

void InjectStopped(Injection& injection, Tracee& tracee) {
  if (const int error = tracee.TrySuspension(); error != 0)
    return Fail(injection, "suspend its seccomp filter", error);
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
    return FailCall(injection, "have it call userfaultfd", error);
  if (fd < 0) return Fail(injection, "make a userfaultfd in it", static_cast<int>(-fd));
  const long taken = syscall(SYS_pidfd_getfd, injection.pidfd, static_cast<int>(fd), 0);
  if (taken < 0) Fail(injection, "take its userfaultfd over", errno);
  injection.uffd = static_cast<int>(taken);
  // Nothing is left behind, whatever it does.
  int64_t closed = 0;
  if (const int error = tracee.Call(SYS_close, static_cast<uint64_t>(fd), closed, true); error != 0)
    return FailCall(injection, "have it call close", error);
  if (closed != 0) Fail(injection, "close the userfaultfd in it", static_cast<int>(-closed));
}

}  // namespace

void Inject(Injection& injection) {
  Tracee tracee(injection);
  if (const int error = tracee.Seize(); error != 0) return Fail(injection, "trace it", error);
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
