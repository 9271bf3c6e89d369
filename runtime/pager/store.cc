// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace godwit::pager {
namespace {

constexpr uint64_t kWindow = uint64_t{4} << 20;

std::string At(const char* what, uint64_t offset) {
  return absl::StrCat("cannot ", what, " the page store at ", absl::StrFormat("%x", offset));
}

}  // namespace

absl::StatusOr<std::optional<uint64_t>> Store::NextHeld(uint64_t offset) const {
  if (fd_ < 0) return std::nullopt;
  const off_t held = lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (held < 0 && errno == ENXIO) return std::nullopt;
  if (held < 0) return ErrnoStatus(At("search", offset));
  return static_cast<uint64_t>(held);
}

absl::StatusOr<std::optional<memory::Range>> Store::NextRun(uint64_t offset) const {
  GODWIT_ASSIGN_OR_RETURN(const std::optional<uint64_t> start, NextHeld(offset));
  if (!start.has_value()) return std::nullopt;
  const off_t end = lseek(fd_, static_cast<off_t>(*start), SEEK_HOLE);
  if (end < 0) return ErrnoStatus(At("search", offset));
  return memory::Range{*start, static_cast<uint64_t>(end)};
}

absl::Status Store::ReadAt(uint64_t offset, char* data, size_t bytes) const {
  while (bytes > 0 && fd_ >= 0) {
    const ssize_t n = pread(fd_, data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(At("read", offset));
    if (n == 0) break;
    offset += static_cast<uint64_t>(n);
    data += n;
    bytes -= static_cast<size_t>(n);
  }
  memset(data, 0, bytes);
  return absl::OkStatus();
}

absl::StatusOr<const char*> Store::Map(memory::Range offsets) {
  if (window_ == nullptr || offsets.start < window_offsets_.start || offsets.end > window_offsets_.end) {
    Unmap();
    const uint64_t bytes = std::max(offsets.bytes(), kWindow);
    void* window = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd_, static_cast<off_t>(offsets.start));
    if (window == MAP_FAILED) return ErrnoStatus(At("map", offsets.start));
    madvise(window, bytes, MADV_SEQUENTIAL);  // or the kernel takes the pages for ones worth keeping
    window_ = static_cast<char*>(window);
    window_offsets_ = {offsets.start, offsets.start + bytes};
  }
  return window_ + (offsets.start - window_offsets_.start);
}

void Store::Unmap() {
  if (window_ != nullptr) munmap(window_, window_offsets_.bytes());
  window_ = nullptr;
}

absl::Status Store::Punch(memory::Range offsets) const {
  if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offsets.start),
                static_cast<off_t>(offsets.bytes())) != 0) {
    return ErrnoStatus(At("empty", offsets.start));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Store::HeldBytes() const {
  if (fd_ < 0) return 0;
  struct stat info;
  if (fstat(fd_, &info) != 0) return ErrnoStatus("cannot look at a page store");
  return static_cast<int64_t>(info.st_blocks) * 512;
}

}  // namespace godwit::pager
