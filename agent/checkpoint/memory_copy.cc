// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/memory_copy.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::checkpoint {
namespace {

using memory::PageBytes;
using memory::Range;
using memory::Ranges;

constexpr size_t kReadBytes = size_t{256} << 10;
// The least that stays free on the disk beside the pages, for CRIU's own images.
constexpr int64_t kSpareBytes = int64_t{64} << 20;

std::string Of(const MemoryCopy::Container& container) { return absl::StrCat("container ", container.name); }

}  // namespace

MemoryCopy::MemoryCopy(std::vector<Container> containers, const migration::MemoryNode& node,
                       std::string folder, int64_t reserve, const std::atomic<bool>& stop)
    : node_(node),
      folder_(std::move(folder)),
      reserve_(std::max(reserve, kSpareBytes)),
      stop_(stop),
      buffer_(std::make_unique_for_overwrite<char[]>(kReadBytes)) {
  for (Container& container : containers) parts_.push_back({.container = std::move(container)});
}

absl::Status MemoryCopy::Attach() {
  const auto attach = [this]() -> absl::Status {
    for (Part& part : parts_) {
      absl::StatusOr<std::unique_ptr<migration::TrackedMemory>> memory = node_.track(part.container.cgroup);
      if (!memory.ok()) return Annotate(memory.status(), Of(part.container));
      part.memory = *std::move(memory);
    }
    return CheckPinned();
  };
  absl::Status status = attach();
  if (!status.ok()) Detach();
  return status;
}

void MemoryCopy::Detach() {
  for (Part& part : parts_) part.memory.reset();
}

absl::Status MemoryCopy::CheckPinned() const {
  for (const Part& part : parts_)
    GODWIT_RETURN_IF_ERROR(migration::CheckPinned(part.memory.get(), part.container.name));
  return absl::OkStatus();
}

absl::Status MemoryCopy::Stopped() const {
  return stop_ ? absl::CancelledError("the checkpoint is not wanted any more") : absl::OkStatus();
}

absl::StatusOr<int64_t> MemoryCopy::CopyRound() {
  if (file_ == nullptr) {
    GODWIT_ASSIGN_OR_RETURN(file_, PageFile::Make(folder_));
  }
  std::vector<memory::Look> looks;
  std::vector<pid_t> tasks;
  int64_t dirty = 0;
  for (Part& part : parts_) {
    // As a migration does (PreCopy::Round): a descriptor that was there before the look, or is there after
    // it.
    GODWIT_RETURN_IF_ERROR(migration::CheckPinned(part.memory.get(), part.container.name));
    absl::StatusOr<memory::Look> look = part.memory->Round();
    if (!look.ok()) return Annotate(look.status(), Of(part.container));
    GODWIT_RETURN_IF_ERROR(migration::CheckPinned(part.memory.get(), part.container.name));
    dirty += static_cast<int64_t>(look->dirty_bytes());
    for (const memory::TaskPages& task : look->tasks) tasks.push_back(task.pid);
    looks.push_back(*std::move(look));
  }
  std::sort(tasks.begin(), tasks.end());
  file_->KeepTasks(tasks);
  GODWIT_RETURN_IF_ERROR(CheckRoom(dirty));
  for (const memory::Look& look : looks) {
    for (const memory::TaskPages& task : look.tasks) {
      const auto keep = [this, &task](uint64_t address, absl::string_view bytes) {
        return file_->Write(task.pid, address, bytes);
      };
      GODWIT_RETURN_IF_ERROR(Copy(task, keep, /*standing=*/false));
    }
  }
  GODWIT_RETURN_IF_ERROR(file_->Sync());
  return dirty;
}

// What was copied before has its place already, and zeros need none: the bound is coarse, and only the first
// round comes near it.
absl::Status MemoryCopy::CheckRoom(int64_t bytes) const {
  GODWIT_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(folder_));
  const int64_t held = static_cast<int64_t>(file_->bytes());
  if (free + held >= bytes + reserve_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "the disk of %s has %d MiB free, of which %d stay free, and the pod's memory takes %d MiB: make "
      "room, or checkpoint it elsewhere",
      folder_, (free + held) >> 20, reserve_ >> 20, bytes >> 20));
}

