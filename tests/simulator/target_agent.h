// SPDX-License-Identifier: Apache-2.0
// The target's agent as a process that can be stopped between any two of its acts: it does what target.cc,
// target_stream.cc and target_pull.cc do, with the product's tables and decisions. Its permits and the pager
// are part of the world.
#pragma once

#include <optional>
#include <vector>

#include "agent/migration/decisions.h"
#include "agent/migration/handover.h"
#include "tests/simulator/world.h"

namespace godwit::simulator {

using migration::TargetEvent;
using migration::TargetStage;

class TargetAgent {
 public:
  // `claim_at`: when kubelet's `create` waits; `post_copy`: pages are left with the source.
  TargetAgent(World& world, Micros claim_at, bool post_copy);

  bool Ready() const;
  Micros NextTime() const;
  void Step();
  void Crash();
  void Restart();
  void Abort();  // the API, or a stream
  void TakeOver();

  bool up() const { return up_; }
  bool busy() const { return busy_; }
  bool MayTakeOver() const { return up_ && migration::MayTakeOver(stage_) && !abort_ && !commit_; }
  bool post_copy() const { return post_copy_; }
  bool final() const { return up_ && IsFinal(stage_); }
  TargetStage stage() const { return stage_; }
  // Whether a `create` of the copy's container is an ordinary start by now.
  bool spent() const { return up_ && spent_; }
  void LookAtTheClock() { wake_ = 0; }
  Micros stalled_until = 0;

 private:
  struct Served {
    int id;
    bool greeted = false;
    bool brings = false;  // the state
  };

  std::optional<TargetEvent> Perform();
  std::optional<TargetEvent> Restore();
  std::optional<TargetEvent> Prepare();
  std::optional<TargetEvent> AwaitVerdict();
  std::optional<TargetEvent> Commit();
  bool Do(migration::CommitAct act);
  std::optional<TargetEvent> AwaitPages();
  std::optional<TargetEvent> EndCopy();
  bool Do(migration::EndAct act);
  void BeginPulling();
  void EndPulling();
  bool WriteState(TargetState state);
  void Tell(Frame frame);
  void TellRunning(int stream);

  // True when a stream had something to say.
  bool Serve();
  void Greet(Served& served, const Message& hello);
  void TakeState(Served& served, const Message& message);
  void TakeVerdict(Served& served, const Message& message);
  void SeeEnd(const Served& served);
  void HangUp(int id);

  Micros Clock() const { return world_.now(); }
  std::optional<TargetEvent> Wait(Micros until) {
    wake_ = until;
    return std::nullopt;
  }

  World& world_;
  const Micros claim_at_;
  const bool post_copy_;
  bool up_ = true;
  bool busy_ = false;
  Micros wake_ = 0;

  TargetStage stage_ = TargetStage::kRestoring;
  int step_ = 0;
  Micros until_ = 0;
  bool recovered_ = false;
  bool abort_ = false;
  bool commit_ = false;
  bool thawed_ = false;
  bool spent_ = false;
  bool armed_ = false;
  bool has_state_ = false;
  bool in_rounds_ = false;
  migration::Bringing bringing_ = migration::Bringing::kNotBegun;
  Micros resume_by_ = kNever;
  std::vector<Served> served_;
  int stream_ = 0;  // the source's newest
  int told_ = 0;    // the last over which RUNNING was said
  int listed_ = 0;  // and what is missing
  bool pulled_ = false;
  Micros alone_since_ = kNever;
};

}  // namespace godwit::simulator
