// SPDX-License-Identifier: Apache-2.0
// The command line of an OCI runtime as the shims of containerd and CRI-O give it to runc.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace godwit::godwit_runtime {

struct CommandLine {
  std::vector<std::string> global;  // the arguments before the command, as they came
  std::string command;              // "create", "start", ...; empty when there is none
  std::string root = "/run/runc";   // runc's own default
  std::string log;
  bool log_json = false;
  bool systemd_cgroup = false;
  // Of `create`:
  std::string bundle = ".";
  std::string pid_file;
  std::string console_socket;
  // Of `create`, `start` and `kill`: the container.
  std::string id;
  std::string signal = "SIGTERM";  // of `kill`, as it was written
};

// `arguments` without argv[0]. InvalidArgument when they may mean `create` or `start` but cannot be
// understood: what might be a restore must not pass for something else.
absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments);

}  // namespace godwit::godwit_runtime
