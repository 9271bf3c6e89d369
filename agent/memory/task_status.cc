// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/task_status.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

pid_t Number(absl::string_view text) {
  pid_t value = 0;
  return absl::SimpleAtoi(text, &value) ? value : 0;
}

}  // namespace

TaskStatus ParseTaskStatus(absl::string_view text) {
  TaskStatus status;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) continue;
    const absl::string_view key = line.substr(0, colon);
    const absl::string_view value = absl::StripAsciiWhitespace(line.substr(colon + 1));
    const std::vector<absl::string_view> words =
        absl::StrSplit(value, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.empty()) continue;
    if (key == "Name") {
      status.command = std::string(value.substr(0, 32));
      for (char& c : status.command) c = c < ' ' || c > '~' ? '?' : c;
    }
    if (key == "NSpid") status.container_pid = Number(words.back());
    if (key == "TracerPid") status.tracer = Number(words[0]);
    if (key == "VmSize") status.has_memory = true;
    if (key == "VmLck") status.locked = words[0] != "0";
    if (key == "Seccomp") status.seccomp = words[0] != "0";
    if (key == "x86_Thread_features") status.shadow_stack = absl::StrContains(value, "shstk");
  }
  return status;
}

absl::StatusOr<TaskStatus> ReadTaskStatus(const std::string& proc, pid_t pid) {
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(absl::StrCat(proc, "/", pid, "/status")));
  return ParseTaskStatus(text);
}

}  // namespace godwit::memory
