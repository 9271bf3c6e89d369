// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/page_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace godwit::checkpoint {
namespace {

using memory::PageBytes;
using memory::Range;
using memory::Ranges;

// So much is on its way to the disk while as much again is written. More would only fill the page cache,
// until the kernel makes all who write wait, and CRIU writes in the freeze.
constexpr uint64_t kWindow = uint64_t{32} << 20;

bool IsZero(const char* page) { return page[0] == 0 && memcmp(page, page + 1, PageBytes() - 1) == 0; }

off_t OffsetOf(uint32_t place) { return static_cast<off_t>(place * PageBytes()); }

}  // namespace

absl::StatusOr<std::unique_ptr<PageFile>> PageFile::Make(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/pages");
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  if (unlink(path.c_str()) != 0) return ErrnoStatus(absl::StrCat("cannot take the name from ", path));
  return std::unique_ptr<PageFile>(new PageFile(std::move(file)));
}

absl::StatusOr<PageFile::Place> PageFile::NewPlace() {
  if (!free_.empty()) {
    const Place place = free_.back();
    free_.pop_back();
    return place;
  }
  if (end_ == std::numeric_limits<Place>::max())
    return absl::ResourceExhaustedError("more memory than one file can hold");
  return end_++;
}

void PageFile::Free(Place place) {
  if (place >= kFirst) free_.push_back(place);
}

absl::Status PageFile::Write(pid_t task, uint64_t address, absl::string_view bytes) {
  Task& pages = tasks_[task];
  const uint64_t page_bytes = PageBytes();
  uint64_t number = std::numeric_limits<uint64_t>::max();
  Chunk* chunk = nullptr;
  Place first = 0;  // of the run that is not written yet
  const char* from = bytes.data();
  size_t run = 0;  // its bytes
  for (size_t at = 0; at < bytes.size(); at += page_bytes) {
    const uint64_t page = (address + at) / page_bytes;
    if (page / kChunkPages != number) {
      number = page / kChunkPages;
      std::unique_ptr<Chunk>& place = pages[number];
      if (place == nullptr) place = std::make_unique<Chunk>();
      chunk = place.get();
    }
    Place& place = (*chunk)[page % kChunkPages];
    const bool zeros = IsZero(bytes.data() + at);
    if (zeros) {
      Free(std::exchange(place, kZeros));
    } else if (place < kFirst) {
      GODWIT_ASSIGN_OR_RETURN(place, NewPlace());
    }
    if (!zeros && run > 0 && place == first + run / page_bytes) {
      run += page_bytes;
      continue;
    }
    GODWIT_RETURN_IF_ERROR(WriteRun(first, {from, run}));
    first = place;
    from = bytes.data() + at;
    run = zeros ? 0 : page_bytes;
  }
  return WriteRun(first, {from, run});
}

absl::Status PageFile::WriteRun(Place first, absl::string_view bytes) {
  off_t offset = OffsetOf(first);
  unsynced_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file_.get(), bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return ErrnoStatus("cannot write the pod's memory to the disk");
    offset += written;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  if (unsynced_ < kWindow) return absl::OkStatus();
  unsynced_ = 0;
  if (sync_file_range(file_.get(), 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE) != 0)
    return ErrnoStatus("cannot write the pod's memory to the disk");
  return absl::OkStatus();
}

void PageFile::Forget(pid_t task, Range range) {
  const auto pages = tasks_.find(task);
  if (pages == tasks_.end()) return;
  const uint64_t first = range.start / PageBytes(), end = range.end / PageBytes();
  for (auto at = pages->second.lower_bound(first / kChunkPages);
       at != pages->second.end() && at->first * kChunkPages < end; ++at) {
    const uint64_t chunk_first = at->first * kChunkPages;
    for (uint64_t page = std::max(first, chunk_first); page < std::min(end, chunk_first + kChunkPages);
         ++page)
      Free(std::exchange((*at->second)[page - chunk_first], kUnknown));
  }
}

void PageFile::KeepTasks(const std::vector<pid_t>& tasks) {
  std::erase_if(tasks_, [&](const auto& entry) {
    if (std::binary_search(tasks.begin(), tasks.end(), entry.first)) return false;
    for (const auto& [number, chunk] : entry.second) {
      for (const Place place : *chunk) Free(place);
    }
    return true;
  });
}

absl::Status PageFile::Sync() {
  unsynced_ = 0;
  if (fdatasync(file_.get()) != 0) return ErrnoStatus("cannot write the pod's memory to the disk");
  return absl::OkStatus();
}

PageFile::Place PageFile::Find(const Task& task, uint64_t page) const {
  const auto chunk = task.find(page / kChunkPages);
  return chunk == task.end() ? kUnknown : (*chunk->second)[page % kChunkPages];
}

absl::StatusOr<Ranges> PageFile::WithContent(pid_t task, const Ranges& pages) const {
  static const Task kNone;
  const auto found = tasks_.find(task);
  const Task& known = found == tasks_.end() ? kNone : found->second;
  Ranges content;
  for (const Range& range : pages) {
    for (uint64_t at = range.start; at < range.end; at += PageBytes()) {
      const Place place = Find(known, at / PageBytes());
      if (place == kUnknown) {
        return absl::DataLossError(
            absl::StrFormat("memory of process %d at 0x%x could not be read while it ran", task, at));
      }
      if (place != kZeros) memory::Append(content, {at, at + PageBytes()});
    }
  }
  return content;
}

absl::Status PageFile::Take(pid_t task, uint64_t address, char* to, size_t size) {
  const auto found = tasks_.find(task);
  for (const uint64_t end = address + size; address < end;) {
    const Place first = found == tasks_.end() ? kUnknown : Find(found->second, address / PageBytes());
    if (first < kFirst) {
      return absl::InternalError(
          absl::StrFormat("no content of process %d at 0x%x lies on the disk", task, address));
    }
    size_t run = PageBytes();
    while (address + run < end &&
           Find(found->second, (address + run) / PageBytes()) == first + run / PageBytes())
      run += PageBytes();
    for (size_t at = 0; at < run;) {
      const ssize_t got = pread(file_.get(), to + at, run - at, OffsetOf(first) + static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return ErrnoStatus(got == 0 ? EIO : errno, "cannot read the pod's memory from the disk");
      at += static_cast<size_t>(got);
    }
    // Of use where it works; where it does not, the room comes back with the file's end.
    fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, OffsetOf(first),
              static_cast<off_t>(run));
    Forget(task, {address, address + run});
    address += run;
    to += run;
  }
  return absl::OkStatus();
}

uint64_t PageFile::bytes() const { return (end_ - kFirst - free_.size()) * PageBytes(); }

}  // namespace godwit::checkpoint
