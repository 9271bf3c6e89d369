// SPDX-License-Identifier: Apache-2.0
// Real containers for the node tests: made by runc as containerd has it made, dumped by godwit-guard,
// restored as godwit-runtime does it. Errors fail the calling test.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "agent/criu/plan.h"
#include "base/file.h"
#include "base/process.h"

namespace godwit::node_test {

// What tests/node/run hands in by environment variables.
struct Node {
  std::string work;      // a folder on a real disk, for this run
  std::string criu;      // the CRIU bundle
  std::string guard;     // godwit-guard
  std::string pager;     // godwit-pager
  std::string workload;  // the static workload program
  std::string agent;     // node_agent
  std::string tracker_workload;
  std::string runc = "/usr/sbin/runc";
  criu::Version runc_version;
  std::string own_cgroup;  // of this process, below /sys/fs/cgroup
  static const Node& Get();
  criu::Programs programs() const { return {runc, runc_version, criu}; }
};

// The pod of all containers, as their bundles say.
inline constexpr char kPodUid[] = "7c9f5d1e-1111-4222-8333-444455556666";

// Collects the lines that come out of a pipe.
class Output {
 public:
  Output();
  ~Output();
  int write_end() const { return write_.get(); }
  void CloseWriteEnd() { write_.Reset(); }

  std::vector<std::string> lines() const;
  std::string text() const;
  // True when there are `count` lines before `limit` is over.
  bool WaitLines(size_t count, absl::Duration limit = absl::Seconds(20)) const;
  // The numbers at the beginning of the lines.
  std::vector<long> numbers() const;

 private:
  void Read();

  UniqueFd read_, write_, stop_;
  mutable absl::Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// Namespaces for containers to join, as a pod's pause container gives them.
class Sandbox {
 public:
  Sandbox();
  pid_t pid() const { return child_->pid(); }

 private:
  std::unique_ptr<Child> child_;
};

// A container, from its making to its removal.
class Container {
 public:
  // A bundle that runs `workload ARGUMENTS` in the sandbox; nothing is started.
  Container(std::string id, const Sandbox& sandbox, std::vector<std::string> arguments);
  ~Container();  // kills and deletes it, also frozen

  void Start();  // runc run --detach
  // As godwit-runtime: runc restore of these images, held standing still. The result is runc's, with CRIU's
  // reason.
  absl::Status Restore(const std::string& images, const std::string& gate = "", bool lazy_pages = false,
                       const std::string& shared_memory = "");
  // The same without a gate, a variable (criu_environment.h) having another value.
  absl::Status RestoreWith(const std::string& images, const std::string& name, const std::string& value);
  void Thaw();
  bool Frozen() const;
  bool Running() const;  // some process is in its cgroup
  pid_t init_pid() const;

  Output& output() { return *output_; }
  const std::string& id() const { return id_; }
  std::string cgroup() const { return "/sys/fs/cgroup" + cgroup_path_; }
  std::string images() const { return folder_ + "/images"; }
  std::string work() const { return folder_ + "/work"; }
  const std::string& bundle() const { return folder_; }
  std::string rootfs() const { return folder_ + "/rootfs"; }
  agent_api::GuardContainer Spec() const;

 private:
  criu::Plan PlanRestore(const std::string& images, const std::string& gate, bool lazy_pages,
                         const std::string& shared_memory);
  absl::Status Restore(const criu::Plan& plan);
  void WriteConfig(const Sandbox& sandbox, const std::vector<std::string>& arguments) const;

  std::string id_, folder_, cgroup_path_;
  std::unique_ptr<Output> output_;
};

// A spec for these containers, with files in a fresh folder.
agent_api::GuardSpec SpecFor(const std::vector<const Container*>& containers,
                             absl::Duration freeze_limit = absl::Seconds(20));

}  // namespace godwit::node_test
