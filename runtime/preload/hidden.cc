// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/hidden.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/preload/settings.h"
#include "runtime/preload/text.h"

namespace godwit::preload {
namespace {

constexpr uint64_t kPageIsPresent = 1u << 3;

const HiddenRange* hidden = nullptr;  // by task and address; mapped, never freed
size_t hidden_count = 0;
dev_t shared_device = 0;

long AskKernel(int fd, PagemapScan* scan) { return syscall(SYS_ioctl, fd, kPagemapScan, scan); }

// The first range of `pid` that ends behind `address`, or one behind all of its ranges.
const HiddenRange* FirstBehind(const HiddenRange* ranges, size_t count, uint64_t pid, uint64_t address) {
  while (count > 0) {
    const size_t half = count / 2;
    const HiddenRange& middle = ranges[half];
    if (middle.pid < pid || (middle.pid == pid && middle.end <= address)) {
      ranges += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return ranges;
}

// Without PAGEMAP_SCAN CRIU reads the whole pagemap file, from which nothing can be hidden.
bool KernelCanScan() {
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  PagemapScan nothing{};
  nothing.size = sizeof(nothing);
  const bool can = fd >= 0 && AskKernel(fd, &nothing) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  return can || Refuse("cannot hide pages from CRIU: this kernel has no PAGEMAP_SCAN (6.7 and newer have)",
                       "", error);
}

bool ParseMapped(const Text& text, const char* path) {
  const size_t lines = CountLines(text.bytes, text.size);
  const size_t bytes = (lines + 1) * sizeof(HiddenRange);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Refuse("cannot map memory for the hidden pages of", path, errno);
  auto* ranges = static_cast<HiddenRange*>(memory);
  const ssize_t count = ParseHidden(text.bytes, text.size, ranges, lines);
  if (count < 0) return Refuse("the file of hidden pages is broken:", path, 0);
  hidden = ranges;
  hidden_count = static_cast<size_t>(count);
  return true;
}

// The file system of all shared memory that has no name. False: an object could not be told from a file.
bool FindSharedDevice() {
  const int fd = static_cast<int>(syscall(SYS_memfd_create, "godwit", MFD_CLOEXEC));
  struct stat status{};
  const bool found = fd >= 0 && fstat(fd, &status) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!found) return Refuse("cannot hide shared memory from CRIU: it cannot be made", "", error);
  shared_device = status.st_dev;
  return true;
}

}  // namespace

ssize_t ParseHidden(const char* text, size_t size, HiddenRange* ranges, size_t capacity) {
  const char* at = text;
  const char* const end = text + size;
  size_t count = 0;
  while (at < end) {
    HiddenRange range{};
    if (!Number(at, end, 10, &range.pid) || !Skip(at, end, ' ') || !Number(at, end, 16, &range.start) ||
        !Skip(at, end, '-') || !Number(at, end, 16, &range.end) || !Skip(at, end, '\n'))
      return -1;
    if (count == capacity || range.start >= range.end) return -1;
    if (count > 0) {
      const HiddenRange& last = ranges[count - 1];
      if (range.pid < last.pid || (range.pid == last.pid && range.start < last.end)) return -1;
    }
    ranges[count++] = range;
  }
  return static_cast<ssize_t>(count);
}

uint64_t TaskOfPagemap(const char* path) {
  const size_t length = strlen(path), tail = strlen("/pagemap");
  if (length <= tail || strcmp(path + length - tail, "/pagemap") != 0) return 0;
  const char* const end = path + length - tail;
  const char* at = end;
  while (at > path && at[-1] != '/') --at;
  uint64_t pid = 0;
  return Number(at, end, 10, &pid) && at == end ? pid : 0;
}

long ScanAround(const HiddenRange* ranges, size_t count, uint64_t pid, int fd, PagemapScan* scan,
                KernelScan kernel) {
  if ((scan->category_anyof_mask & kPageIsPresent) == 0) return kernel(fd, scan);
  const HiddenRange* const last = ranges + count;
  const HiddenRange* next = FirstBehind(ranges, count, pid, scan->start);
  if (next == last || next->pid != pid || next->start >= scan->end) return kernel(fd, scan);
  uint64_t found = 0, at = scan->start;
  while (at < scan->end && found < scan->vec_len) {
    const bool more = next < last && next->pid == pid && next->start < scan->end;
    if (more && next->start <= at) {
      at = next->end;
      ++next;
      continue;
    }
    PagemapScan part = *scan;
    part.start = at;
    part.end = more ? next->start : scan->end;
    part.vec = scan->vec + found * sizeof(PageRegion);
    part.vec_len = scan->vec_len - found;
    const long got = kernel(fd, &part);
    if (got < 0) return got;
    found += static_cast<uint64_t>(got);
    at = part.walk_end;
    if (at < part.end) break;  // no room for more
  }
  scan->walk_end = at < scan->end ? at : scan->end;
  return static_cast<long>(found);
}

bool LoadHidden(const char* path) {
  if (!KernelCanScan()) return false;
  Text text;
  if (!MapText(path, "hidden pages", &text)) return false;
  if (text.size == 0) return true;
  const bool parsed = ParseMapped(text, path);
  UnmapText(text);
  return parsed && (hidden[0].pid != 0 || FindSharedDevice());
}

bool HoldsNoData(const HiddenRange* ranges, size_t count, uint64_t inode) {
  const HiddenRange* const found = FirstBehind(ranges, count, 0, inode);
  return found < ranges + count && found->pid == 0 && found->start <= inode;
}

bool HidesObject(int fd) {
  if (hidden_count == 0 || hidden[0].pid != 0) return false;
  struct stat status{};
  return fstat(fd, &status) == 0 && status.st_dev == shared_device &&
         HoldsNoData(hidden, hidden_count, status.st_ino);
}

long ScanVisible(int fd, PagemapScan* scan) {
  if (hidden_count == 0) return AskKernel(fd, scan);
  // Descriptors are used anew: asked each time whose this one is.
  char name[32], path[kMaxPath];
  snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(name, path, sizeof(path) - 1);
  path[size < 0 ? 0 : size] = '\0';
  const uint64_t pid = TaskOfPagemap(path);
  if (pid == 0) {
    Say("CRIU scans a pagemap of which it cannot be told whose it is:", path, 0);
    errno = ECANCELED;
    return -1;
  }
  return ScanAround(hidden, hidden_count, pid, fd, scan, AskKernel);
}

}  // namespace godwit::preload
