// SPDX-License-Identifier: Apache-2.0
// The part of the injection that runs as a process of its own (inject.h). It shares memory and descriptors
// with the process that started it, which waits: so it makes system calls only, and allocates nothing.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace godwit::memory {

struct Injection {
  // What to do.
  pid_t thread = 0;
  int pidfd = -1;                    // of its process
  uint64_t syscall_instruction = 0;  // an address where it has one
  bool suspend_seccomp = false;      // during the calls that are made for it, and no longer
  uint64_t limit_ns = 0;             // for the thread to stop
  // What came of it. `failed` names what could not be done, and `error` is the errno; null when all is well.
  const char* failed = nullptr;
  int error = 0;
  int uffd = -1;  // a descriptor of this process
  uint64_t stopped_ns = 0;
};

// The calling thread becomes the tracer; SIGCHLD must be blocked in it, and not be ignored.
void Inject(Injection& injection);

}  // namespace godwit::memory
