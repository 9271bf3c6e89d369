// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/pagemap.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/criu/images.h"
#include "agent/criu/protobuf.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::criu {
namespace {

using memory::Range;
using memory::Ranges;

constexpr uint64_t kAddressLimit = uint64_t{1} << 57;  // of user space, with five levels of page tables
constexpr size_t kMaxPagemap = size_t{16} << 20;
constexpr size_t kPieceBytes = size_t{1} << 20;

// mmap(2) flags and CRIU's own status bits of a mapping (criu/include/image.h).
constexpr uint64_t kPrivate = 0x02, kDroppable = 0x08, kAnonymous = 0x20, kLocked = 0x2000;
constexpr uint64_t kHugeTlb = 0x40000;
constexpr uint64_t kWipeOnFork =
    1u << 18;  // of madv (criu/proc_parse.c, parse_vmflags): 1 << MADV_WIPEONFORK
constexpr uint64_t kVsyscall = 1u << 2, kVdso = 1u << 3, kVvar = 1u << 12, kGuard = 1u << 16;

absl::Status Broken(const std::string& name, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is no sound CRIU image: ", why));
}

std::string Text(Range range) { return absl::StrFormat("%x-%x", range.start, range.end); }

bool WholePages(Range range) {
  return range.start < range.end && range.end <= kAddressLimit && range.start % memory::PageBytes() == 0 &&
         range.end % memory::PageBytes() == 0;
}

// pagemap_entry: vaddr = 1, compat_nr_pages = 2, in_parent = 3, flags = 4, nr_pages = 5. Files older than
// nr_pages (CRIU before 4.2) have the number in the second field, files older than flags have none.
absl::StatusOr<PagemapEntry> ParseEntry(absl::string_view record, const std::string& name) {
  uint64_t address = 0, compat_pages = 0, pages = 0;
  bool has_flags = false, has_pages = false;
  PagemapEntry entry;
  ProtobufFields fields(record);
  while (fields.Next()) {
    switch (fields.number()) {
      case 1: address = fields.value(); break;
      case 2: compat_pages = fields.value(); break;
      case 3: entry.flags |= fields.value() != 0 ? kInParent : 0; break;
      case 4:
        entry.flags |= static_cast<uint32_t>(fields.value());
        has_flags = true;
        break;
      case 5:
        pages = fields.value();
        has_pages = true;
        break;
      default: break;
    }
  }
  if (!fields.ok()) return Broken(name, "a record is not a pagemap_entry");
  if (!has_pages) pages = compat_pages;
  if (!has_flags && entry.flags == 0) entry.flags = kPresent;
  if (pages > kAddressLimit / memory::PageBytes() || address > kAddressLimit)
    return Broken(name, "an entry is beyond the address space");
  entry.range = {address, address + pages * memory::PageBytes()};
  if (!WholePages(entry.range)) return Broken(name, "an entry is not of whole pages");
  return entry;
}

void AppendVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void AppendU32(std::string& out, uint32_t value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));  // little endian, as images.cc
}

void AppendField(std::string& out, uint32_t number, uint64_t value) {
  AppendVarint(out, number << 3);
  AppendVarint(out, value);
}

void AppendRecord(std::string& out, const std::string& record) {
  AppendU32(out, static_cast<uint32_t>(record.size()));
  out += record;
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) return ErrnoStatus(absl::StrCat("cannot rename ", from));
  return absl::OkStatus();
}

// Replaces `path`, for a reader on this machine that comes later: the disk is not waited for.
absl::Status Replace(const std::string& path, absl::string_view content) {
  const std::string fresh = absl::StrCat(path, ".new");
  {
    GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
    GODWIT_RETURN_IF_ERROR(WriteAll(file.get(), content, fresh));
  }
  return Rename(fresh, path);
}

