// SPDX-License-Identifier: Apache-2.0
// Other programs: started without a shell, with nothing inherited that was not asked for, and never waited
// for without a deadline.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/file.h"

namespace godwit {

// How a process ended.
struct ExitStatus {
  int code = 0;    // exit code, when signal is 0
  int signal = 0;  // the signal that killed it, or 0
  bool ok() const { return code == 0 && signal == 0; }
  std::string ToString() const;  // "exit status 3", "killed by signal 9 (Killed)"
};

// The child is in a process group of its own, with signals at their defaults and no descriptor above 2.
// The steps before exec happen in the order of the fields.
struct SpawnOptions {
  std::optional<std::vector<std::string>> env;  // "NAME=value"; nullopt: this process' own
  // Descriptors of this process that become 0, 1 and 2; -1 is /dev/null. They stay the caller's.
  int stdin_fd = -1;
  int stdout_fd = -1;
  int stderr_fd = -1;
  bool new_session = false;      // setsid instead of setpgid: survives the end of this process' session
  bool die_with_parent = false;  // SIGKILL when the *thread* that spawned it ends
  std::string cgroup;            // folder of a cgroup2 to move into
  // Files to setns(2) into, e.g. "/proc/1/ns/mnt". A pid namespace would count for the child's own children
  // only.
  std::vector<std::string> namespaces;
  std::string cwd;  // in the namespaces entered; empty: as it is
  // Runs last before exec, between fork and exec: async-signal-safe calls only. Returns 0 or an errno.
  std::function<int()> before_exec;
};

// A running child. When it goes without Wait having seen the end, and without Release, the whole process
// group is killed and the child reaped.
class Child {
 public:
  // argv[0] without a slash is looked up in this process' PATH. That exec failed is an error here, not an
  // exit code.
  static absl::StatusOr<Child> Spawn(const std::vector<std::string>& argv, const SpawnOptions& options = {});
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  ~Child();

  pid_t pid() const { return pid_; }
  // Becomes readable when the child has ended; for poll(2).
  int pidfd() const { return pidfd_.get(); }
  // DeadlineExceeded while it still runs; the child is left alone then. May be repeated after the end.
  absl::StatusOr<ExitStatus> Wait(absl::Duration limit);
  // Signals the process group. OK when it is gone already.
  absl::Status Signal(int signal);
  // Lets the child outlive this object. The caller reaps it, or init when this process has ended.
  pid_t Release();

 private:
  Child(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  void KillAndReap();

  pid_t pid_ = -1;
  UniqueFd pidfd_;
  std::optional<ExitStatus> ended_;
};

struct RunOptions {
  SpawnOptions spawn;  // stdout and stderr of it are not used, and stdin only where `input` is empty
  absl::Duration limit = absl::Seconds(30);
  size_t max_output =
      size_t{1} << 20;  // kept of each of stdout and stderr; what is beyond is read and dropped
  std::string input;    // what it reads from stdin
};

struct RunResult {
  ExitStatus status;
  std::string out;
  std::string err;
  bool truncated = false;  // more was written than max_output
};

// Runs to the end of the process itself (what it left in the background does not count). At the limit the
// process group is killed: DeadlineExceeded. A program that ran and failed is a result, not an error.
absl::StatusOr<RunResult> Run(const std::vector<std::string>& argv, const RunOptions& options = {});

// The same for a program that must succeed: its stdout. Otherwise an Internal error that quotes command, end
// and stderr.
absl::StatusOr<std::string> RunOrError(const std::vector<std::string>& argv, const RunOptions& options = {});

}  // namespace godwit
