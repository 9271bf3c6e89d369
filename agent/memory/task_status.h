// SPDX-License-Identifier: Apache-2.0
// What /proc/PID/status says of a task, as far as the tracker depends on it.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::memory {

struct TaskStatus {
  std::string command;      // printable
  pid_t container_pid = 0;  // in the innermost pid namespace
  pid_t tracer = 0;
  bool has_memory = false;  // a zombie or a kernel thread has none
  bool locked = false;      // some mapping is locked (mlock(2))
  bool seccomp = false;     // a seccomp filter decides on its system calls
  bool shadow_stack = false;
};

TaskStatus ParseTaskStatus(absl::string_view text);

// NotFound when the process is gone.
absl::StatusOr<TaskStatus> ReadTaskStatus(const std::string& proc, pid_t pid);

}  // namespace godwit::memory