absl::StatusOr<std::string> ReadTaskImage(const std::string& path) {
  absl::StatusOr<std::string> bytes = ReadFile(path, kMaxPagemap);
  if (absl::IsNotFound(bytes.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is missing: CRIU has not dumped the memory of this task"));
  }
  return bytes;
}

// The images of one task, checked, and the pages that are to come in.
struct TaskImages {
  std::string pagemap_path;
  std::string pages_path;
  Pagemap pagemap;
  Ranges pages;
  Ranges wiped;  // of the mappings that children find empty
};

absl::StatusOr<TaskImages> ReadTask(const std::string& folder, pid_t task, const Ranges& pages) {
  TaskImages images;
  images.pagemap_path = absl::StrCat(folder, "/pagemap-", task, ".img");
  GODWIT_ASSIGN_OR_RETURN(const std::string bytes, ReadTaskImage(images.pagemap_path));
  GODWIT_ASSIGN_OR_RETURN(images.pagemap, ParsePagemap(bytes, images.pagemap_path));
  images.pages_path = absl::StrCat(folder, "/pages-", images.pagemap.pages_id, ".img");

  uint64_t stored = 0;
  for (const PagemapEntry& entry : images.pagemap.entries) {
    if ((entry.flags & kInParent) != 0 || (entry.flags & kPresent) == 0) {
      return Broken(images.pagemap_path,
                    absl::StrCat("its pages ", Text(entry.range), " are not in this folder"));
    }
    stored += entry.range.bytes();
  }
  // CRIU reads a file that is too short for ever.
  struct stat status{};
  if (lstat(images.pages_path.c_str(), &status) != 0)
    return ErrnoStatus(absl::StrCat("cannot look at ", images.pages_path));
  if (!S_ISREG(status.st_mode) || static_cast<uint64_t>(status.st_size) != stored) {
    return Broken(images.pages_path, absl::StrCat("it has ", status.st_size, " bytes, ", images.pagemap_path,
                                                  " speaks of ", stored));
  }

  const std::string mm_path = absl::StrCat(folder, "/mm-", task, ".img");
  GODWIT_ASSIGN_OR_RETURN(const std::string mm, ReadTaskImage(mm_path));
  GODWIT_ASSIGN_OR_RETURN(const Mappings mappings, ParseMappings(mm, mm_path));
  for (size_t i = 0; i < pages.size(); ++i) {
    if (!WholePages(pages[i]) || (i > 0 && pages[i].start < pages[i - 1].end))
      return absl::InvalidArgumentError(
          absl::StrCat("pages ", Text(pages[i]), " of task ", task, " are not whole, or not in order"));
  }
  images.pages = memory::Difference(pages, mappings.droppable);
  images.wiped = mappings.wiped;
  if (const Ranges outside = memory::Difference(images.pages, mappings.lazy); !outside.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("pages ", Text(outside[0]), " of task ", task,
                                                   " are in no private anonymous mapping of ", mm_path));
  }
  return images;
}

// The images' entries and those of `pages` as one list. InvalidArgument where they overlap.
absl::StatusOr<std::vector<PagemapEntry>> Merge(const TaskImages& images, const Ranges& pages,
                                                uint32_t flags) {
  const std::vector<PagemapEntry>& had = images.pagemap.entries;
  std::vector<PagemapEntry> all;
  all.reserve(had.size() + pages.size());
  size_t at = 0;
  for (const Range& range : pages) {
    while (at < had.size() && had[at].range.start < range.start) all.push_back(had[at++]);
    const bool before = !all.empty() && all.back().range.end > range.start;
    if (before || (at < had.size() && had[at].range.start < range.end)) {
      return absl::InvalidArgumentError(
          absl::StrCat(images.pagemap_path, " holds pages of ", Text(range),
                       " itself: CRIU's dump did not leave out what the page engine carries"));
    }
    all.push_back({range, flags});
  }
  all.insert(all.end(), had.begin() + static_cast<ptrdiff_t>(at), had.end());
  return all;
}

