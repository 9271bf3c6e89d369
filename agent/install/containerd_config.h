// SPDX-License-Identifier: Apache-2.0
// containerd's configuration, as `containerd config dump` prints it: what the new handler is copied from,
// what is written, and whether anything else has changed by it. Pure functions on TOML text.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::install {

// The first line of the file that Godwit writes: what does not begin so is somebody else's.
inline constexpr char kDropInMark[] = "# Written by godwit-agent install; removed by godwit-agent uninstall.";

// The node's ordinary handler: containerd's default one when it is of runc's kind, else the one named "runc".
struct OrdinaryHandler {
  std::string name;
  std::string binary;  // BinaryName; empty: runc from containerd's PATH
  bool systemd_cgroup = false;
};

struct ConfigDump {
  OrdinaryHandler ordinary;
  std::string socket;          // of its gRPC and CRI services
  std::string handler_binary;  // BinaryName of the handler `handler`; empty: it is not there
  std::vector<std::string>
      settings;  // all others, "path = value", sorted; without `handler` and the list of imports
};

// Reads a dump. FailedPrecondition when no handler of runc's kind is in it.
absl::StatusOr<ConfigDump> ParseConfigDump(absl::string_view dump, const std::string& handler);

// The drop-in that adds `handler` as a copy of the ordinary one in `dump`, with another binary and with the
// pods' annotations godwit.io/* passed on.
absl::StatusOr<std::string> WriteDropIn(absl::string_view dump, const std::string& handler,
                                        const std::string& binary);

// The settings that are in one of the two only, at most `max` of them, for an error message; empty: they are
// the same.
std::vector<std::string> Differences(const ConfigDump& before, const ConfigDump& after, size_t max = 5);

}  // namespace godwit::install
