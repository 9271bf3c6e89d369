// SPDX-License-Identifier: Apache-2.0
// A stopped thread's registers, as far as it takes to have it make a system call: x86_64 and ARM64. All calls
// return 0 or an errno; the thread must be in a ptrace stop.
#pragma once

#include <elf.h>
#include <sys/procfs.h>
#include <sys/types.h>
#include <sys/user.h>

#include <cstddef>
#include <cstdint>

namespace godwit::memory {

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "the tracker knows x86_64 and ARM64"
#endif
using Registers = user_regs_struct;

// The bytes of the instruction that makes a system call: "syscall", "svc #0".
#if defined(__x86_64__)
inline constexpr unsigned char kSyscallInstruction[] = {0x0f, 0x05};
inline constexpr size_t kInstructionAlignment = 1;
#else
inline constexpr size_t kInstructionAlignment = 4;
inline constexpr unsigned char kSyscallInstruction[] = {0x01, 0x00, 0x00, 0xd4};
#endif

// ENOEXEC: a 32-bit program.
int ReadRegisters(pid_t thread, Registers& registers);
int WriteRegisters(pid_t thread, const Registers& registers);

// In a stop at the way out of the kernel: whether the thread comes straight back into it, with the same or
// with restart_syscall(2), because this stop has interrupted its call (errors ERESTART*, which a program
// never sees).
int IsAboutToRestart(pid_t thread, const Registers& registers, bool& restarts);

// In a stop at the entry of a system call: the thread makes this one instead, whatever it executes there.
int SwapSystemCall(pid_t thread, Registers at_entry, long number, uint64_t argument);
// From there on in the stop at its exit: the thread makes the call for which it had come, by the same
// instruction. ENOEXEC: it did not come by kSyscallInstruction.
int RepeatSystemCall(pid_t thread, Registers at_entry);

// In a stop at the way out of the kernel: the thread makes this system call by the instruction at `address`.
int StartSystemCall(pid_t thread, Registers registers, uint64_t address, long number, uint64_t argument);
// In the stop at its exit: the thread goes on with what it did before.
int LeaveSystemCall(pid_t thread, Registers before);

// In the stop at the exit of a system call: what it returned.
int ReadResult(pid_t thread, int64_t& result);

}  // namespace godwit::memory
