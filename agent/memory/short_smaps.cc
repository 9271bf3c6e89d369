// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/short_smaps.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/memory/maps.h"
#include "agent/runtime/cgroup.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

constexpr size_t kMaxText = size_t{64} << 20;

struct Bit {
  uint64_t bit;
  const char* name;
};
// include/linux/mm.h, the same since 4.14 and on all architectures.
constexpr Bit kBits[] = {
    {0x00000100, "gd"}, {0x00000400, "pf"}, {0x00002000, "lo"}, {0x00004000, "io"}, {0x00008000, "sr"},
    {0x00010000, "rr"}, {0x00020000, "dc"}, {0x00200000, "nr"}, {0x00400000, "ht"}, {0x02000000, "wf"},
    {0x04000000, "dd"}, {0x20000000, "hg"}, {0x40000000, "nh"}, {0x80000000, "mg"},
};
// Those that CRIU minds, but whose bits differ.
constexpr absl::string_view kElsewhere[] = {"dp", "ss"};

using Names = std::set<absl::string_view>;

Names NamesInLowBits(uint64_t flags) {
  Names names;
  for (const Bit& bit : kBits) {
    if ((flags & bit.bit) != 0) names.insert(bit.name);
  }
  return names;
}

// Of what smaps says, that which CRIU minds.
Names NamesInText(absl::string_view vm_flags) {
  Names names;
  for (absl::string_view name : absl::StrSplit(vm_flags, ' ', absl::SkipEmpty())) {
    const bool low =
        std::any_of(std::begin(kBits), std::end(kBits), [&](const Bit& bit) { return bit.name == name; });
    const bool high = std::find(std::begin(kElsewhere), std::end(kElsewhere), name) != std::end(kElsewhere);
    if (low || high) names.insert(name);
  }
  return names;
}

std::vector<uint64_t> HighBits(uint64_t flags) {
  std::vector<uint64_t> bits;
  for (uint64_t rest = flags >> 32 << 32; rest != 0; rest &= rest - 1) bits.push_back(rest & -rest);
  return bits;
}

const Vma* Find(const std::vector<Vma>& vmas, Range range) {
  const auto at = std::lower_bound(vmas.begin(), vmas.end(), range.start,
                                   [](const Vma& vma, uint64_t start) { return vma.range.start < start; });
  return at != vmas.end() && at->range == range ? &*at : nullptr;
}

// Mappings of this process with as many different flags as it may have; unmapped when this goes.
class Examples {
 public:
  Examples() {
    for (const int advice : {MADV_SEQUENTIAL, MADV_RANDOM, MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK,
                             MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE}) {
      if (void* page = Map(MAP_PRIVATE)) madvise(page, PageBytes(), advice);
    }
    if (void* page = Map(MAP_PRIVATE)) mlock(page, PageBytes());
    Map(MAP_PRIVATE | MAP_NORESERVE);
    Map(MAP_PRIVATE | MAP_GROWSDOWN);
    Map(kDroppable);
  }
  ~Examples() {
    for (void* page : pages_) munmap(page, PageBytes());
  }
  Examples(const Examples&) = delete;
  Examples& operator=(const Examples&) = delete;

 private:
  static constexpr int kDroppable = 0x08;  // MAP_DROPPABLE (linux/mman.h), since 6.11

  void* Map(int flags) {
    void* page = mmap(nullptr, PageBytes(), PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return nullptr;
    pages_.push_back(page);
    return page;
  }
  std::vector<void*> pages_;
};

}  // namespace

