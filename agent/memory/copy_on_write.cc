// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/copy_on_write.h"

#include <algorithm>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/runtime/cgroup.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

constexpr size_t kMostText = 64u << 10;

// The number behind `name` at the beginning of a line.
std::optional<int64_t> NumberOf(absl::string_view text, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && words[0] == name && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return std::nullopt;
}

}  // namespace

int64_t SharedByFork(const std::string& proc, const std::vector<pid_t>& pids) {
  int64_t kibibytes = 0;
  for (const pid_t pid : pids) {
    const auto text = ReadFile(absl::StrCat(proc, "/", pid, "/smaps_rollup"), kMostText);
    if (!text.ok()) continue;
    const std::optional<int64_t> mapped = NumberOf(*text, "Anonymous:");
    const std::optional<int64_t> share = NumberOf(*text, "Pss_Anon:");
    if (mapped && share) kibibytes += std::max<int64_t>(0, *mapped - *share);
  }
  return kibibytes * 1024;
}

absl::Status FitsUnshared(const std::string& proc, const std::string& cgroup) {
  const auto limit_text = ReadFile(absl::StrCat(cgroup, "/memory.max"), kMostText);
  const auto stat = ReadFile(absl::StrCat(cgroup, "/memory.stat"), kMostText);
  int64_t limit = 0;
  if (!limit_text.ok() || !stat.ok() || !absl::SimpleAtoi(*limit_text, &limit)) return absl::OkStatus();
  const auto pids = runtime::ProcessesInCgroup(cgroup);
  if (!pids.ok() || pids->size() < 2) return absl::OkStatus();
  // What is neither can be dropped.
  const int64_t held = NumberOf(*stat, "anon").value_or(0) + NumberOf(*stat, "shmem").value_or(0);
  const int64_t more = SharedByFork(proc, *pids);
  if (held + more <= limit) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("its processes share ", more >> 20,
                   " MiB since they were forked, which they would not at the target, and ",
                   (held + more) >> 20, " MiB are more than its memory limit of ", limit >> 20, " MiB"));
}

}  // namespace godwit::memory
