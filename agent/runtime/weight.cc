// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/weight.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <set>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/runtime/cgroup.h"
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
  std::set<std::tuple<uint32_t, uint32_t, uint64_t>> seen;
  int64_t left = kCountTo;
  for (const pid_t pid : processes) {
    const std::string folder = absl::StrCat(proc, "/", pid, "/fd");
    DIR* dir = opendir(folder.c_str());
    if (dir == nullptr) continue;  // it has ended
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
      if (!S_ISREG(status.stx_mode) || status.stx_nlink != 0) continue;
      if (!seen.emplace(status.stx_dev_major, status.stx_dev_minor, status.stx_ino).second) continue;
      (absl::StartsWith(name, "/memfd:") ? held.memfds : held.deleted) +=
          static_cast<int64_t>(status.stx_blocks) * 512;
    }
    closedir(dir);
  }
  return held;
}

agent_api::Weight WeighCgroup(const std::string& proc, const std::string& cgroup) {
  const absl::StatusOr<std::vector<pid_t>> processes = ProcessesInCgroup(cgroup);
  return processes.ok() ? Weigh(proc, *processes) : agent_api::Weight{};
}

}  // namespace godwit::runtime
