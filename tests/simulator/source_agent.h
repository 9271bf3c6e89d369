// SPDX-License-Identifier: Apache-2.0
// The source's agent as a process that can be stopped between any two of its acts: it does stage by stage
// what source.cc, source_copy.cc, source_send.cc and source_serve.cc do, with the product's tables and
// decisions.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "agent/migration/decisions.h"
#include "agent/migration/handover.h"
#include "tests/simulator/guard_process.h"
#include "tests/simulator/world.h"

namespace godwit::simulator {

using migration::SourceEvent;
using migration::SourceStage;

// As migration::Guards; nullptr: there is none, or it could not be started.
struct SourceNode {
  std::function<std::shared_ptr<GuardLink>()> start;
  std::function<std::shared_ptr<GuardLink>()> find;
  std::function<bool()> guard_lives;
  std::function<bool()> target_listens;
};

class SourceAgent {
 public:
  SourceAgent(World& world, SourceNode node, int rounds);

  bool Ready() const;
  Micros NextTime() const;
  void Step();
  void Crash();
  void Restart();

  // What the API is asked.
  void Abort();
  void Finish(bool abandon, bool unconfirmed);
  void Reclaim();

  bool up() const { return up_; }
  bool busy() const { return busy_; }
  bool over() const { return up_ && over_; }  // final, and the target told as well as it can be
  SourceStage stage() const { return stage_; }
  bool MayBeAborted() const { return up_ && !abort_ && AbortIn(stage_) == migration::AbortAnswer::kNoted; }
  bool MayBeKilled() const {
    return up_ && migration::MayBeKilled(stage_, target_running_, serves_, abandon_);
  }
  bool MayBeReclaimed() const { return up_ && migration::MayBeReclaimed(stage_, target_running_); }
  bool reclaimed() const { return reclaim_; }
  bool ceded() const { return up_ && StateOf(stage_) == SourceState::kCeded; }
  bool target_running() const { return up_ && target_running_; }
  void LookAtTheClock() { wake_ = 0; }
  Micros stalled_until = 0;

 private:
  enum class Outcome { kWaiting, kYes, kNo };

  std::optional<SourceEvent> Perform();
  std::optional<SourceEvent> Copy();
  std::optional<SourceEvent> Resume();
  std::optional<SourceEvent> Freeze();
  std::optional<SourceEvent> Send();
  std::optional<SourceEvent> AwaitPrepared();
  std::optional<SourceEvent> Cede();
  std::optional<SourceEvent> AskGuard();
  std::optional<SourceEvent> Commit();
  std::optional<SourceEvent> AskTarget();
  std::optional<SourceEvent> TakeBack();
  std::optional<SourceEvent> ServePages();
  std::optional<SourceEvent> Kill();
  std::optional<SourceEvent> Thaw();
  void TellAbort();

  void Listen();
  void Hear(const Message& message);
  void StopListening();
  void LeaveGuard();
  migration::SourceHears Hears() const;
  SourceState JournalState();
  Outcome Reach(Greeting greeting, Micros limit);
  // `word` is set with kYes.
  Outcome Ask(agent_api::GuardOp op, Micros limit, std::optional<migration::GuardWord>* word);
  Outcome EnsureGuard();
  Outcome AskEnsuredGuard(agent_api::GuardOp op, Micros limit, std::optional<migration::GuardWord>* word);
  // Waits, then says the event.
  std::optional<SourceEvent> After(Micros pause, SourceEvent event);
  std::optional<SourceEvent> Wait(Micros until) {
    wake_ = until;
    return std::nullopt;
  }
  // What deadlines are counted by, and when one of them has come.
  Micros Clock() const { return world_.now(); }
  Micros ToNow(Micros deadline) const { return world_.now() + deadline - Clock(); }

  World& world_;
  const SourceNode node_;
  bool up_ = true;
  bool busy_ = false;
  bool over_ = false;
  Micros wake_ = 0;  // when there is something to do, with nothing new to hear

  // The thread's own.
  SourceStage stage_ = SourceStage::kConnecting;
  int step_ = 0;
  int rounds_;
  std::optional<SourceEvent> after_;  // with pause_until_
  Micros pause_until_ = 0;
  Micros deadline_ = 0;
  int stream_ = 0;
  int greeting_ = 0;  // a stream whose HELLO is not answered yet
  Micros greeting_until_ = 0;
  TargetState answer_ = TargetState::kNone;
  bool refused_ = false;
  std::shared_ptr<GuardLink> guard_;
  bool asking_ = false;
  Micros ask_until_ = 0;
  int ensure_ = 0;
  Micros freeze_begin_ = 0;
  bool told_ = false;  // the target, of an abort
  int attempts_ = 0;

  // What was heard, and wished for.
  migration::SourceHears heard_;
  bool at_gate_ = false;
  bool missing_ = false;  // said with RUNNING
  bool listed_ = false;
  bool none_missing_ = false;
  bool abort_ = false;
  bool reclaim_ = false;
  bool finish_ = false;
  bool abandon_ = false;
  bool serves_ = false;
  bool target_running_ = false;
};

}  // namespace godwit::simulator