absl::Status VmFlagNames::Learn(absl::string_view smaps, const std::vector<Vma>& vmas) {
  struct Unexplained {
    const Vma* vma;
    absl::string_view name;
  };
  std::vector<Unexplained> unexplained;
  const auto different = [](const Vma& vma, absl::string_view row) {
    return absl::FailedPreconditionError(absl::StrFormat("the flags %x are \"%s\" to this kernel", vma.flags,
                                                         absl::StripAsciiWhitespace(row)));
  };
  const Vma* vma = nullptr;
  for (absl::string_view row : absl::StrSplit(smaps, '\n', absl::SkipEmpty())) {
    if (!IsDetail(row)) {
      GODWIT_ASSIGN_OR_RETURN(const Range range, RangeOfMapping(row));
      vma = Find(vmas, range);
      continue;
    }
    if (vma == nullptr || !absl::ConsumePrefix(&row, "VmFlags:")) continue;
    Names more = NamesInText(row);
    for (absl::string_view name : NamesInLowBits(vma->flags)) {
      if (more.erase(name) == 0) return different(*vma, row);
    }
    if (more.size() > 1) return different(*vma, row);
    if (more.empty()) {
      for (const uint64_t bit : HighBits(vma->flags)) learnt_[bit] = "";
    } else {
      unexplained.push_back({vma, *more.begin()});
    }
  }
  for (const Unexplained& one : unexplained) {
    std::vector<uint64_t> bits = HighBits(one.vma->flags);
    std::erase_if(bits, [this](uint64_t bit) { return learnt_.contains(bit) && learnt_[bit].empty(); });
    if (bits.size() != 1) return different(*one.vma, one.name);
    learnt_[bits.front()] = std::string(one.name);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> VmFlagNames::Of(uint64_t flags) const {
  Names names = NamesInLowBits(flags);
  for (const uint64_t bit : HighBits(flags)) {
    const auto known = learnt_.find(bit);
    if (known == learnt_.end())
      return absl::FailedPreconditionError(
          absl::StrFormat("a mapping has the flag %x, which is not known", bit));
    if (!known->second.empty()) names.insert(known->second);
  }
  return absl::StrJoin(names, " ");
}

absl::StatusOr<std::string> ComposeSmaps(absl::string_view maps, const std::vector<Vma>& vmas,
                                         const VmFlagNames& names) {
  std::string text;
  size_t used = 0;
  for (absl::string_view row : absl::StrSplit(maps, '\n', absl::SkipEmpty())) {
    absl::StrAppend(&text, row, "\n");
    // Shown for all, and nobody's: the task's list does not have it.
    if (absl::EndsWith(row, " [vsyscall]")) continue;
    GODWIT_ASSIGN_OR_RETURN(const Range range, RangeOfMapping(row));
    if (used == vmas.size() || vmas[used].range != range)
      return absl::DataLossError(absl::StrCat("maps has a mapping that the kernel's list has not: ", row));
    GODWIT_ASSIGN_OR_RETURN(const std::string flags, names.Of(vmas[used++].flags));
    absl::StrAppend(&text, "VmFlags: ", flags, "\n");
  }
  if (used != vmas.size()) return absl::DataLossError("the kernel's list has a mapping that maps has not");
  return text;
}

absl::StatusOr<ShortSmaps> ShortSmaps::Load() {
  GODWIT_ASSIGN_OR_RETURN(VmaIterator iterator, VmaIterator::Load());
  VmFlagNames names;
  const Examples examples;
  GODWIT_ASSIGN_OR_RETURN(const std::vector<Vma> vmas, iterator.Read(getpid()));
  GODWIT_ASSIGN_OR_RETURN(const std::string smaps, ReadFile("/proc/self/smaps", kMaxText));
  GODWIT_RETURN_IF_ERROR(names.Learn(smaps, vmas));
  return ShortSmaps(std::move(iterator), std::move(names));
}

absl::StatusOr<std::string> ShortSmaps::Read(const std::string& proc, pid_t pid) const {
  GODWIT_ASSIGN_OR_RETURN(const std::string maps, ReadFile(absl::StrCat(proc, "/", pid, "/maps"), kMaxText));
  GODWIT_ASSIGN_OR_RETURN(const std::vector<Vma> vmas, iterator_.Read(pid));
  return ComposeSmaps(maps, vmas, names_);
}

absl::Status ShortSmaps::Write(const std::string& proc, const std::string& cgroup,
                               const std::string& folder) const {
  GODWIT_RETURN_IF_ERROR(RemoveTree(folder));
  GODWIT_RETURN_IF_ERROR(MakeFolders(folder, 0700));
  GODWIT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids, runtime::ProcessesInCgroup(cgroup));
  for (const pid_t pid : pids) {
    const absl::StatusOr<std::string> text = Read(proc, pid);
    if (absl::IsNotFound(text.status())) continue;
    if (!text.ok()) {
      LOG(WARNING) << Log("CRIU reads smaps, which takes longer").With("process", pid).With(text.status());
      continue;
    }
    // Read at once, on this machine: no need to wait for the disk.
    const std::string path = absl::StrCat(folder, "/", pid);
    GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
    GODWIT_RETURN_IF_ERROR(WriteAll(file.get(), *text, path));
  }
  return absl::OkStatus();
}

}  // namespace godwit::memory
