// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/maps.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

// What tells one mapping from another comes first; of a longer line the rest is not looked at.
constexpr size_t kMostOfRow = 4096;

struct Line {
  Range range;
  absl::string_view permissions, device, inode, name;
};

absl::string_view TakeWord(absl::string_view& text) {
  text = absl::StripLeadingAsciiWhitespace(text);
  const size_t end = std::min(text.find(' '), text.size());
  const absl::string_view word = text.substr(0, end);
  text.remove_prefix(end);
  return word;
}

// "7f00-7f01 rw-p 00000000 00:00 0      [heap]" (proc_pid_maps(5)).
bool ParseLine(absl::string_view text, Line& line) {
  const std::vector<absl::string_view> ends = absl::StrSplit(TakeWord(text), '-');
  if (ends.size() != 2 || !absl::SimpleHexAtoi(ends[0], &line.range.start) ||
      !absl::SimpleHexAtoi(ends[1], &line.range.end))
    return false;
  line.permissions = TakeWord(text);
  TakeWord(text);  // offset
  line.device = TakeWord(text);
  line.inode = TakeWord(text);
  line.name = absl::StripAsciiWhitespace(text);
  return line.range.start < line.range.end && line.range.start % PageBytes() == 0 &&
         line.range.end % PageBytes() == 0 && line.permissions.size() == 4 && !line.inode.empty();
}

bool PrivateAnonymous(const Line& line) {
  return line.permissions[3] == 'p' && line.device == "00:00" && line.inode == "0" &&
         (line.name.empty() || line.name == "[heap]" || line.name == "[stack]" ||
          absl::StartsWith(line.name, "[anon:"));
}

// Its name is the kernel's own (mm/shmem.c, shmem_zero_setup); a file of that name in some file system is on
// another device, which the caller knows.
bool SharedAnonymous(const Line& line, uint64_t& inode) {
  return line.permissions[3] == 's' && line.name == "/dev/zero (deleted)" &&
         absl::SimpleAtoi(line.inode, &inode) && inode != 0;
}

// proc_pid_smaps(5): locked, hugetlb, I/O, raw page frames, shadow stack, droppable (since 6.11).
bool Excluded(absl::string_view vm_flags) {
  for (absl::string_view flag : absl::StrSplit(vm_flags, ' ', absl::SkipEmpty())) {
    for (absl::string_view excluded : {"lo", "ht", "io", "pf", "ss", "dp"}) {
      if (flag == excluded) return true;
    }
  }
  return false;
}

absl::Status NotAMapping(absl::string_view row) {
  return absl::DataLossError(absl::StrCat("not a mapping: \"", row.substr(0, 80), "\""));
}

}  // namespace

// Only these begin with a capital letter.
bool IsDetail(absl::string_view row) { return !row.empty() && row[0] >= 'A' && row[0] <= 'Z'; }

namespace {

// Line by line.
class MapsParser {
 public:
  absl::Status Add(absl::string_view row);
  AddressSpace Take() { return std::move(space_); }

 private:
  AddressSpace space_;
  uint64_t end_ = 0;
  bool candidate_ = false;  // the last mapping is the last of private_anonymous
  bool code_ = false;       // a file's code has come
};

absl::Status MapsParser::Add(absl::string_view row) {
  if (row.empty()) return absl::OkStatus();
  if (IsDetail(row)) {
    if (candidate_ && absl::ConsumePrefix(&row, "VmFlags:") && Excluded(row)) {
      space_.private_anonymous.pop_back();
      candidate_ = false;
    }
    return absl::OkStatus();
  }
  Line line;
  if (!ParseLine(row, line)) return NotAMapping(row);
  // A mapping that grew while the file was being read is shown again from its start.
  line.range.start = std::max(line.range.start, end_);
  const bool executable = line.permissions[2] == 'x';
  if (executable && line.inode != "0") code_ = true;
  candidate_ = line.range.start < line.range.end && PrivateAnonymous(line) && (code_ || !executable);
  end_ = std::max(end_, line.range.end);
  uint64_t inode = 0;
  if (line.range.start < line.range.end && SharedAnonymous(line, inode))
    space_.shared_anonymous.push_back({line.range, std::string(line.device), inode});
  if (candidate_) space_.private_anonymous.push_back(line.range);
  if (line.name == "[vdso]" && line.range.start < line.range.end) space_.vdso = line.range;
  if (absl::StartsWith(line.name, "/[aio]")) space_.aio_ring = true;
  return absl::OkStatus();
}

// Puts the rows of a file together, which comes in pieces, and parses them.
class RowReader {
 public:
  absl::Status Add(absl::string_view piece);
  absl::StatusOr<AddressSpace> End() {
    GODWIT_RETURN_IF_ERROR(parser_.Add(row_));
    return parser_.Take();
  }

 private:
  MapsParser parser_;
  std::string row_;     // as far as it has come
  size_t in_rows_ = 0;  // of mappings, not of what smaps tells more of them
};

absl::Status RowReader::Add(absl::string_view piece) {
  while (!piece.empty()) {
    const size_t end = piece.find('\n');
    const bool whole = end != absl::string_view::npos;
    const absl::string_view part = piece.substr(0, end);
    absl::StrAppend(&row_, part.substr(0, kMostOfRow - row_.size()));
    if (!IsDetail(row_)) in_rows_ += part.size() + (whole ? 1 : 0);
    if (in_rows_ > kMostMapsText)
      return absl::ResourceExhaustedError(absl::StrCat(
          "it has so many mappings, or of files with such long names, that they are over the limit of ",
          kMostMapsText, " bytes"));
    if (!whole) break;
    piece.remove_prefix(end + 1);
    GODWIT_RETURN_IF_ERROR(parser_.Add(row_));
    row_.clear();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Range> RangeOfMapping(absl::string_view row) {
  Line line;
  if (!ParseLine(row, line)) return NotAMapping(row);
  return line.range;
}

absl::StatusOr<AddressSpace> ParseMaps(absl::string_view text) {
  MapsParser parser;
  for (absl::string_view row : absl::StrSplit(text, '\n')) GODWIT_RETURN_IF_ERROR(parser.Add(row));
  return parser.Take();
}

absl::StatusOr<AddressSpace> ReadAddressSpace(const std::string& proc, pid_t pid, MapsFile file) {
  const std::string path = absl::StrCat(proc, "/", pid, file == MapsFile::kMaps ? "/maps" : "/smaps");
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_RDONLY));
  RowReader rows;
  const auto failed = [&path](const absl::Status& status) {
    return Annotate(status, absl::StrCat("cannot read ", path));
  };
  while (true) {
    char buffer[16384];
    const ssize_t size = read(fd.get(), buffer, sizeof(buffer));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return ErrnoStatus(absl::StrCat("cannot read ", path));
    if (size == 0) break;
    if (const absl::Status status = rows.Add({buffer, static_cast<size_t>(size)}); !status.ok())
      return failed(status);
  }
  absl::StatusOr<AddressSpace> space = rows.End();
  if (!space.ok()) return failed(space.status());
  return space;
}

}  // namespace godwit::memory
