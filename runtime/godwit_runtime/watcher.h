// SPDX-License-Identifier: Apache-2.0
// A process between godwit-runtime and the `runc restore` that it runs, which sees to it that no restore
// outlives its `create`: the shim kills godwit-runtime alone (at kubelet's deadline, when kubelet or the
// container runtime is restarted), and runc, CRIU and what they have restored would go on unknown to anybody.
//
// The watcher is a session of its own and a child subreaper, so that all of the restore stays below it. When
// godwit-runtime ends without a word, or says so, the watcher kills the container's cgroup first (so that a
// task whose tracer dies cannot run), then all that is below it, and removes what runc knows of the
// container. It keeps the descriptors that it was given, among them the agent's connection: that closes when
// nothing of the restore is left.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/file.h"

namespace godwit::godwit_runtime {

class Watcher {
 public:
  struct Task {
    std::vector<std::string> argv;         // `runc restore`; gets this process' stdin, stdout and stderr
    std::vector<std::string> env;          // all of its environment
    std::vector<std::string> delete_argv;  // `runc delete --force`
    // What runc mounts while it restores lies below these and would stay when it is killed. It must be gone
    // before runc deletes the container: it removes its folder with all that is in it, volumes mounted there
    // included.
    std::vector<std::string> mount_folders;
    std::string cgroup_root;  // the cgroup2 mount
    std::string cgroup;       // the container's, below it
  };
  // Forks; the process must have one thread.
  static absl::StatusOr<Watcher> Start(const Task& task);
  Watcher(Watcher&&) = default;
  Watcher& operator=(Watcher&&) = delete;
  // Destroy, unless the watcher has ended.
  ~Watcher();

  pid_t pid() const { return pid_; }
  // Readable when the command has ended, or the watcher has; for poll(2).
  int fd() const { return socket_.get(); }
  // Whether a child of the command has ended and the command does not mind. CRIU that is killed: what it has
  // forked holds its connection to runc open, and runc waits for a word for ever.
  bool LeavesADeadChild() const;
  // How the command ended, after fd() became readable. Internal when it failed.
  absl::Status Ended();
  // Everything of the restore has gone when this returns OK.
  absl::Status Destroy();
  // Leaves the restored container to the subreaper above, the shim.
  absl::Status Release();

 private:
  Watcher(pid_t pid, UniqueFd socket) : pid_(pid), socket_(std::move(socket)) {}
  absl::Status Finish(char word, absl::Duration limit);

  pid_t pid_ = -1;
  UniqueFd socket_;
};

}  // namespace godwit::godwit_runtime
