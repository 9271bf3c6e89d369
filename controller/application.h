// SPDX-License-Identifier: Apache-2.0
// godwit-controller as a whole: certificates, servers, leader election and the reconcilers, put together.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/controllers.h"
#include "k8s/config.h"

namespace godwit::controller {

struct ApplicationOptions {
  std::string name_space;  // where we and the agents run
  std::string identity;    // ours among the replicas: the pod's name
  std::string listen = "0.0.0.0";
  int bootstrap_port = 9443;
  int metrics_port = 9554;
  int health_port = 9555;
  int agent_api_port = agent_api::kDefaultApiPort;
  ControllersSettings controllers;
};

// Runs until SIGTERM or SIGINT (OK), or until something fails for good. Blocks these signals in the calling
// thread: call it from main, before there are other threads.
absl::Status RunController(const k8s::Config& config, const ApplicationOptions& options);

}  // namespace godwit::controller