absl::Status ReadAt(int file, uint64_t offset, char* to, size_t size, const std::string& path) {
  while (size > 0) {
    const ssize_t got = pread(file, to, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(absl::StrCat("cannot read ", path));
    if (got == 0) return Broken(path, "it has become shorter");
    to += got;
    size -= static_cast<size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

// The pages of `all` one after the other: those of `own` from the file at `path`, the others as `read` says.
absl::Status WriteMerged(const std::string& path, const std::vector<PagemapEntry>& own,
                         const std::vector<PagemapEntry>& all, const ReadPages& read,
                         const CompletePages::Sink& sink) {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDONLY | O_NOFOLLOW));
  std::vector<char> buffer(kPieceBytes);
  uint64_t own_at = 0;
  auto next = own.begin();
  for (const PagemapEntry& entry : all) {
    const bool is_own = next != own.end() && next->range.start == entry.range.start;
    if (is_own) ++next;
    for (uint64_t at = entry.range.start; at < entry.range.end;) {
      const size_t size = std::min<uint64_t>(entry.range.end - at, buffer.size());
      GODWIT_RETURN_IF_ERROR(is_own ? ReadAt(file.get(), own_at, buffer.data(), size, path)
                                    : read(at, buffer.data(), size));
      GODWIT_RETURN_IF_ERROR(sink(absl::string_view(buffer.data(), size)));
      if (is_own) own_at += size;
      at += size;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Pagemap> ParsePagemap(absl::string_view bytes, const std::string& name) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<absl::string_view> records,
                          SplitImage(bytes, kPagemapMagic, name));
  if (records.empty()) return Broken(name, "it has no head");
  Pagemap pagemap;
  bool has_id = false;
  ProtobufFields head(records[0]);  // pagemap_head: pages_id = 1
  while (head.Next()) {
    if (head.number() != 1 || head.is_bytes() || head.value() > UINT32_MAX) continue;
    pagemap.pages_id = static_cast<uint32_t>(head.value());
    has_id = true;
  }
  if (!head.ok() || !has_id) return Broken(name, "its head names no pages");
  pagemap.entries.reserve(records.size() - 1);
  for (size_t i = 1; i < records.size(); ++i) {
    GODWIT_ASSIGN_OR_RETURN(const PagemapEntry entry, ParseEntry(records[i], name));
    if (!pagemap.entries.empty() && entry.range.start < pagemap.entries.back().range.end)
      return Broken(name, absl::StrCat("its entry ", Text(entry.range), " is not behind the one before"));
    pagemap.entries.push_back(entry);
  }
  return pagemap;
}

std::string RenderPagemap(const Pagemap& pagemap) {
  std::string image;
  image.reserve(32 + pagemap.entries.size() * 32);
  AppendU32(image, kCommonMagic);
  AppendU32(image, kPagemapMagic);
  std::string record;
  AppendField(record, 1, pagemap.pages_id);
  AppendRecord(image, record);
  for (const PagemapEntry& entry : pagemap.entries) {
    record.clear();
    AppendField(record, 1, entry.range.start);
    AppendField(record, 2, 0);  // required, and not looked at beside the fifth
    AppendField(record, 4, entry.flags);
    AppendField(record, 5, entry.range.bytes() / memory::PageBytes());
    AppendRecord(image, record);
  }
  return image;
}

absl::StatusOr<Mappings> ParseMappings(absl::string_view bytes, const std::string& name) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<absl::string_view> records, SplitImage(bytes, kMmMagic, name));
  if (records.size() != 1) return Broken(name, "it has not one record");
  Mappings mappings;
  uint64_t last = 0;
  ProtobufFields mm(records[0]);  // mm_entry: vmas = 14
  while (mm.Next()) {
    if (mm.number() != 14 || !mm.is_bytes()) continue;
    Range range;
    uint64_t flags = 0, status = 0, advice = 0;
    ProtobufFields vma(mm.bytes());  // vma_entry: start = 1, end = 2, flags = 6, status = 7, madv = 9
    while (vma.Next()) {
      if (vma.number() == 1) range.start = vma.value();
      if (vma.number() == 2) range.end = vma.value();
      if (vma.number() == 6) flags = vma.value();
      if (vma.number() == 7) status = vma.value();
      if (vma.number() == 9) advice = vma.value();
    }
    if (!vma.ok()) return Broken(name, "a mapping is not a vma_entry");
    if ((status & kGuard) != 0) continue;  // no mappings, at the end, in any order
    if (range.start < last) return Broken(name, "its mappings are not in order");
    last = range.start;
    if ((flags & kAnonymous) == 0 || !WholePages(range)) continue;
    if ((flags & kDroppable) != 0) memory::Append(mappings.droppable, range);
    const bool can_be_lazy = (flags & kPrivate) != 0 && (flags & (kLocked | kHugeTlb)) == 0 &&
                             (status & (kVdso | kVvar | kVsyscall)) == 0;
    if (can_be_lazy) memory::Append(mappings.lazy, range);
    if (can_be_lazy && (advice & kWipeOnFork) != 0) memory::Append(mappings.wiped, range);
  }
  if (!mm.ok()) return Broken(name, "its record is not an mm_entry");
  return mappings;
}

