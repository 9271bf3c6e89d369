// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/pagemap_scan.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "agent/memory/uffd.h"
#include "base/status.h"

#ifndef PAGE_IS_GUARD
#define PAGE_IS_GUARD (1 << 8)
#endif

namespace godwit::memory {
namespace {

constexpr size_t kRegions = 1024;  // the kernel collects 512 at a time
// To ask once for pages and a little between them is sooner than to ask twice.
constexpr uint64_t kMergedPages = 32;

// What one page table maps: it fills a page with entries of 8 bytes.
uint64_t TableSpan() { return PageBytes() / 8 * PageBytes(); }

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

// What is asked of each page, and done with those that are found.
struct PagemapScan::Question {
  uint64_t flags = 0;
  uint64_t inverted = EmptyCategories();
  uint64_t mask = EmptyCategories();
  uint64_t any_of = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  uint64_t most_pages = 0;  // no more are found; 0: all
};

// What the kernel has the short way for.
PagemapScan::Question PagemapScan::ShortQuestion() {
  return {.flags = PM_SCAN_CHECK_WPASYNC, .inverted = 0, .mask = PAGE_IS_WRITTEN, .any_of = 0};
}

// Tried once, on a page table of this process' own with an empty entry between protected pages.
bool PagemapScan::HasShortWay() {
  static const bool has = [] {
    const size_t page = PageBytes();
    void* memory = mmap(nullptr, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    const absl::Cleanup unmap = [&] { munmap(memory, 3 * page); };
    madvise(memory, 3 * page, MADV_NOHUGEPAGE);  // else its neighbours could make it part of one
    char* const bytes = static_cast<char*>(memory);
    bytes[0] = bytes[2 * page] = 1;
    const uint64_t start = reinterpret_cast<uint64_t>(memory);
    const Range range{start, start + 3 * page};
    const absl::StatusOr<WriteProtection> protection = WriteProtection::OfThisProcess();
    if (!protection.ok() || !protection->Register(range).ok()) return false;
    const absl::StatusOr<PagemapScan> scan = Open("/proc", getpid());
    Ranges populated;
    Pages open;
    return scan.ok() && scan->ArmAll(range, populated).ok() && scan->Ask(ShortQuestion(), range, open).ok() &&
           open.populated == Ranges{{start + page, start + 2 * page}};
  }();
  return has;
}

absl::Status PagemapScan::Look(Range range, Pages& pages) const {
  if (!HasShortWay()) return LookAtEach(range, pages);
  GODWIT_ASSIGN_OR_RETURN(const Ranges open, NotProtected(range));
  const uint64_t span = TableSpan();
  auto next = open.begin();
  for (uint64_t at = range.start; at < range.end;) {
    const uint64_t until = next == open.end() ? range.end : next->start;
    // Whole spans before the next, of which nothing was named.
    const uint64_t whole = next == open.end() ? range.end : std::max(at, until / span * span);
    GODWIT_RETURN_IF_ERROR(LookWhereAllIsProtected({at, whole}, pages.populated));
    at = whole;
    if (at == range.end) break;
    // In the span of something that was named there is a page table.
    if (at < until) Append(pages.populated, {at, until});
    const uint64_t table_end = std::min(range.end, ((next->end - 1) / span + 1) * span);
    GODWIT_RETURN_IF_ERROR(LookAtEach(*next, pages));
    at = next->end;
    ++next;
    if (next != open.end() && next->start < table_end) continue;  // the same
    if (at < table_end) Append(pages.populated, {at, table_end});
    at = table_end;
  }
  return absl::OkStatus();
}

absl::Status PagemapScan::LookAtEach(Range range, Pages& pages) const {
  return Ask({.flags = PM_SCAN_CHECK_WPASYNC}, range, pages);
}

absl::Status PagemapScan::LookUnregistered(Range range, Pages& pages) const { return Ask({}, range, pages); }

absl::Status PagemapScan::ArmWritten(Range range, Ranges& written) const {
  Ranges open = {range};
  if (HasShortWay()) {
    GODWIT_ASSIGN_OR_RETURN(open, NotProtected(range));
  }
  Pages pages{{}, std::move(written)};
  absl::Status status;
  for (size_t i = 0; i < open.size() && status.ok(); ++i) {
    status = Ask(
        {.flags = PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING, .mask = EmptyCategories() | PAGE_IS_WRITTEN},
        open[i], pages);
  }
  written = std::move(pages.written);
  return status;
}

absl::Status PagemapScan::ArmAll(Range range, Ranges& populated) const {
  Pages pages{std::move(populated), {}};
  const absl::Status status = Ask({.flags = PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING}, range, pages);
  populated = std::move(pages.populated);
  return status;
}

// What is not write-protected, empty entries of page tables included, and a little between.
absl::StatusOr<Ranges> PagemapScan::NotProtected(Range range) const {
  Pages pages;
  GODWIT_RETURN_IF_ERROR(Ask(ShortQuestion(), range, pages));
  Ranges merged;
  for (const Range& one : pages.populated) {
    if (!merged.empty() && one.start - merged.back().end <= kMergedPages * PageBytes()) {
      merged.back().end = one.end;
    } else {
      merged.push_back(one);
    }
  }
  return merged;
}

// Of a range in which nothing is unprotected: page tables are full, or not there.
absl::Status PagemapScan::LookWhereAllIsProtected(Range range, Ranges& populated) const {
  const uint64_t span = TableSpan();
  while (range.start < range.end) {
    GODWIT_ASSIGN_OR_RETURN(const uint64_t first, FirstPopulated(range));
    if (first == range.end) break;
    const uint64_t end = std::min(range.end, (first / span + 1) * span);
    Append(populated, {first, end});
    range.start = end;
  }
  return absl::OkStatus();
}

// The end when nothing is.
absl::StatusOr<uint64_t> PagemapScan::FirstPopulated(Range range) const {
  Pages pages;
  GODWIT_RETURN_IF_ERROR(Ask({.most_pages = 1}, range, pages));
  return pages.populated.empty() ? range.end : pages.populated.front().start;
}

absl::Status PagemapScan::Ask(const Question& question, Range range, Pages& pages) const {
  page_region regions[kRegions];
  pm_scan_arg argument{};
  argument.size = sizeof(argument);
  argument.flags = question.flags;
  argument.end = range.end;
  argument.vec = reinterpret_cast<uint64_t>(regions);
  argument.vec_len = kRegions;
  argument.max_pages = question.most_pages;
  argument.category_inverted = question.inverted;
  argument.category_mask = question.mask;
  argument.category_anyof_mask = question.any_of;
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
    if (question.most_pages != 0 && found > 0) break;
  }
  return absl::OkStatus();
}

}  // namespace godwit::memory
