// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/maps.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

// 1 KiB a mapping in smaps; vm.max_map_count is 65530 unless somebody raised it.
constexpr size_t kMaxText = size_t{512} << 20;

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

}  // namespace

// Only these begin with a capital letter.
bool IsDetail(absl::string_view row) { return !row.empty() && row[0] >= 'A' && row[0] <= 'Z'; }

absl::StatusOr<Range> RangeOfMapping(absl::string_view row) {
  Line line;
  if (!ParseLine(row, line))
    return absl::DataLossError(absl::StrCat("not a mapping: \"", row.substr(0, 80), "\""));
  return line.range;
}

absl::StatusOr<AddressSpace> ParseMaps(absl::string_view text) {
  AddressSpace space;
  uint64_t end = 0;
  bool candidate = false;  // the last mapping is the last of private_anonymous
  bool code = false;       // a file's code has come
  for (absl::string_view row : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (IsDetail(row)) {
      if (candidate && absl::ConsumePrefix(&row, "VmFlags:") && Excluded(row)) {
        space.private_anonymous.pop_back();
        candidate = false;
      }
      continue;
    }
    Line line;
    if (!ParseLine(row, line))
      return absl::DataLossError(absl::StrCat("not a mapping: \"", row.substr(0, 80), "\""));
    // A mapping that grew while the file was being read is shown again from its start.
    line.range.start = std::max(line.range.start, end);
    const bool executable = line.permissions[2] == 'x';
    if (executable && line.inode != "0") code = true;
    candidate = line.range.start < line.range.end && PrivateAnonymous(line) && (code || !executable);
    end = std::max(end, line.range.end);
    uint64_t inode = 0;
    if (line.range.start < line.range.end && SharedAnonymous(line, inode))
      space.shared_anonymous.push_back({line.range, std::string(line.device), inode});
    if (candidate) space.private_anonymous.push_back(line.range);
    if (line.name == "[vdso]" && line.range.start < line.range.end) space.vdso = line.range;
    if (absl::StartsWith(line.name, "/[aio]")) space.aio_ring = true;
  }
  return space;
}

absl::StatusOr<AddressSpace> ReadAddressSpace(const std::string& proc, pid_t pid, MapsFile file) {
  const std::string path = absl::StrCat(proc, "/", pid, file == MapsFile::kMaps ? "/maps" : "/smaps");
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxText));
  absl::StatusOr<AddressSpace> space = ParseMaps(text);
  if (!space.ok()) return Annotate(space.status(), absl::StrCat("cannot read ", path));
  return space;
}

}  // namespace godwit::memory
