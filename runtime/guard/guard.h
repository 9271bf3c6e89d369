// SPDX-License-Identifier: Apache-2.0
// The source's side of a hand-over, decided: what each command, a lost agent and the freeze limit mean in
// each state. No I/O of its own: it acts through Acts, and time comes in as an argument. One thread.
//
// In kOpen dumps may be armed: held at their gates, to be begun when the pod is frozen.
//
//   kOpen --Freeze--> kFrozen --Cede--> kCeded --Kill--> kDone
//      \                 |                 |
//       \   Thaw, agent gone, freeze limit, |
//        \  dump failed  |                 TargetAborted
//         `-------> kAborted <-------------'
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"

namespace godwit::guard {

using agent_api::GuardCommand;
using agent_api::GuardOp;
using agent_api::GuardReply;
using agent_api::GuardSpec;
using agent_api::SourceState;

// A refusal with its reason for the reply (CamelCase).
struct Refusal {
  std::string reason;
  std::string message;
};

// The moment from which nothing of the pod ran.
struct FreezeMoment {
  absl::Duration monotonic;  // when it began
  absl::Time wall;
  absl::Duration still;  // monotonic: when everything stood
};

// What the guard does to the machine. Each call is finished when it returns, but for StartDump.
class Acts {
 public:
  virtual ~Acts() = default;
  // Checks that the pod may be frozen, calls `before_freeze` (which journals), freezes all containers
  // together and checks again; all of that again where it helps. `moment` is of the freeze that holds. With a
  // refusal nothing is frozen.
  virtual std::optional<Refusal> Freeze(const std::function<absl::Status()>& before_freeze,
                                        FreezeMoment* moment) = 0;
  virtual absl::Status Thaw() = 0;
  // OK while all containers stand still; NotFound when of a process that did nothing is left.
  virtual absl::Status StillFrozen() = 0;
  // From here on nothing runs that is put into the pod's cgroup, whoever starts it, until Thaw or Kill.
  virtual absl::Status HoldPod() = 0;
  // Also what was started in the pod while it was held.
  virtual absl::Status Kill() = 0;
  // Appends to the journal and returns when it is on the disk. With an error the record may be there or not;
  // the state that the journal is in then, read again from the disk, is in `*now` (kNone: it cannot be read).
  virtual absl::Status Journal(SourceState state, absl::string_view reason, absl::string_view message,
                               SourceState* now) = 0;
  // Starts the dump of every container and returns when each of them is held at its gate; those that are held
  // already stay so. With an error none is held.
  virtual absl::Status Arm() = 0;
  // Ends the dumps that are held at their gates.
  virtual void Disarm() = 0;
  // Begins the dump: opens its gate, where it is held at one.
  virtual absl::Status StartDump(const std::string& container) = 0;
  // Asks the running dump to end early; its end is reported as any other.
  virtual void AbortDump() = 0;
};

class Guard {
 public:
  // `recovered`: what the journal says already, when an earlier guard of the same spec has died. Call Recover
  // then.
  Guard(const GuardSpec& spec, Acts& acts, SourceState recovered);

  // Thaws what an earlier guard left frozen and not ceded, or Aborted and perhaps not thawed yet.
  void Recover(absl::Duration now);

  // Answers a command, or nothing while a dump runs that it started: DumpEnded answers then.
  std::optional<GuardReply> Handle(const GuardCommand& command, absl::Duration now);
  // The running dump has ended. The answer to its kDump command.
  GuardReply DumpEnded(const absl::Status& result, absl::Duration now);
  // The agent's connection is gone, or this process was told to end.
  void AgentGone(absl::Duration now);
  // A command to thaw has come while a dump runs.
  void Hurry();
  // Looks at the freeze limit, and again at a journal that could not be read.
  void Tick(absl::Duration now);

  SourceState state() const { return state_; }
  bool dumping() const { return dumping_.has_value(); }
  // Nothing is left to answer for: the process may go once its agent has heard.
  bool finished() const { return state_ == SourceState::kDone || state_ == SourceState::kAborted || gone_; }
  // When Tick has something to do; nullopt: never.
  std::optional<absl::Duration> deadline() const;
  GuardReply Status(absl::Duration now) const;

 private:
  GuardReply Refuse(absl::string_view reason, absl::string_view message, absl::Duration now) const;
  // Of what the state does not allow (any more): where it has aborted, that was why.
  GuardReply RefuseNow(absl::string_view what, absl::Duration now) const;
  GuardReply Arm(absl::Duration now);
  GuardReply Freeze(absl::Duration now);
  std::optional<GuardReply> Dump(const std::string& container, absl::Duration now);
  GuardReply Cede(absl::Duration now);
  GuardReply WriteCeded(absl::Duration now);
  GuardReply Thaw(const std::string& message, absl::Duration now);
  GuardReply TargetAborted(const std::string& message, absl::Duration now);
  GuardReply Kill(absl::Duration now);
  // Thaws and journals, from kOpen or kFrozen.
  void Abort(absl::string_view reason, absl::string_view message, absl::Duration now);
  void Disarm();
  // As Abort, after a running dump has ended.
  void AbortAfterDump(absl::string_view reason, absl::string_view message, absl::Duration now);

  const GuardSpec& spec_;
  Acts& acts_;
  SourceState state_;
  bool gone_ = false;    // the agent left before anything was frozen
  bool unsure_ = false;  // with kCeded: nobody knows what the journal says
  absl::Duration look_again_;
  bool armed_ = false;  // dumps may be held at their gates
  std::optional<std::string> dumping_;
  std::set<std::string> dumped_;
  std::optional<Refusal> abort_after_dump_;
  Refusal why_;  // with kAborted
  absl::Time frozen_at_;
  absl::Duration frozen_since_;
  absl::Duration frozen_for_;  // when it has ended
};

// Does what stands frozen go on when the process ends, whatever ends it? Not what is ceded, or may be
// (nullopt: the journal cannot be read).
bool ThawsAsItEnds(std::optional<SourceState> journaled);

// May the process of this guard end? `had_agent`: an agent has been connected; `has_agent`: one is; `idle`:
// since there was last something to do.
bool MayEnd(const Guard& guard, bool had_agent, bool has_agent, absl::Duration idle);

}  // namespace godwit::guard
