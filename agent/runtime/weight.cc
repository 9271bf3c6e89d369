// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/weight.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <functional>
#include <set>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/processes.h"
#include "base/clock.h"
#include "base/file.h"

namespace godwit::runtime {
namespace {

constexpr int64_t kCountTo = 1'000'000;

int64_t CountEntries(const std::string& folder) {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return 0;
  int64_t count = 0;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.' && ++count >= kCountTo) break;
  }
  closedir(dir);
  return count;
}

// A line is a mapping, whatever its name: the kernel writes a newline in a name as \012.
int64_t CountLines(const std::string& path) {
  const absl::StatusOr<UniqueFd> file = OpenFile(path, O_RDONLY);
  if (!file.ok()) return 0;
  int64_t count = 0;
  std::array<char, 65536> part;
  for (ssize_t got; count < kCountTo && (got = read(file->get(), part.data(), part.size())) > 0;)
    count += std::count(part.begin(), part.begin() + got, '\n');
  return count;
}

using Seen = std::set<std::tuple<uint32_t, uint32_t, uint64_t>>;

// Whether it is the first time that this file is seen.
bool IsNew(const struct statx& status, Seen& seen) {
  return seen.emplace(status.stx_dev_major, status.stx_dev_minor, status.stx_ino).second;
}

int64_t BytesOf(const struct statx& status) { return static_cast<int64_t>(status.stx_blocks) * 512; }

// Calls `found` for each file without a name that a process has open, by its name as /proc has it. Looks at
// `left` descriptors at most, and counts them off.
void ForEachNameless(const std::string& folder, int64_t& left, absl::Time deadline,
                     const std::function<void(absl::string_view name, const struct statx& status)>& found) {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return;  // it has ended
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    if (left-- <= 0 || SteadyNow() > deadline) break;
    const std::string link = absl::StrCat(folder, "/", entry->d_name);
    char target[PATH_MAX];
    const ssize_t size = readlink(link.c_str(), target, sizeof(target));
    const absl::string_view name(target, static_cast<size_t>(std::max<ssize_t>(0, size)));
    if (!absl::EndsWith(name, " (deleted)")) continue;  // what ends so may have a name still
    struct statx status{};
    if (statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &status) != 0) continue;
    if (S_ISREG(status.stx_mode) && status.stx_nlink == 0) found(name, status);
  }
  closedir(dir);
}

int64_t PrivateBytesOf(const Process& process) {
  return process.resident_bytes - process.shared_bytes + process.swapped_bytes;
}

absl::string_view TakeWord(absl::string_view& text) {
  text = absl::StripLeadingAsciiWhitespace(text);
  const absl::string_view word = text.substr(0, text.find(' '));
  text.remove_prefix(word.size());
  return word;
}

// maps fills addresses up with zeros, the names in map_files do not.
std::string MapFile(const std::string& folder, absl::string_view range) {
  const size_t dash = range.find('-');
  uint64_t start = 0, end = 0;
  if (dash == absl::string_view::npos || !absl::SimpleHexAtoi(range.substr(0, dash), &start) ||
      !absl::SimpleHexAtoi(range.substr(dash + 1), &end))
    return "";
  return absl::StrCat(folder, "/map_files/", absl::Hex(start), "-", absl::Hex(end));
}

// The shared memory of some processes, each object once.
class SharedContents {
 public:
  SharedContents(Contents& contents, absl::Time deadline) : contents_(contents), deadline_(deadline) {}

  // What a process has mapped. False: this process may not look at it.
  bool AddMapped(const std::string& folder) {
    const absl::StatusOr<std::string> maps = ReadFile(absl::StrCat(folder, "/maps"), kMostMaps);
    if (!maps.ok()) return absl::IsNotFound(maps.status());
    for (absl::string_view line : absl::StrSplit(*maps, '\n')) {
      const absl::string_view range = TakeWord(line);
      if (!absl::EndsWith(TakeWord(line), "s")) continue;
      TakeWord(line);  // offset
      const absl::string_view device = TakeWord(line), inode = TakeWord(line);
      if (SteadyNow() > deadline_) break;
      if (!Add(MapFile(folder, range), device, inode, absl::StripLeadingAsciiWhitespace(line))) return false;
    }
    return true;
  }

  void AddOpen(const std::string& folder) {
    ForEachNameless(folder, left_, deadline_, [this](absl::string_view, const struct statx& status) {
      if (IsNew(status, seen_)) contents_.files += BytesOf(status);
    });
  }

