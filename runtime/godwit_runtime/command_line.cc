// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/command_line.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace godwit::godwit_runtime {
namespace {

using Words = std::vector<absl::string_view>;

// runc 1.1 to 1.5, and crun where it differs.
const Words& GlobalWithValue() {
  static const auto* words =
      new Words{"log", "log-format", "root", "criu", "rootless", "cgroup-manager", "log-level"};
  return *words;
}
const Words& GlobalAlone() {
  static const auto* words = new Words{"debug", "systemd-cgroup", "help", "h", "version", "v"};
  return *words;
}
const Words& CreateWithValue() {
  static const auto* words =
      new Words{"bundle", "b", "console-socket", "pid-file", "pidfd-socket", "preserve-fds"};
  return *words;
}
const Words& CreateAlone() {
  static const auto* words = new Words{"no-pivot", "no-new-keyring", "no-subreaper", "help", "h"};
  return *words;
}

bool In(const Words& words, absl::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

struct Flag {
  std::string name;
  std::string value;
  bool has_value = false;
};

// "--name", "--name=value", "-name"; nothing for a word that is no flag.
bool SplitFlag(absl::string_view argument, Flag& flag) {
  if (argument.size() < 2 || argument.front() != '-') return false;
  argument.remove_prefix(absl::StartsWith(argument, "--") ? 2 : 1);
  const size_t equals = argument.find('=');
  flag.name = std::string(argument.substr(0, equals));
  flag.has_value = equals != absl::string_view::npos;
  flag.value = flag.has_value ? std::string(argument.substr(equals + 1)) : "";
  return true;
}

// Reads flags from arguments[at] on; leaves `at` at the first word that is none. The name of a flag that is
// in neither list, and so may or may not swallow the next word, goes to `unknown`.
template <class Take>
absl::Status ReadFlags(const std::vector<std::string>& arguments, const Words& with_value, const Words& alone,
                       size_t& at, std::string& unknown, Take take) {
  for (Flag flag; at < arguments.size() && SplitFlag(arguments[at], flag); ++at) {
    if (arguments[at] == "--") {
      ++at;
      break;
    }
    if (!flag.has_value && In(with_value, flag.name)) {
      if (++at >= arguments.size())
        return absl::InvalidArgumentError(absl::StrCat("--", flag.name, " needs a value"));
      flag.value = arguments[at];
    } else if (!flag.has_value && !In(alone, flag.name)) {
      unknown = flag.name;
    }
    take(flag);
  }
  return absl::OkStatus();
}

// The id becomes part of a path.
bool IsId(absl::string_view id) {
  return !id.empty() && id != "." && id != ".." && !absl::StrContains(id, '/');
}

// `kill [--all] ID [SIGNAL]`. What is not understood is left to the node's runtime.
void ReadKill(const std::vector<std::string>& arguments, size_t at, CommandLine& line) {
  while (at < arguments.size() && absl::StartsWith(arguments[at], "-")) ++at;
  if (at < arguments.size() && IsId(arguments[at])) line.id = arguments[at];
  if (at + 1 < arguments.size()) line.signal = arguments[at + 1];
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments) {
  CommandLine line;
  size_t at = 0;
  std::string unknown;
  absl::Status status =
      ReadFlags(arguments, GlobalWithValue(), GlobalAlone(), at, unknown, [&line](const Flag& flag) {
        if (flag.name == "root") line.root = flag.value;
        if (flag.name == "log") line.log = flag.value;
        if (flag.name == "log-format") line.log_json = flag.value == "json";
        if (flag.name == "systemd-cgroup") line.systemd_cgroup = absl::AsciiStrToLower(flag.value) != "false";
        if (flag.name == "cgroup-manager") line.systemd_cgroup = flag.value == "systemd";
      });
  if (!status.ok()) return status;
  line.global.assign(arguments.begin(), arguments.begin() + static_cast<std::ptrdiff_t>(at));
  const auto rest = arguments.begin() + static_cast<std::ptrdiff_t>(at);
  const bool may_create = std::find_if(rest, arguments.end(), [](const std::string& word) {
                            return word == "create" || word == "start" || word == "run";
                          }) != arguments.end();
  if (!unknown.empty() && may_create) {
    return absl::InvalidArgumentError(absl::StrCat("unknown flag --", unknown, " before the command"));
  }
  if (at < arguments.size()) line.command = arguments[at++];
  if (line.command == "kill") {
    ReadKill(arguments, at, line);
    return line;
  }
  if (line.command != "create" && line.command != "start") return line;

  status = ReadFlags(arguments, CreateWithValue(), CreateAlone(), at, unknown, [&line](const Flag& flag) {
    if (flag.name == "bundle" || flag.name == "b") line.bundle = flag.value;
    if (flag.name == "pid-file") line.pid_file = flag.value;
    if (flag.name == "console-socket") line.console_socket = flag.value;
  });
  if (!status.ok()) return status;
  if (!unknown.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unknown flag --", unknown, " of ", line.command));
  }
  if (at + 1 == arguments.size()) line.id = arguments[at];
  if (!IsId(line.id)) {
    return absl::InvalidArgumentError(absl::StrCat(line.command, " needs the id of one container"));
  }
  return line;
}

}  // namespace godwit::godwit_runtime
