// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/page_frame.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/memory/page_store.h"
#include "agent/memory/shared_key.h"
#include "agent/transfer/frame.h"
#include "agent/transfer/little_endian.h"
#include "base/status.h"

namespace godwit::transfer {
namespace {

constexpr size_t kRunBytes = 12;
constexpr uint64_t kZeroFlag = 1;  // in a run's address, whose low bits a page leaves free

uint8_t PageShift() { return static_cast<uint8_t>(std::countr_zero(memory::PageBytes())); }

absl::Status Broken(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the peer broke the stream's rules: ", what));
}

// A task's process id, an object's key, or 0.
bool IsTask(uint32_t number) {
  return number <= static_cast<uint32_t>(kMaxContainerPid) || number > memory::kSharedFlag;
}

// Takes numbers off the front of a payload.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : left_(bytes) {}
  bool Has(size_t bytes) const { return left_.size() >= bytes; }
  template <class T>
  T Take() {
    const T value = Load<T>(left_.data());
    left_.remove_prefix(sizeof(T));
    return value;
  }
  absl::string_view TakeBytes(size_t bytes) {
    const absl::string_view taken = left_.substr(0, bytes);
    left_.remove_prefix(bytes);
    return taken;
  }
  absl::string_view left() const { return left_; }

 private:
  absl::string_view left_;
};

// What both payloads begin with: u32 container_pid, u8 encoding, u8 page shift, u8 name's length, u8 0, u32
// count, u32 content bytes, then the name.
struct Start {
  pid_t container_pid = 0;
  uint8_t encoding = 0;
  uint32_t count = 0;
  uint32_t content_bytes = 0;
  absl::string_view container;
};
constexpr size_t kStartBytes = 16;

void AppendStart(std::string& to, const Start& start) {
  AppendNumber(to, static_cast<uint32_t>(start.container_pid));
  AppendNumber(to, start.encoding);
  AppendNumber(to, PageShift());
  AppendNumber(to, static_cast<uint8_t>(start.container.size()));
  AppendNumber(to, uint8_t{0});
  AppendNumber(to, start.count);
  AppendNumber(to, start.content_bytes);
  to.append(start.container.data(), start.container.size());
}

absl::StatusOr<Start> TakeStart(Reader& reader, size_t max_count) {
  if (!reader.Has(kStartBytes)) return Broken("a frame of pages without its first 16 bytes");
  Start start;
  const uint32_t pid = reader.Take<uint32_t>();
  start.encoding = reader.Take<uint8_t>();
  const uint8_t page_shift = reader.Take<uint8_t>();
  const uint8_t name_bytes = reader.Take<uint8_t>();
  const uint8_t reserved = reader.Take<uint8_t>();
  start.count = reader.Take<uint32_t>();
  start.content_bytes = reader.Take<uint32_t>();
  if (!IsTask(pid)) return Broken(absl::StrCat("task ", pid));
  if (reserved != 0) return Broken("a frame of pages with reserved bits set");
  if (page_shift != PageShift()) {
    return Broken(
        absl::StrFormat("pages of 2^%d bytes, where this node's have 2^%d", page_shift, PageShift()));
  }
  if (name_bytes == 0 || name_bytes > kMaxContainerName || !reader.Has(name_bytes)) {
    return Broken(absl::StrCat("a container name of ", name_bytes, " bytes"));
  }
  if (start.count > max_count) {
    return Broken(absl::StrCat(start.count, " entries in a frame of pages; at most ", max_count));
  }
  start.container_pid = static_cast<pid_t>(pid);
  start.container = reader.TakeBytes(name_bytes);
  return start;
}

void AppendRun(std::string& to, memory::Range range, uint64_t flags) {
  AppendNumber(to, range.start | flags);
  AppendNumber(to, static_cast<uint32_t>(range.bytes() / memory::PageBytes()));
}

// A run that begins at `from` or later and ends at `to` or before.
absl::StatusOr<PageRun> TakeRun(Reader& reader, uint64_t from, uint64_t to, uint64_t allowed_flags) {
  const uint64_t word = reader.Take<uint64_t>();
  const uint64_t bytes = reader.Take<uint32_t>() * memory::PageBytes();
  const uint64_t address = word & ~allowed_flags;
  if (address % memory::PageBytes() != 0) {
    return Broken(absl::StrFormat("the address 0x%x, which is no page's", address));
  }
  if (bytes == 0) return Broken("a run of no pages");
  if (address < from || address > to || bytes > to - address) {
    return Broken(
        absl::StrFormat("%d bytes at 0x%x, which are not between 0x%x and 0x%x", bytes, address, from, to));
  }
  return PageRun{{address, address + bytes}, (word & kZeroFlag) != 0};
}

absl::StatusOr<KeepPages> TakeTasks(Reader& reader, const Start& start) {
  KeepPages keep{.container = std::string(start.container)};
  if (reader.left().size() != start.count * sizeof(uint32_t))
    return Broken("a list of tasks of the wrong length");
  keep.tasks.reserve(start.count);
  for (uint32_t i = 0; i < start.count; ++i) {
    const uint32_t pid = reader.Take<uint32_t>();
    if (pid == 0 || !IsTask(pid)) return Broken(absl::StrCat("task ", pid));
    keep.tasks.push_back(static_cast<pid_t>(pid));
  }
  return keep;
}

// As many ranges as `start` counts, between `from` and `to`.
absl::StatusOr<memory::Ranges> TakeRanges(Reader& reader, const Start& start, uint64_t from, uint64_t to) {
  memory::Ranges ranges;
  for (uint32_t i = 0; i < start.count; ++i) {
    GODWIT_ASSIGN_OR_RETURN(PageRun run, TakeRun(reader, from, to, 0));
    memory::Append(ranges, run.range);
    from = run.range.end;
  }
  return ranges;
}

absl::StatusOr<KeepPages> TakeWindow(Reader& reader, const Start& start) {
  KeepPages keep{.container = std::string(start.container), .container_pid = start.container_pid};
  if (reader.left().size() != 2 * sizeof(uint64_t) + start.count * kRunBytes) {
    return Broken("a list of ranges of the wrong length");
  }
  keep.window.start = reader.Take<uint64_t>();
  keep.window.end = reader.Take<uint64_t>();
  const uint64_t page = memory::PageBytes();
  if (keep.window.start % page != 0 || keep.window.end % page != 0 || keep.window.start >= keep.window.end ||
      keep.window.end > memory::kAddressEnd) {
    return Broken(absl::StrFormat("a window from 0x%x to 0x%x", keep.window.start, keep.window.end));
  }
  GODWIT_ASSIGN_OR_RETURN(keep.ranges, TakeRanges(reader, start, keep.window.start, keep.window.end));
  return keep;
}

}  // namespace