 private:
  static constexpr size_t kMostMaps = size_t{64} << 20;

  bool Add(const std::string& path, absl::string_view device, absl::string_view inode,
           absl::string_view name) {
    // The kernel's own name (mm/shmem.c, shmem_zero_setup).
    const bool anonymous = name == "/dev/zero (deleted)";
    if (!anonymous && !absl::StartsWith(name, "/memfd:") && !absl::StartsWith(name, "/SYSV") &&
        !absl::StartsWith(name, "/dev/shm/"))
      return true;
    // A SysV segment's inode number is its id, and may be another object's, too.
    const std::string key = absl::StrCat(device, " ", inode, " ", name.substr(0, 6));
    if (known_.contains(key)) return true;
    struct statx status{};
    if (statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &status) != 0)
      return errno == ENOENT;  // unmapped since
    known_.insert(key);
    if (uint64_t id = 0; anonymous && absl::SimpleAtoi(inode, &id)) {
      contents_.anonymous[id] = BytesOf(status);
    } else if (IsNew(status, seen_)) {
      contents_.files += BytesOf(status);
    }
    return true;
  }

  Contents& contents_;
  const absl::Time deadline_;
  std::set<std::string> known_;
  Seen seen_;
  int64_t left_ = kCountTo;
};

}  // namespace

agent_api::Weight Weigh(const std::string& proc, const std::vector<pid_t>& processes) {
  agent_api::Weight weight;
  for (const pid_t pid : processes) {
    const std::string folder = absl::StrCat(proc, "/", pid);
    const int64_t threads = CountEntries(absl::StrCat(folder, "/task"));
    if (threads == 0) continue;  // it has ended
    weight += {.processes = 1,
               .threads = threads,
               .descriptors = CountEntries(absl::StrCat(folder, "/fd")),
               .mappings = CountLines(absl::StrCat(folder, "/maps"))};
  }
  return weight;
}

Held HeldBytes(const std::string& proc, const std::vector<pid_t>& processes, absl::Time deadline) {
  Held held;
  Seen seen;
  int64_t left = kCountTo;
  for (const pid_t pid : processes) {
    ForEachNameless(absl::StrCat(proc, "/", pid, "/fd"), left, deadline,
                    [&](absl::string_view name, const struct statx& status) {
                      if (!IsNew(status, seen)) return;
                      (absl::StartsWith(name, "/memfd:") ? held.memfds : held.deleted) += BytesOf(status);
                    });
  }
  return held;
}

agent_api::Weight WeighCgroup(const std::string& proc, const std::string& cgroup) {
  const absl::StatusOr<std::vector<pid_t>> processes = ProcessesInCgroup(cgroup);
  return processes.ok() ? Weigh(proc, *processes) : agent_api::Weight{};
}

Contents ContentsOf(const std::string& proc, const std::vector<pid_t>& processes, absl::Time deadline) {
  Contents contents;
  SharedContents shared(contents, deadline);
  bool all_told = true;
  int64_t most_shared = 0;
  for (const pid_t pid : processes) {
    const absl::StatusOr<Process> process = ReadProcessStatus(proc, pid);
    if (!process.ok()) continue;  // it has ended
    const std::string folder = absl::StrCat(proc, "/", pid);
    contents.processes[pid] = {process->command, PrivateBytesOf(*process)};
    most_shared = std::max(most_shared, process->shared_bytes);
    contents.complete = SteadyNow() <= deadline;
    if (!contents.complete) continue;
    if (process->shared_bytes > 0) all_told = shared.AddMapped(folder) && all_told;
    shared.AddOpen(absl::StrCat(folder, "/fd"));
  }
  contents.complete = contents.complete && SteadyNow() <= deadline;
  if (!all_told) contents.files = std::max(contents.files, most_shared);
  return contents;
}

std::map<pid_t, Contents::Private> PrivateBytes(const std::string& proc,
                                                const std::vector<pid_t>& processes) {
  std::map<pid_t, Contents::Private> memory;
  for (const pid_t pid : processes) {
    const absl::StatusOr<Process> process = ReadProcessStatus(proc, pid);
    if (process.ok()) memory[pid] = {process->command, PrivateBytesOf(*process)};
  }
  return memory;
}

}  // namespace godwit::runtime
