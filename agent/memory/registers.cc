// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/registers.h"

#include <sys/ptrace.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

namespace godwit::memory {
namespace {

#if defined(__x86_64__)
uint64_t InstructionOf(const Registers& at_entry) { return at_entry.rip - sizeof(kSyscallInstruction); }
#else
uint64_t InstructionOf(const Registers& at_entry) { return at_entry.pc - sizeof(kSyscallInstruction); }
#endif

#if defined(__aarch64__)
int HasSyscallInstruction(pid_t thread, uint64_t address, bool& has) {
  errno = 0;
  const long word = ptrace(PTRACE_PEEKTEXT, thread, address, nullptr);
  if (errno != 0) return errno;
  has = memcmp(&word, kSyscallInstruction, sizeof(kSyscallInstruction)) == 0;
  return 0;
}

int SetSystemCallNumber(pid_t thread, int number) {
  iovec vector{&number, sizeof(number)};
  return ptrace(PTRACE_SETREGSET, thread, NT_ARM_SYSTEM_CALL, &vector) == 0 ? 0 : errno;
}
#endif

}  // namespace

int ReadRegisters(pid_t thread, Registers& registers) {
  iovec vector{&registers, sizeof(registers)};
  if (ptrace(PTRACE_GETREGSET, thread, NT_PRSTATUS, &vector) != 0) return errno;
  return vector.iov_len == sizeof(registers) ? 0 : ENOEXEC;
}

int WriteRegisters(pid_t thread, const Registers& registers) {
  iovec vector{const_cast<Registers*>(&registers), sizeof(registers)};
  return ptrace(PTRACE_SETREGSET, thread, NT_PRSTATUS, &vector) == 0 ? 0 : errno;
}

#if defined(__x86_64__)

int IsAboutToRestart(pid_t, const Registers& registers, bool& restarts) {
  // include/linux/errno.h: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK.
  const auto result = static_cast<int64_t>(registers.rax);
  restarts = static_cast<int64_t>(registers.orig_rax) >= 0 &&
             (result == -512 || result == -513 || result == -514 || result == -516);
  return 0;
}

int SwapSystemCall(pid_t thread, Registers at_entry, long number, uint64_t argument) {
  at_entry.orig_rax = static_cast<uint64_t>(number);
  at_entry.rdi = argument;
  return WriteRegisters(thread, at_entry);
}

int RepeatSystemCall(pid_t thread, Registers at_entry) {
  at_entry.rip = InstructionOf(at_entry);
  at_entry.rax = at_entry.orig_rax;
  at_entry.orig_rax = ~uint64_t{0};  // not in a call any more: nothing for the kernel to restart
  return WriteRegisters(thread, at_entry);
}

int StartSystemCall(pid_t thread, Registers registers, uint64_t address, long number, uint64_t argument) {
  registers.rip = address;
  registers.rax = static_cast<uint64_t>(number);
  registers.orig_rax = ~uint64_t{0};
  registers.rdi = argument;
  return WriteRegisters(thread, registers);
}

int LeaveSystemCall(pid_t thread, Registers before) {
  before.orig_rax = ~uint64_t{0};
  return WriteRegisters(thread, before);
}

int ReadResult(pid_t thread, int64_t& result) {
  Registers registers;
  if (const int error = ReadRegisters(thread, registers); error != 0) return error;
  result = static_cast<int64_t>(registers.rax);
  return 0;
}

#else

// The kernel has moved the program counter back before it stops (arch/arm64/kernel/signal.c, do_signal). A
// thread that was about to make a call anyway looks the same and is as good.
int IsAboutToRestart(pid_t thread, const Registers& registers, bool& restarts) {
  return HasSyscallInstruction(thread, registers.pc, restarts);
}

int SwapSystemCall(pid_t thread, Registers at_entry, long number, uint64_t argument) {
  at_entry.regs[0] = argument;
  at_entry.regs[8] = static_cast<uint64_t>(number);
  if (const int error = WriteRegisters(thread, at_entry); error != 0) return error;
  return SetSystemCallNumber(thread, static_cast<int>(number));
}

int RepeatSystemCall(pid_t thread, Registers at_entry) {
  at_entry.pc = InstructionOf(at_entry);
  if (const int error = WriteRegisters(thread, at_entry); error != 0) return error;
  return SetSystemCallNumber(thread, -1);
}

int StartSystemCall(pid_t thread, Registers registers, uint64_t address, long number, uint64_t argument) {
  registers.pc = address;
  registers.regs[0] = argument;
  registers.regs[8] = static_cast<uint64_t>(number);
  return WriteRegisters(thread, registers);
}

int LeaveSystemCall(pid_t thread, Registers before) {
  if (const int error = WriteRegisters(thread, before); error != 0) return error;
  return SetSystemCallNumber(thread, -1);
}

int ReadResult(pid_t thread, int64_t& result) {
  Registers registers;
  if (const int error = ReadRegisters(thread, registers); error != 0) return error;
  result = static_cast<int64_t>(registers.regs[0]);
  return 0;
}

#endif

}  // namespace godwit::memory
