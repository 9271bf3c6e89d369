// SPDX-License-Identifier: Apache-2.0
// The agent's side of a godwit-guard: starts one on the host, and talks to it. Not thread-safe; one
// conversation at a time. While the object lives and nothing is ceded, the guard keeps the pod frozen for it:
// dropping it thaws.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "base/socket.h"

namespace godwit::guard {

class GuardClient {
 public:
  // `socket`: GuardSpec.socket as seen from here. NotFound or Unavailable when no guard serves there.
  static absl::StatusOr<GuardClient> Connect(const std::string& socket,
                                             absl::Duration limit = absl::Seconds(5));

  // An error is the connection's (Unavailable: the guard is gone, DeadlineExceeded: no answer in time), which
  // is ended then: what is answered late must not be taken for the answer to something else. A refusal is a
  // reply with ok = false, its reason and message; the guard has thawed where its state is Aborted.
  absl::StatusOr<agent_api::GuardReply> Arm(absl::Duration limit = absl::Seconds(20));
  absl::StatusOr<agent_api::GuardReply> Freeze(absl::Duration limit = absl::Seconds(10));
  absl::StatusOr<agent_api::GuardReply> Dump(const std::string& container, absl::Duration limit);
  absl::StatusOr<agent_api::GuardReply> Cede();
  absl::StatusOr<agent_api::GuardReply> Thaw(const std::string& why);
  absl::StatusOr<agent_api::GuardReply> TargetAborted(const std::string& why);
  absl::StatusOr<agent_api::GuardReply> Kill();
  absl::StatusOr<agent_api::GuardReply> Status();

  // Readable, with nothing asked, means that the guard has ended; for poll(2).
  int fd() const { return channel_.fd(); }
  // Ends the conversation from another thread, and with it the freeze.
  void Shutdown() { channel_.Shutdown(); }

 private:
  explicit GuardClient(LineChannel channel) : channel_(std::move(channel)) {}
  absl::StatusOr<agent_api::GuardReply> Ask(const agent_api::GuardCommand& command, absl::Duration limit);

  LineChannel channel_;
};

// How to start a guard from where this process is.
struct GuardLaunch {
  std::string binary = "/opt/godwit/bin/godwit-guard";  // host path
  std::string spec_file;                                // host path; written by StartGuard
  std::string
      host_root;  // put before host paths to see them from here: "/proc/1/root"; "" on the host itself
  std::string host_namespaces;  // folder of the host's namespaces: "/proc/1/ns"; "" on the host itself
};

// Writes the spec, starts a guard in the host's namespaces and connects. The guard leaves this process'
// cgroup, session and namespaces. When an earlier guard of the same spec died, the new one reads its journal:
// what was frozen and not ceded is thawed, what was ceded stays frozen and is answered for again.
absl::StatusOr<GuardClient> StartGuard(const agent_api::GuardSpec& spec, const GuardLaunch& launch);

// Lifts the fences on the host that guards have left when they were killed, and that no new guard of their
// spec has taken over. `criu_folder`: host path of the bundle with nft. `launch.spec_file` is not looked at.
absl::Status LiftFencesLeft(const GuardLaunch& launch, const std::string& criu_folder);

}  // namespace godwit::guard
