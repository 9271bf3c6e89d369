// SPDX-License-Identifier: Apache-2.0
// Memory that CRIU is not to dump: its scans of a task's page tables (PAGEMAP_SCAN, kernel >= 6.7,
// Documentation/admin-guide/mm/pagemap.rst; CRIU 4.2: criu/pagemap-cache.c) find no page there.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

namespace godwit::preload {

// struct pm_scan_arg and PAGEMAP_SCAN; the kernel headers at hand may be older than they are.
struct PagemapScan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct PageRegion {
  uint64_t start, end, categories;
};
inline constexpr unsigned long kPagemapScan = (3UL << 30) | (sizeof(PagemapScan) << 16) | ('f' << 8) | 16;

// Addresses in a task's memory; of pid 0, which is none: inode numbers of objects of shared memory.
struct HiddenRange {
  uint64_t pid, start, end;
};

// The lines of kHiddenPagesVariable's file (agent/criu/criu_environment.h). Returns how many there are, or -1
// when they are not as they should be, or more than `capacity`.
ssize_t ParseHidden(const char* text, size_t size, HiddenRange* ranges, size_t capacity);

// The task of "/proc/PID/pagemap", or 0.
uint64_t TaskOfPagemap(const char* path);

using KernelScan = long (*)(int fd, PagemapScan* scan);  // as ioctl(2)

// What the kernel would answer if task `pid` had no page in its hidden ranges. Only for scans for content:
// CRIU looks for guard regions (MADV_GUARD_INSTALL) by the same call, and must find them.
long ScanAround(const HiddenRange* ranges, size_t count, uint64_t pid, int fd, PagemapScan* scan,
                KernelScan kernel);

// Whether the object with this inode number is hidden. CRIU dumps such memory by object and asks for its
// pages by SEEK_DATA (CRIU 4.2: criu/shmem.c, next_data_segment).
bool HoldsNoData(const HiddenRange* ranges, size_t count, uint64_t inode);

// Reads the file. False: the dump must not go on; the messages file has the reason.
bool LoadHidden(const char* path);
// PAGEMAP_SCAN of a descriptor, as it is after LoadHidden.
long ScanVisible(int fd, PagemapScan* scan);
// Whether this is a descriptor of an object of shared memory that is hidden, after LoadHidden.
bool HidesObject(int fd);

}  // namespace godwit::preload
