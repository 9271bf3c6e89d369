// SPDX-License-Identifier: Apache-2.0
// The agent as a whole: every part made and joined, until it is told to end.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace godwit::serve {

struct ServeOptions {
  std::string node;
  std::string controller;  // host:port of its bootstrap service
  std::string token_file;
  std::string authority_file;
  int api_port = 0;
  int stream_port = 0;
  int metrics_port = 0;
  std::string install_folder;
  std::string state_folder;     // the same path here and on the host
  std::string run_folder;       // likewise
  std::string cri_socket;       // host path
  std::string kubelet_folder;   // host path
  bool memory_tracking = true;  // false: no pod is pre-copied
  int disk_reserve_percent = 15;
  bool on_host = false;  // runs on the host itself, not in a container (tests)
};

// Blocks until SIGTERM or SIGINT, then ends in order: what was frozen and not ceded is thawed by its guards.
absl::Status Serve(const ServeOptions& options);

}  // namespace godwit::serve
