// SPDX-License-Identifier: Apache-2.0
// The guard's loop: one agent's connection, one dump, time.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/socket.h"
#include "runtime/guard/acts.h"
#include "runtime/guard/guard.h"

namespace godwit::guard {

class Server {
 public:
  // `end_signal`: a descriptor that becomes readable when the process is told to end, or -1.
  Server(const GuardSpec& spec, HostActs& acts, UniqueFd listener, int end_signal,
         Clock& clock = Clock::Real());

  // Returns when nothing is left to answer for.
  void Run();

 private:
  void Wait();
  void Accept();
  void ReadCommands();
  void HandleCommands();
  void WatchDump();
  void Reply(const GuardReply& reply);
  void LoseAgent();
  // How long to sleep at most, in milliseconds; -1: until something happens.
  int Timeout() const;
  bool Finished() const;

  HostActs& acts_;
  UniqueFd listener_;
  int end_signal_;
  Clock& clock_;
  Guard guard_;
  std::optional<LineChannel> agent_;
  std::deque<std::string> commands_;
  bool had_agent_ = false;
  absl::Duration idle_since_;  // monotonic; when there was last something to do
};

}  // namespace godwit::guard
