// SPDX-License-Identifier: Apache-2.0
// The node's containerd, seen from the host's namespaces.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace godwit::install {

// A process of containerd; two are the same when both numbers are.
struct ContainerdProcess {
  int pid = 0;
  int64_t started = 0;  // clock ticks after boot, /proc/PID/stat
  std::string ToString() const;
  bool operator==(const ContainerdProcess&) const = default;
};

// What the installer needs of it. The real one is HostContainerd; tests have one that behaves.
class Containerd {
 public:
  virtual ~Containerd() = default;
  // Unavailable when it does not run.
  virtual absl::StatusOr<ContainerdProcess> Process() = 0;
  // `containerd config dump`: what it would run with after a restart.
  virtual absl::StatusOr<std::string> ConfigDump() = 0;
  // The absolute path of a program, looked up as containerd would.
  virtual absl::StatusOr<std::string> FindProgram(const std::string& name) = 0;
  // The runtime handlers that it knows now. `socket` as the dump says.
  virtual absl::StatusOr<std::vector<std::string>> Handlers(const std::string& socket) = 0;
  // Returns when the restart was ordered; containerd may not be back yet.
  virtual absl::Status Restart() = 0;
};

// `config`: its main configuration file, which tells it from other containerds of the host (Docker's, those
// of nested clusters). `restart_command` is run by /bin/sh.
std::unique_ptr<Containerd> HostContainerd(std::string config, std::string restart_command);

// The processes of which a test decides; `proc` is usually "/proc". Unavailable when none fits.
absl::StatusOr<ContainerdProcess> FindContainerd(const std::string& proc, const std::string& config);

}  // namespace godwit::install