std::string EncodePagesHead(const Pages& pages) {
  std::string head;
  head.reserve(kStartBytes + pages.container.size() + pages.runs.size() * kRunBytes);
  AppendStart(head, {.container_pid = pages.container_pid,
                     .encoding = static_cast<uint8_t>(pages.encoding),
                     .count = static_cast<uint32_t>(pages.runs.size()),
                     .content_bytes = static_cast<uint32_t>(pages.content_bytes),
                     .container = pages.container});
  for (const PageRun& run : pages.runs) AppendRun(head, run.range, run.zero ? kZeroFlag : 0);
  return head;
}

absl::StatusOr<Pages> DecodePages(absl::string_view payload) {
  Reader reader(payload);
  GODWIT_ASSIGN_OR_RETURN(Start start, TakeStart(reader, kMaxPagesRuns));
  if (start.container_pid == 0) return Broken("pages of task 0");
  if (start.encoding > static_cast<uint8_t>(Encoding::kZstd)) {
    return Broken(absl::StrCat("pages in the unknown encoding ", start.encoding));
  }
  if (start.content_bytes > kMaxDataBytes) return Broken("a PAGES frame of more than 1 MiB");
  if (!reader.Has(start.count * kRunBytes)) return Broken("a PAGES frame that ends within its runs");
  Pages pages{.container = std::string(start.container),
              .container_pid = start.container_pid,
              .encoding = static_cast<Encoding>(start.encoding),
              .content_bytes = start.content_bytes};
  pages.runs.reserve(start.count);
  uint64_t at = 0;
  uint64_t content = 0;
  for (uint32_t i = 0; i < start.count; ++i) {
    GODWIT_ASSIGN_OR_RETURN(PageRun run, TakeRun(reader, at, memory::kAddressEnd, kZeroFlag));
    at = run.range.end;
    if (!run.zero) content += run.range.bytes();
    pages.runs.push_back(run);
  }
  pages.encoded = reader.left();
  if (content != pages.content_bytes) {
    return Broken(
        absl::StrCat("runs of ", content, " bytes with ", pages.content_bytes, " bytes of content"));
  }
  if (pages.encoding == Encoding::kRaw && pages.encoded.size() != content) {
    return Broken(absl::StrCat("runs of ", content, " bytes, and ", pages.encoded.size(), " bytes follow"));
  }
  return pages;
}

