// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/processes.h"

#include <signal.h>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/runtime/cgroup.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

uint64_t Hex(absl::string_view text) {
  uint64_t value = 0;
  return absl::SimpleHexAtoi(absl::StripAsciiWhitespace(text), &value) ? value : 0;
}

int64_t FirstNumber(absl::string_view text) {
  int64_t value = 0;
  const std::vector<absl::string_view> words =
      absl::StrSplit(text, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  return !words.empty() && absl::SimpleAtoi(words[0], &value) ? value : 0;
}

// A command name as it may stand in a message: /proc escapes only newlines and backslashes.
std::string Printable(absl::string_view text) {
  std::string out(text.substr(0, 32));
  for (char& c : out) {
    if (c < ' ' || c > '~') c = '?';
  }
  return out;
}

// Calls `line(key, value)` for each "Key:\tvalue" of a status file.
template <class Line>
void ForEachLine(absl::string_view status, Line line) {
  for (absl::string_view text : absl::StrSplit(status, '\n')) {
    const size_t colon = text.find(':');
    if (colon != absl::string_view::npos) {
      line(text.substr(0, colon), absl::StripAsciiWhitespace(text.substr(colon + 1)));
    }
  }
}

bool Gone(const absl::Status& status) {
  // A process that ends between open and read: ESRCH, which absl maps to NotFound, as ENOENT.
  return absl::IsNotFound(status);
}

}  // namespace

absl::StatusOr<Process> ReadProcessStatus(const std::string& proc, pid_t pid) {
  GODWIT_ASSIGN_OR_RETURN(const std::string status, ReadFile(absl::StrCat(proc, "/", pid, "/status")));
  Process process;
  process.pid = pid;
  ForEachLine(status, [&](absl::string_view key, absl::string_view value) {
    if (key == "Name") process.command = Printable(value);
    if (key == "State" && !value.empty()) process.state = value[0];
    if (key == "PPid") process.parent = static_cast<pid_t>(FirstNumber(value));
    if (key == "TracerPid") process.tracer = static_cast<pid_t>(FirstNumber(value));
    if (key == "ShdPnd") process.pending |= Hex(value);
    if (key == "RssAnon" || key == "RssShmem") process.resident_bytes += FirstNumber(value) * 1024;
    if (key == "RssShmem") process.shared_bytes = FirstNumber(value) * 1024;
    if (key == "VmSwap") process.swapped_bytes = FirstNumber(value) * 1024;
  });
  return process;
}

absl::StatusOr<Process> ReadProcess(const std::string& proc, pid_t pid) {
  GODWIT_ASSIGN_OR_RETURN(Process process, ReadProcessStatus(proc, pid));
  const std::string folder = absl::StrCat(proc, "/", pid);
  const absl::StatusOr<std::vector<std::string>> threads = ListFolder(absl::StrCat(folder, "/task"));
  if (!threads.ok()) return threads.status();
  for (const std::string& thread : *threads) {
    const absl::StatusOr<std::string> text = ReadFile(absl::StrCat(folder, "/task/", thread, "/status"));
    if (!text.ok()) continue;  // a thread that has ended
    ForEachLine(*text, [&](absl::string_view key, absl::string_view value) {
      if (key == "SigPnd") process.pending |= Hex(value);
    });
  }
  return process;
}

absl::StatusOr<std::vector<Process>> ReadProcesses(const std::string& proc, const std::string& cgroup) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids, ProcessesInCgroup(cgroup));
  std::vector<Process> processes;
  for (pid_t pid : pids) {
    absl::StatusOr<Process> process = ReadProcess(proc, pid);
    if (process.ok()) {
      processes.push_back(*std::move(process));
    } else if (!Gone(process.status())) {
      return process.status();
    }
  }
  return processes;
}

std::vector<Process> OutsideTree(const std::vector<Process>& processes, pid_t init) {
  absl::flat_hash_map<pid_t, pid_t> parents;
  for (const Process& process : processes) parents[process.pid] = process.parent;
  const auto descends = [&](pid_t pid) {
    // At most as many steps as there are processes: a changing /proc may show a circle.
    for (size_t steps = 0; steps <= parents.size(); ++steps) {
      if (pid == init) return true;
      const auto parent = parents.find(pid);
      if (parent == parents.end()) return false;
      pid = parent->second;
    }
    return false;
  };
  std::vector<Process> outside;
  for (const Process& process : processes) {
    if (!descends(process.pid)) outside.push_back(process);
  }
  return outside;
}

std::vector<Process> BeingEnded(const std::vector<Process>& processes) {
  constexpr uint64_t kEnding = (uint64_t{1} << (SIGTERM - 1)) | (uint64_t{1} << (SIGKILL - 1));
  std::vector<Process> ended;
  for (const Process& process : processes) {
    if ((process.pending & kEnding) != 0) ended.push_back(process);
  }
  return ended;
}

std::string Describe(const std::vector<Process>& processes) {
  std::string text;
  for (size_t i = 0; i < processes.size(); ++i) {
    if (i == 5) {
      absl::StrAppend(&text, " and ", processes.size() - i, " more");
      break;
    }
    absl::StrAppend(&text, i == 0 ? "" : ", ", processes[i].pid, " (", processes[i].command, ")");
  }
  return text;
}

}  // namespace godwit::runtime
