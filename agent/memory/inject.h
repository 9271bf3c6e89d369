// SPDX-License-Identifier: Apache-2.0
// Gets a userfaultfd for another process' memory, which only that process itself can make: one of its threads
// is stopped by ptrace and makes userfaultfd(2) on its way; the descriptor is taken over and closed there.
//
// The thread stands still for less than a millisecond; the process' other threads go on. Afterwards it is
// where it was: signals stay pending, a call that was interrupted is taken up by the kernel as after any
// stop, with what is left of its time. A seccomp filter is suspended for the two calls (RuntimeDefault
// refuses userfaultfd). Everything is done by a process of its own, so that the end of this one in between
// does no harm.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/file.h"

namespace godwit::memory {

struct Injected {
  UniqueFd uffd;
  absl::Duration stopped;  // how long the thread stood still
};

// `pid` is a process id here; `proc` shows the same ids. NotFound: the process is gone, or is ending.
// FailedPrecondition: it cannot be done with this process (traced already, a 32-bit program, no vDSO).
// DeadlineExceeded: the thread did not stop within `limit`, as in vfork(2) or when it waits for a disk.
absl::StatusOr<Injected> InjectUserfaultfd(const std::string& proc, pid_t pid, absl::Duration limit);

}  // namespace godwit::memory