std::string EncodeKeepPages(const KeepPages& keep) {
  const bool lists_tasks = keep.container_pid == 0;
  std::string payload;
  AppendStart(payload, {.container_pid = keep.container_pid,
                        .count = static_cast<uint32_t>(lists_tasks ? keep.tasks.size() : keep.ranges.size()),
                        .container = keep.container});
  if (lists_tasks) {
    for (const pid_t task : keep.tasks) AppendNumber(payload, static_cast<uint32_t>(task));
    return payload;
  }
  AppendNumber(payload, keep.window.start);
  AppendNumber(payload, keep.window.end);
  for (const memory::Range& range : keep.ranges) AppendRun(payload, range, 0);
  return payload;
}

absl::StatusOr<KeepPages> DecodeKeepPages(absl::string_view payload) {
  Reader reader(payload);
  GODWIT_ASSIGN_OR_RETURN(Start start,
                          TakeStart(reader, std::max(kMaxKeptRanges, memory::PageStore::kMaxTasks)));
  if (start.encoding != 0 || start.content_bytes != 0) return Broken("a KEEP_PAGES frame with content");
  return start.container_pid == 0 ? TakeTasks(reader, start) : TakeWindow(reader, start);
}

std::string EncodeTaskRanges(const TaskRanges& task) {
  std::string payload;
  payload.reserve(kStartBytes + task.container.size() + task.ranges.size() * kRunBytes);
  AppendStart(payload, {.container_pid = task.container_pid,
                        .count = static_cast<uint32_t>(task.ranges.size()),
                        .container = task.container});
  for (const memory::Range& range : task.ranges) AppendRun(payload, range, 0);
  return payload;
}

absl::StatusOr<TaskRanges> DecodeTaskRanges(absl::string_view payload) {
  Reader reader(payload);
  GODWIT_ASSIGN_OR_RETURN(Start start, TakeStart(reader, kMaxKeptRanges));
  if (start.container_pid <= 0)
    return Broken(absl::StrCat("missing pages of task ", static_cast<uint32_t>(start.container_pid)));
  if (start.encoding != 0 || start.content_bytes != 0) return Broken("a list of missing pages with content");
  if (reader.left().size() != start.count * kRunBytes) {
    return Broken("a list of missing pages of the wrong length");
  }
  TaskRanges task{.container = std::string(start.container), .container_pid = start.container_pid};
  GODWIT_ASSIGN_OR_RETURN(task.ranges, TakeRanges(reader, start, 0, memory::kAddressEnd));
  return task;
}

std::vector<std::string> EncodeMissing(const TaskRanges& task) {
  std::vector<std::string> payloads;
  TaskRanges part{.container = task.container, .container_pid = task.container_pid};
  const auto end = [&] {
    payloads.push_back(EncodeTaskRanges(part));
    part.ranges.clear();
  };
  for (memory::Range left : task.ranges) {
    while (left.start < left.end) {
      if (part.ranges.size() == kMaxKeptRanges) end();
      part.ranges.push_back({left.start, std::min(left.end, left.start + kMaxRunBytes)});
      left.start = part.ranges.back().end;
    }
  }
  if (!part.ranges.empty()) end();
  return payloads;
}

}  // namespace godwit::transfer
