// SPDX-License-Identifier: Apache-2.0
// The exact commands by which runc and CRIU dump and restore a container, for runc 1.1 to 1.5 alike.
// Planning is pure; Prepare writes what the command needs; then run `argv` with `env` from the host's
// namespaces.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "agent/api/host_protocol.h"

namespace godwit::criu {

// major, minor, patch of runc or CRIU.
struct Version {
  int major = 0;
  int minor = 0;
  int patch = 0;
  auto operator<=>(const Version&) const = default;
  std::string ToString() const;
};
// The first "1.2.3" or "1.2" in `text`, e.g. the output of `runc --version` or `criu --version`; 0.0.0 when
// there is none.
Version ParseVersion(absl::string_view text);

struct Plan {
  std::vector<std::string> argv;
  std::vector<std::string> env;  // all of it: "NAME=value"
  std::string config_file;       // CRIU's options, written by Prepare
  std::string config;
  std::string abort_file;  // dump: one zero byte, written by Prepare (kAbortVariable)
  std::string gate;        // dump: made by Prepare
  std::string done;        // dump: FIFO that gets a byte at its end (kDoneVariable), made by Prepare
  std::string log_file;    // where CRIU will have written its log
  std::string messages;    // where CRIU's stderr goes
};

// Where the two programs are.
struct Programs {
  std::string runtime;      // runc, absolute
  Version runtime_version;  // decides how options reach CRIU
  std::string criu_folder;  // put first in PATH
};

struct DumpOptions {
  std::string gate;     // FIFO at which CRIU waits before it does anything, made by Prepare; or empty
  bool fenced = false;  // the pod's packets are dropped while it stands still: CRIU need not lock connections
};

// Dumps a container whose cgroup is frozen (by when the gate is opened) and leaves it frozen. Established TCP
// connections go into the image.
Plan PlanDump(const Programs& programs, const agent_api::GuardContainer& container,
              const DumpOptions& options = {});

struct RestoreRequest {
  // runc's before its command, as the shim gave them: --root, and --log, without which runc writes into the
  // container's stderr.
  std::vector<std::string> global_arguments;
  std::string id;
  std::string bundle;
  std::string pid_file;
  std::string images;
  std::string work;  // CRIU's log, config and messages; must exist
  std::string
      cgroup;  // below the cgroup2 mount, from linux.cgroupsPath, with both drivers resolved: "/kubepods/..."
  std::string cgroup_root;    // where cgroup2 is mounted: "/sys/fs/cgroup"
  std::string own_cgroup;     // the caller's, below cgroup_root (the 0:: line of /proc/self/cgroup)
  std::string gate;           // FIFO, or empty
  bool lazy_pages = false;    // a lazy-pages daemon listens at LazyPagesSocket(work)
  std::string shared_memory;  // file for kSharedMemoryVariable, there when the gate is opened; or empty
};

// Where CRIU, started by runc, looks for the lazy-pages daemon (criu/uffd.c).
std::string LazyPagesSocket(absl::string_view work);

// Restores with established connections closed, into the bundle's own cgroup, standing still (frozen) when
// runc returns. Stdin, stdout and stderr of the command must be the container's: CRIU gives them to the
// restored tasks.
Plan PlanRestore(const Programs& programs, const RestoreRequest& request);

// Lets CRIU find out what this kernel can do, which it keeps in /run until the next boot: the first dump or
// restore on a node is 50 ms shorter then. Does nothing when that was done; errors are not told, the dump
// itself will.
void WarmUp(const Programs& programs);

// Writes the plan's config and abort file and makes its FIFOs (folders must exist).
absl::Status Prepare(const Plan& plan);

}  // namespace godwit::criu
