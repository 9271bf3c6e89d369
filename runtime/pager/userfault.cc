// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/userfault.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace godwit::pager {
namespace {

// `installed`: what the kernel counted, or a negative error number.
absl::StatusOr<Installation> Explain(int error, int64_t installed, const char* what, uint64_t address) {
  if (installed > 0) return Installation{Outcome::kInstalled, static_cast<uint64_t>(installed)};
  switch (error) {
    case EEXIST: return Installation{Outcome::kPresent};
    case ENOENT: return Installation{Outcome::kUnmapped};
    case EAGAIN: return Installation{Outcome::kChanging};
    case ESRCH: return Installation{Outcome::kGone};
    case ENOMEM: return Installation{Outcome::kNoMemory};
    default: return ErrnoStatus(error, absl::StrCat("cannot ", what, " at ", absl::StrFormat("%x", address)));
  }
}

}  // namespace

absl::StatusOr<Installation> CopyPages(int uffd, uint64_t address, const char* source, uint64_t bytes) {
  uffdio_copy copy = {.dst = address, .src = reinterpret_cast<uintptr_t>(source), .len = bytes};
  if (ioctl(uffd, UFFDIO_COPY, &copy) == 0) return Installation{Outcome::kInstalled, bytes};
  return Explain(errno, copy.copy, "copy a page", address);
}

absl::StatusOr<Installation> ZeroPages(int uffd, uint64_t address, uint64_t bytes) {
  uffdio_zeropage zero = {.range = {address, bytes}};
  if (ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0) return Installation{Outcome::kInstalled, bytes};
  return Explain(errno, zero.zeropage, "install a page of zeros", address);
}

void WakePages(int uffd, uint64_t address, uint64_t bytes) {
  uffdio_range range = {address, bytes};
  ioctl(uffd, UFFDIO_WAKE, &range);  // fails only where there is no such memory, and nobody to wake
}

}  // namespace godwit::pager
