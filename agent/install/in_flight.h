// SPDX-License-Identifier: Apache-2.0
// What must not be disturbed on a node: a restart of the container runtime ends every `create` that is under
// way, and with it the migration that it belongs to.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace godwit::install {

// What is in flight, as a sentence for a person; empty: nothing is. `permits` is the folder of permits,
// `proc` /proc. No process of a container, and none of an ordinary user, can look like something in flight.
absl::StatusOr<std::string> WhatIsInFlight(const std::string& permits, const std::string& proc);

// How many tasks containerd keeps whose runtime is `binary`: sandboxes and containers behind the handler.
// `tasks` is the folder of its bundles, usually /run/containerd/io.containerd.runtime.v2.task.
absl::StatusOr<int> TasksOfRuntime(const std::string& tasks, const std::string& binary);

}  // namespace godwit::install