// A running task's pages may go while they are looked at: what can not be read is not there any more, or is
// found written in the next look. In one that stands still, everything reported can be read.
absl::Status MemoryCopy::Copy(const memory::TaskPages& task, Keep keep, bool standing) {
  for (const Range& range : task.dirty) {
    for (uint64_t at = range.start; at < range.end;) {
      GODWIT_RETURN_IF_ERROR(Stopped());
      absl::StatusOr<size_t> got =
          node_.read(task.pid, at, buffer_.get(), std::min<uint64_t>(range.end - at, kReadBytes));
      if (absl::IsNotFound(got.status()) && !standing) return absl::OkStatus();
      GODWIT_RETURN_IF_ERROR(got.status());
      *got -= *got % PageBytes();
      if (*got == 0 && standing) {
        return absl::DataLossError(
            absl::StrFormat("memory of process %d at 0x%x cannot be read", task.pid, at));
      }
      if (*got == 0) {
        file_->Forget(task.pid, {at, at + PageBytes()});
        at += PageBytes();
        continue;
      }
      GODWIT_RETURN_IF_ERROR(keep(at, {buffer_.get(), *got}));
      at += *got;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> MemoryCopy::LookOwned(size_t container) {
  Part& part = parts_[container];
  absl::StatusOr<memory::Look> look = part.memory->Owned();
  if (!look.ok()) return Annotate(look.status(), Of(part.container));
  for (memory::TaskPages& task : look->tasks) part.owned[task.pid] = std::move(task.owned);
  std::string hidden;
  for (const auto& [pid, owned] : part.owned) {
    for (const Range& range : owned)
      absl::StrAppendFormat(&hidden, "%d %x-%x\n", pid, range.start, range.end);
  }
  return hidden;
}

absl::Status MemoryCopy::CopyLast(size_t container) {
  Part& part = parts_[container];
  absl::StatusOr<memory::Look> look = part.memory->Last();
  if (!look.ok()) return Annotate(look.status(), Of(part.container));
  GODWIT_RETURN_IF_ERROR(Annotate(memory::CheckNoneEnded(*look, part.owned), Of(part.container)));
  for (memory::TaskPages& task : look->tasks) {
    // CRIU works in the tasks meanwhile: what it may have mapped is not theirs.
    const Ranges& owned = part.owned[task.pid];
    task.dirty = memory::Intersection(task.dirty, owned);
    const auto keep = [this, &task](uint64_t address, absl::string_view bytes) -> absl::Status {
      absl::Status kept = last_->Write(task.pid, address, bytes);
      if (!absl::IsResourceExhausted(kept)) return kept;
      return file_->Write(task.pid, address, bytes);
    };
    GODWIT_RETURN_IF_ERROR(Copy(task, keep, /*standing=*/true));
    part.tasks[task.container_pid] = {.pid = task.pid,
                                      .populated = memory::Intersection(task.populated, owned)};
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<pid_t, Ranges>> MemoryCopy::Lacking(size_t container) {
  std::map<pid_t, Ranges> lacking;
  for (auto& [container_pid, task] : parts_[container].tasks) {
    task.last = memory::Intersection(last_->Held(task.pid), task.populated);
    if (!task.last.empty()) {
      GODWIT_ASSIGN_OR_RETURN(task.last_file, last_->FileOf(task.pid));
    }
    absl::StatusOr<Ranges> earlier =
        file_->WithContent(task.pid, memory::Difference(task.populated, task.last));
    if (!earlier.ok()) return Annotate(earlier.status(), Of(parts_[container].container));
    Ranges pages = memory::Union(task.last, *earlier);
    if (!pages.empty()) lacking[container_pid] = std::move(pages);
  }
  return lacking;
}

absl::Status MemoryCopy::Take(size_t container, pid_t container_pid, uint64_t address, char* to,
                              size_t size) {
  GODWIT_RETURN_IF_ERROR(Stopped());
  const Task& task = parts_[container].tasks.at(container_pid);
  for (const uint64_t end = address + size; address < end;) {
    const auto next = std::partition_point(task.last.begin(), task.last.end(),
                                           [address](const Range& range) { return range.end <= address; });
    const bool in_memory = next != task.last.end() && next->start <= address;
    const uint64_t until = next == task.last.end() ? end : in_memory ? next->end : next->start;
    const size_t piece = std::min(end, until) - address;
    if (in_memory) {
      for (size_t at = 0; at < piece;) {
        const ssize_t got =
            pread(task.last_file.get(), to + at, piece - at, static_cast<off_t>(address + at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return ErrnoStatus(got == 0 ? EIO : errno, "cannot read the pod's last pages");
        at += static_cast<size_t>(got);
      }
      GODWIT_RETURN_IF_ERROR(last_->Zero(task.pid, {address, address + piece}));
    } else {
      GODWIT_RETURN_IF_ERROR(file_->Take(task.pid, address, to, piece));
    }
    address += piece;
    to += piece;
  }
  return absl::OkStatus();
}

}  // namespace godwit::checkpoint
