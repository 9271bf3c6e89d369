// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/pagemap_scan.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

#ifndef PAGE_IS_GUARD
#define PAGE_IS_GUARD (1 << 8)
#endif

namespace godwit::memory {
namespace {

constexpr size_t kRegions = 1024;  // the kernel collects 512 at a time

// An empty range: the kernel checks the arguments and finds nothing.
int Try(uint64_t categories) {
  const absl::StatusOr<UniqueFd> own = OpenFile("/proc/self/pagemap", O_RDONLY);
  if (!own.ok()) return EACCES;
  pm_scan_arg argument{};
  argument.size = sizeof(argument);
  argument.category_mask = categories;
  return ioctl(own->get(), PAGEMAP_SCAN, &argument) == 0 ? 0 : errno;
}

// Those that a page must not have.
uint64_t EmptyCategories() {
  static const uint64_t categories = PAGE_IS_PFNZERO | (Try(PAGE_IS_GUARD) == 0 ? PAGE_IS_GUARD : 0);
  return categories;
}

}  // namespace

absl::Status PagemapScan::CheckSupport() {
  const int error = Try(PAGE_IS_WRITTEN);
  if (error == 0) return absl::OkStatus();
  utsname name{};
  uname(&name);
  return absl::FailedPreconditionError(absl::StrCat(
      "kernel ", name.release,
      " has no PAGEMAP_SCAN (6.7 and newer have): ", ErrnoStatus(error, "asked for it").message()));
}

absl::StatusOr<PagemapScan> PagemapScan::Open(const std::string& proc, pid_t pid) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd pagemap, OpenFile(absl::StrCat(proc, "/", pid, "/pagemap"), O_RDONLY));
  return PagemapScan(std::move(pagemap));
}

absl::Status PagemapScan::Look(Range range, Pages& pages) const {
  return Scan(range, PM_SCAN_CHECK_WPASYNC, 0, pages);
}

absl::Status PagemapScan::LookUnregistered(Range range, Pages& pages) const {
  return Scan(range, 0, 0, pages);
}

absl::Status PagemapScan::ArmWritten(Range range, Ranges& written) const {
  Pages pages{{}, std::move(written)};
  const absl::Status status =
      Scan(range, PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING, PAGE_IS_WRITTEN, pages);
  written = std::move(pages.written);
  return status;
}

absl::Status PagemapScan::ArmAll(Range range, Ranges& populated) const {
  Pages pages{std::move(populated), {}};
  const absl::Status status = Scan(range, PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING, 0, pages);
  populated = std::move(pages.populated);
  return status;
}

absl::Status PagemapScan::Scan(Range range, uint64_t flags, uint64_t required, Pages& pages) const {
  page_region regions[kRegions];
  pm_scan_arg argument{};
  argument.size = sizeof(argument);
  argument.flags = flags;
  argument.end = range.end;
  argument.vec = reinterpret_cast<uint64_t>(regions);
  argument.vec_len = kRegions;
  argument.category_inverted = EmptyCategories();
  argument.category_mask = EmptyCategories() | required;
  argument.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  argument.return_mask = PAGE_IS_WRITTEN;
  uint64_t reported = range.start;  // up to here
  for (uint64_t at = range.start; at < range.end;) {
    argument.start = at;
    const int found = ioctl(pagemap_.get(), PAGEMAP_SCAN, &argument);
    if (found < 0) {
      if (errno == EPERM) return absl::PermissionDeniedError("not registered");
      return ErrnoStatus(
          absl::StrCat("PAGEMAP_SCAN of ", absl::Hex(argument.start), "-", absl::Hex(range.end)));
    }
    // The kernel collects 512 regions at a time. When it comes to the end of the range after it has filled
    // them once, walk_end says how far it had come then (fs/proc/task_mmu.c 6.18, do_pagemap_scan). What it
    // reported and armed beyond must not be looked at again: it would be found out of order, and lost.
    at = std::max<uint64_t>(argument.walk_end, found > 0 ? regions[found - 1].end : 0);
    if (at <= argument.start) return absl::InternalError("PAGEMAP_SCAN does not advance");
    for (int i = 0; i < found; ++i) {
      const Range region{regions[i].start, regions[i].end};
      if (region.start < reported) return absl::InternalError("PAGEMAP_SCAN finds pages twice");
      reported = region.end;
      Append(pages.populated, region);
      if ((regions[i].categories & PAGE_IS_WRITTEN) != 0) Append(pages.written, region);
    }
  }
  return absl::OkStatus();
}

}  // namespace godwit::memory
