// SPDX-License-Identifier: Apache-2.0
// A userfaultfd of another task's memory in asynchronous write-protect mode: the kernel notes writes by
// itself, nobody has to answer faults. Linux 6.7; userfaultfd(2),
// Documentation/admin-guide/mm/userfaultfd.rst.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/memory/range.h"
#include "base/file.h"

namespace godwit::memory {

class WriteProtection {
 public:
  // Whether the kernel has the features; tried with a userfaultfd of this process' own, which registers
  // nothing.
  static absl::Status CheckSupport();

  // Of this process' own memory. FailedPrecondition as CheckSupport says.
  static absl::StatusOr<WriteProtection> OfThisProcess();

  // `uffd` is fresh from userfaultfd(2). Closing it ends the write protection of everything, at once: the
  // task waits at its next page fault or mmap until the kernel has seen each of its pages (0.2 s for 2 GiB).
  static absl::StatusOr<WriteProtection> Enable(UniqueFd uffd);

  enum class Outcome {
    kRegistered,  // also when it was before
    kRefused,     // not a mapping that can be tracked, or none any more
    kBusy,        // another userfaultfd is on it
    kMemoryGone,  // the task has ended, or has other memory since an exec
  };
  absl::StatusOr<Outcome> Register(Range range) const;
  // Ends it for `range`, a little at a time, so that the task waits for 2 ms at most. Passes over what is no
  // longer mapped, or something else by now. False: no more is worth trying, as the task has ended or has
  // other memory since an exec.
  bool Unregister(Range range) const;

 private:
  explicit WriteProtection(UniqueFd uffd) : uffd_(std::move(uffd)) {}
  UniqueFd uffd_;
};

}  // namespace godwit::memory
