// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/uffd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

// Each step holds the lock of the task's mappings; the kernel sees some 10 GiB a second.
constexpr uint64_t kUnregisterBytes = uint64_t{16} << 20;

}  // namespace

absl::Status WriteProtection::CheckSupport() { return OfThisProcess().status(); }

absl::StatusOr<WriteProtection> WriteProtection::OfThisProcess() {
  UniqueFd own(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  if (!own.ok())
    return absl::FailedPreconditionError(
        ErrnoStatus("the kernel has no userfaultfd for this process").message());
  return Enable(std::move(own));
}

absl::StatusOr<WriteProtection> WriteProtection::Enable(UniqueFd uffd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
  if (ioctl(uffd.get(), UFFDIO_API, &api) != 0) {
    return absl::FailedPreconditionError(
        ErrnoStatus(
            "the kernel has no userfaultfd with asynchronous write protection (6.7 and newer have, on "
            "x86_64 and ARM64)")
            .message());
  }
  return WriteProtection(std::move(uffd));
}

absl::StatusOr<WriteProtection::Outcome> WriteProtection::Register(Range range) const {
  uffdio_register argument{};
  argument.range = {.start = range.start, .len = range.bytes()};
  argument.mode = UFFDIO_REGISTER_MODE_WP;
  if (ioctl(uffd_.get(), UFFDIO_REGISTER, &argument) == 0) return Outcome::kRegistered;
  switch (errno) {
    case EINVAL:
    case EPERM: return Outcome::kRefused;
    case EBUSY: return Outcome::kBusy;
    // fs/userfaultfd.c, userfaultfd_register. Also when a mapping cannot be split: to begin anew is right
    // then, too.
    case ENOMEM: return Outcome::kMemoryGone;
    default:
      return ErrnoStatus(absl::StrCat("cannot register ", absl::Hex(range.start), "-", absl::Hex(range.end),
                                      " for write tracking"));
  }
}

bool WriteProtection::Unregister(Range range) const {
  while (range.start < range.end) {
    const uint64_t bytes = std::min(range.bytes(), kUnregisterBytes - range.start % kUnregisterBytes);
    uffdio_range step{.start = range.start, .len = bytes};
    // fs/userfaultfd.c, userfaultfd_unregister. EINVAL: there is no mapping, or one that cannot be
    // registered. Closing does what is left of this step. ENOMEM: the memory is gone, or no mapping can be
    // split any more.
    if (ioctl(uffd_.get(), UFFDIO_UNREGISTER, &step) != 0 && errno != EINVAL) return false;
    range.start += bytes;
  }
  return true;
}

}  // namespace godwit::memory
