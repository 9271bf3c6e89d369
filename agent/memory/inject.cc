// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/inject.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "agent/memory/injection.h"
#include "agent/memory/maps.h"
#include "agent/memory/registers.h"
#include "agent/memory/task_status.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kMaxVdso = size_t{64} << 10;

// An address at which the process has the instruction: the vDSO's own calls into the kernel have it. Other
// threads may run that code meanwhile; it is not changed.
absl::StatusOr<uint64_t> FindSyscallInstruction(const std::string& proc, pid_t pid) {
  GODWIT_ASSIGN_OR_RETURN(const AddressSpace space, ReadAddressSpace(proc, pid, MapsFile::kMaps));
  if (space.vdso.bytes() == 0 || space.vdso.bytes() > kMaxVdso)
    return absl::FailedPreconditionError("it has no vDSO");
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd memory, OpenFile(absl::StrCat(proc, "/", pid, "/mem"), O_RDONLY));
  std::string code(space.vdso.bytes(), '\0');
  const ssize_t size = pread(memory.get(), code.data(), code.size(), static_cast<off_t>(space.vdso.start));
  if (size < 0) return ErrnoStatus("read its vDSO");
  for (size_t at = 0; at + sizeof(kSyscallInstruction) <= static_cast<size_t>(size);
       at += kInstructionAlignment) {
    if (memcmp(code.data() + at, kSyscallInstruction, sizeof(kSyscallInstruction)) == 0)
      return space.vdso.start + at;
  }
  return absl::FailedPreconditionError("its vDSO makes no system calls");
}

int RunAlone(void* argument) {
  struct sigaction by_default{};
  by_default.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &by_default, nullptr);
  Inject(*static_cast<Injection*>(argument));
  return 0;
}

// As posix_spawn(3) makes its child: in the same memory, on a stack of its own, while this thread waits. It
// is a process of its own, so that a SIGKILL for this one lets it finish; and its end lets go of what it
// traces.
absl::Status RunInOwnProcess(Injection& injection) {
  void* stack =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return ErrnoStatus("cannot get memory for a stack");
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  const pid_t child = clone(RunAlone, static_cast<char*>(stack) + kStackBytes,
                            CLONE_VM | CLONE_VFORK | CLONE_FILES, &injection);
  const int error = errno;
  if (child > 0) {
    while (waitpid(child, nullptr, __WALL) < 0 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  munmap(stack, kStackBytes);
  return child > 0 ? absl::OkStatus() : ErrnoStatus(error, "cannot start a process");
}

absl::Status Explain(const Injection& injection) {
  const std::string message = absl::StrCat("cannot ", injection.failed, ": ", strerror(injection.error));
  switch (injection.error) {
    case ESRCH: return absl::NotFoundError(message);
    case ETIMEDOUT: return absl::DeadlineExceededError(message);
    case ENOEXEC: return absl::FailedPreconditionError(absl::StrCat(message, " (a 32-bit program?)"));
    default: return absl::FailedPreconditionError(message);
  }
}

absl::StatusOr<Injected> InjectInto(const std::string& proc, pid_t pid, absl::Duration limit) {
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.ok()) return ErrnoStatus("pidfd_open");
  GODWIT_ASSIGN_OR_RETURN(const TaskStatus status, ReadTaskStatus(proc, pid));
  if (!status.has_memory) return absl::NotFoundError("it is ending");
  if (status.tracer != 0)
    return absl::FailedPreconditionError(absl::StrCat("process ", status.tracer, " traces it (a debugger?)"));
  Injection injection;
  injection.thread = pid;
  injection.pidfd = pidfd.get();
  GODWIT_ASSIGN_OR_RETURN(injection.syscall_instruction, FindSyscallInstruction(proc, pid));
  injection.suspend_seccomp = status.seccomp;
  injection.limit_ns = static_cast<uint64_t>(absl::ToInt64Nanoseconds(limit));
  GODWIT_RETURN_IF_ERROR(RunInOwnProcess(injection));
  UniqueFd uffd(injection.uffd);
  if (injection.failed != nullptr) return Explain(injection);
  return Injected{std::move(uffd), absl::Nanoseconds(injection.stopped_ns)};
}

}  // namespace

absl::StatusOr<Injected> InjectUserfaultfd(const std::string& proc, pid_t pid, absl::Duration limit) {
  absl::StatusOr<Injected> injected = InjectInto(proc, pid, limit);
  if (!injected.ok())
    return Annotate(injected.status(), absl::StrCat("cannot get a userfaultfd of process ", pid));
  return injected;
}

}  // namespace godwit::memory
