// SPDX-License-Identifier: Apache-2.0
#include "agent/files/snapshot.h"

namespace godwit::files {
namespace {

constexpr absl::Duration kGrace = absl::Milliseconds(100);

// Wraps where a file bears a time after 2262; equal stays equal.
int64_t Nanoseconds(const timespec& time) {
  return static_cast<int64_t>(static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u +
                              static_cast<uint64_t>(time.tv_nsec));
}

}  // namespace

FileStat::FileStat(const struct stat& info)
    : inode(info.st_ino),
      size(info.st_size),
      mtime(Nanoseconds(info.st_mtim)),
      ctime(Nanoseconds(info.st_ctim)),
      mode(info.st_mode),
      uid(info.st_uid),
      gid(info.st_gid) {}

bool CtimeMayStay(const struct stat& info, absl::Time begun) {
  const absl::Time safe = begun - kGrace;
  if (info.st_ctim.tv_nsec == 0) return info.st_ctim.tv_sec >= absl::ToUnixSeconds(safe);
  return absl::TimeFromTimespec(info.st_ctim) >= safe;
}

}  // namespace godwit::files
