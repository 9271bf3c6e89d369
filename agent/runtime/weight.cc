// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/weight.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "agent/runtime/cgroup.h"
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

agent_api::Weight WeighCgroup(const std::string& proc, const std::string& cgroup) {
  const absl::StatusOr<std::vector<pid_t>> processes = ProcessesInCgroup(cgroup);
  return processes.ok() ? Weigh(proc, *processes) : agent_api::Weight{};
}

}  // namespace godwit::runtime