absl::StatusOr<Ranges> AddLazyPages(const std::string& folder, pid_t task, const Ranges& pages,
                                    const Content& content) {
  GODWIT_ASSIGN_OR_RETURN(TaskImages images, ReadTask(folder, task, pages));
  const Ranges wiped = memory::Intersection(memory::Intersection(images.pages, images.wiped), content.there);
  if (!wiped.empty()) {
    GODWIT_ASSIGN_OR_RETURN(const std::vector<PagemapEntry> all, Merge(images, wiped, kPresent));
    const std::string fresh = absl::StrCat(images.pages_path, ".new");
    {
      GODWIT_ASSIGN_OR_RETURN(UniqueFd file,
                              OpenFile(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
      GODWIT_RETURN_IF_ERROR(
          WriteMerged(images.pages_path, images.pagemap.entries, all, content.read,
                      [&](absl::string_view bytes) { return WriteAll(file.get(), bytes, fresh); }));
    }
    GODWIT_RETURN_IF_ERROR(Rename(fresh, images.pages_path));
    images.pagemap.entries = all;
    images.pages = memory::Difference(images.pages, wiped);
  }
  // CRIU marks what it has written of such mappings as lazy too: on a lazy restore it would leave those pages
  // to the daemon, which knows nothing of them.
  for (PagemapEntry& entry : images.pagemap.entries) entry.flags &= ~kLazy;
  GODWIT_ASSIGN_OR_RETURN(images.pagemap.entries, Merge(images, images.pages, kLazy));
  GODWIT_RETURN_IF_ERROR(Replace(images.pagemap_path, RenderPagemap(images.pagemap)));
  return std::move(images.pages);
}

absl::StatusOr<CompletePages> CompletePages::Plan(const std::string& folder, pid_t task,
                                                  const Ranges& pages) {
  GODWIT_ASSIGN_OR_RETURN(TaskImages images, ReadTask(folder, task, pages));
  CompletePages complete;
  complete.folder_ = folder;
  complete.pagemap_name_ = absl::StrCat("pagemap-", task, ".img");
  complete.pages_name_ = absl::StrCat("pages-", images.pagemap.pages_id, ".img");
  complete.pages_id_ = images.pagemap.pages_id;
  GODWIT_ASSIGN_OR_RETURN(complete.all_, Merge(images, images.pages, kLazy | kPresent));
  complete.own_ = std::move(images.pagemap.entries);
  for (const PagemapEntry& entry : complete.all_)
    complete.pages_bytes_ += static_cast<int64_t>(entry.range.bytes());
  return complete;
}

std::string CompletePages::pagemap() const { return RenderPagemap({pages_id_, all_}); }

absl::Status CompletePages::WritePages(const ReadPages& read, const Sink& sink) const {
  return WriteMerged(absl::StrCat(folder_, "/", pages_name_), own_, all_, read, sink);
}

}  // namespace godwit::criu
