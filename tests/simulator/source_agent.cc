// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/source_agent.h"

#include <algorithm>
#include <utility>

#include "base/json.h"

namespace godwit::simulator {
namespace {

using agent_api::GuardOp;
using migration::GuardWord;
using migration::SourceHears;
using migration::ThawStep;

// As in source*.cc and agent/guard/client.cc.
constexpr Micros kQuick = 10 * kSecond;
constexpr Micros kRunningLimit = 30 * kSecond;
constexpr Micros kGuardThawLimit = 8 * kSecond;
constexpr Micros kFreezeLimit = 10 * kSecond;  // of the simulated Migration, as in simulation.cc

}  // namespace

SourceAgent::SourceAgent(World& world, SourceNode node, int rounds)
    : world_(world), node_(std::move(node)), rounds_(rounds) {}

bool SourceAgent::Ready() const {
  if (!up_ || busy_ || over_ || stalled_until > world_.now()) return false;
  if (wake_ <= world_.now()) return true;
  if (greeting_ != 0) return world_.network.Readable(greeting_, End::kSource);
  if (stream_ != 0 && !heard_.lost && world_.network.Readable(stream_, End::kSource)) return true;
  const bool waits = asking_ || stage_ == SourceStage::kAwaitingPrepared;
  return waits && guard_ != nullptr && (!guard_->to_agent.empty() || !guard_->guard_open);
}

Micros SourceAgent::NextTime() const {
  if (!up_ || busy_ || over_) return kNever;
  return std::max(stalled_until, std::min(wake_, world_.network.NextTime(End::kSource)));
}

void SourceAgent::Step() {
  busy_ = true;
  wake_ = kNever;
  Listen();
  const std::optional<SourceEvent> event = Perform();
  busy_ = false;
  if (!up_ || !event.has_value()) return;
  std::optional<SourceStage> next = migration::Next(stage_, *event);
  const bool ceding = stage_ == SourceStage::kCeding || stage_ == SourceStage::kAskingGuard;
  if (world_.Mutated(Mutation::kNoRowForAborted) && ceding && *event == SourceEvent::kTargetAborted)
    next.reset();
  if (!next.has_value()) {
    world_.Violate("the source's table has no such transition");
    return;
  }
  if (*next != stage_) world_.Tell("source", migration::NameOf(*next));
  stage_ = *next;
  step_ = 0;
  ensure_ = 0;
  wake_ = world_.now();
}

void SourceAgent::Crash() {
  up_ = false;
  world_.network.CloseAll(End::kSource);
  LeaveGuard();
}

void SourceAgent::Restart() {
  const Micros stalled = stalled_until;
  const SourceNode node = node_;
  up_ = true;
  over_ = false;
  wake_ = world_.now();
  step_ = ensure_ = attempts_ = stream_ = greeting_ = 0;
  after_.reset();
  heard_ = {};
  at_gate_ = missing_ = listed_ = none_missing_ = false;
  abort_ = reclaim_ = finish_ = abandon_ = serves_ = asking_ = refused_ = false;
  told_ = true;  // Run tells nobody that it took up Aborted, and the rest has no stream
  stalled_until = stalled;
  const SourceState journal = JournalState();
  stage_ = migration::RecoveredStage(journal, world_.source_journal.holds(SourceState::kCeded),
                                     world_.source_thawed_noted);
  if (world_.Mutated(Mutation::kRestartAbortsFrozen) && journal == SourceState::kFrozen)
    stage_ = SourceStage::kAborting;
  if (world_.Mutated(Mutation::kAbortedStaysFrozen) && journal == SourceState::kAborted)
    stage_ = SourceStage::kAborted;
  target_running_ = stage_ == SourceStage::kDone;
  world_.Tell("source", "starts anew, and reads", json::Name(journal));
}

// --- what is asked from outside
// -----------------------------------------------------------------------------------------

void SourceAgent::Abort() {
  if (!MayBeAborted()) return;
  world_.Tell("source", "is told to abort");
  ++world_.figures.aborts;
  abort_ = true;
  const bool sends = stage_ == SourceStage::kCopying || stage_ == SourceStage::kSending;
  if (sends) StopListening();
  if (stage_ == SourceStage::kSending) LeaveGuard();
  wake_ = world_.now();
}

void SourceAgent::Reclaim() {
  if (!MayBeReclaimed()) return;
  world_.Tell("source", "is told that the target never will run");
  reclaim_ = true;
  if (greeting_ == 0) StopListening();
  wake_ = world_.now();
}

void SourceAgent::Finish(bool abandon, bool unconfirmed) {
  if (!up_) return;
  const bool ceded = StateOf(stage_) == SourceState::kCeded;
  if (unconfirmed && ceded && stage_ != SourceStage::kTakingBack) {
    target_running_ = true;
    if (stage_ == SourceStage::kCommitting) StopListening();
  }
  if ((abandon || unconfirmed) && target_running_ && ceded) abandon_ = true;
  if (!MayBeKilled()) return;
  finish_ = true;
  wake_ = world_.now();
}

// --- the stages
// ---------------------------------------------------------------------------------------------------------

std::optional<SourceEvent> SourceAgent::Perform() {
  if (after_.has_value()) {
    if (world_.now() < pause_until_) return Wait(pause_until_);
    return std::exchange(after_, std::nullopt);
  }
  switch (stage_) {
    case SourceStage::kConnecting:
      switch (Reach(Greeting::kBegin, kQuick)) {
        case Outcome::kWaiting: return std::nullopt;
        case Outcome::kYes: return SourceEvent::kDone;
        case Outcome::kNo: return Failure(Hears());
      }
      return std::nullopt;
    case SourceStage::kCopying: return Copy();
    case SourceStage::kFreezing: return Freeze();
    case SourceStage::kSending: return Send();
    case SourceStage::kAwaitingPrepared: return AwaitPrepared();
    case SourceStage::kCeding: return Cede();
    case SourceStage::kAskingGuard: return AskGuard();
    case SourceStage::kCommitting: return Commit();
    case SourceStage::kAskingTarget: return AskTarget();
    case SourceStage::kTakingBack: return TakeBack();
    case SourceStage::kServingPages: return ServePages();
    case SourceStage::kTargetRuns:
      StopListening();
      if (!std::exchange(finish_, false)) return Wait(kNever);
      return SourceEvent::kDone;
    case SourceStage::kKilling: return Kill();
    case SourceStage::kAborting: return Thaw();
    case SourceStage::kDone:
      StopListening();
      over_ = true;
      return std::nullopt;
    case SourceStage::kAborted: TellAbort(); return std::nullopt;
  }
  return std::nullopt;
}

// Rounds, then the guard, then the gate. Steps: 0 rounds, 1 arming, 2 the gate, 3 connecting anew.
std::optional<SourceEvent> SourceAgent::Copy() {
  if (step_ == 3) return Resume();
  if (abort_ || heard_.target_aborted) return Failure(Hears());
  if (step_ == 0) {
    if (heard_.lost) {
      step_ = 3;
      deadline_ = Clock() + 30 * kSecond;
      return Wait(world_.now());
    }
    if (rounds_ > 0) {
      --rounds_;
      world_.network.Send(stream_, End::kSource, Frame::kRound);
      return Wait(world_.now() + world_.random.Between(1, 300) * kMillisecond);
    }
    world_.guard_spec = true;
    guard_ = node_.start();
    if (guard_ == nullptr) return Failure(Hears());
    step_ = 1;
  }
  if (heard_.lost) return Failure(Hears());
  if (step_ == 1) {
    std::optional<GuardWord> word;
    const Outcome asked = Ask(GuardOp::kArm, 2 * kQuick, &word);
    if (asked == Outcome::kWaiting) return std::nullopt;
    if (asked == Outcome::kNo || !word->ok) return Failure(Hears());
    world_.network.Send(stream_, End::kSource, Frame::kArmed);
    step_ = 2;
    deadline_ = world_.now() + 20 * kSecond;
  }
  if (at_gate_) return SourceEvent::kDone;
  if (world_.now() >= deadline_) return Failure(Hears());
  return Wait(deadline_);
}

std::optional<SourceEvent> SourceAgent::Resume() {
  if (abort_) return Failure(Hears());
  if (world_.now() < pause_until_) return Wait(pause_until_);
  switch (Reach(Greeting::kResume, 5 * kSecond)) {
    case Outcome::kWaiting: return std::nullopt;
    case Outcome::kYes: step_ = 0; return Wait(world_.now());
    case Outcome::kNo: break;
  }
  if (refused_ || Clock() >= deadline_) return Failure(Hears());
  pause_until_ = world_.now() + 500 * kMillisecond;
  return Wait(pause_until_);
}

std::optional<SourceEvent> SourceAgent::Freeze() {
  std::optional<GuardWord> word;
  const Outcome asked = Ask(GuardOp::kFreeze, kQuick, &word);
  if (asked == Outcome::kWaiting) return std::nullopt;
  if (asked == Outcome::kNo || !word->ok) return Failure(Hears());
  freeze_begin_ = Clock();
  return abort_ ? Failure(Hears()) : SourceEvent::kDone;
}

std::optional<SourceEvent> SourceAgent::Send() {
  std::optional<GuardWord> word;
  const Micros limit = freeze_begin_ + kFreezeLimit - Clock() + 2 * kSecond;
  const Outcome asked = Ask(GuardOp::kDump, limit, &word);
  if (asked == Outcome::kWaiting) return std::nullopt;
  if (asked == Outcome::kNo || !word->ok) return Failure(Hears());
  const bool sent = world_.network.Send(stream_, End::kSource, Frame::kState);
  if (!sent || abort_ || heard_.target_aborted) return Failure(Hears());
  return SourceEvent::kDone;
}

std::optional<SourceEvent> SourceAgent::AwaitPrepared() {
  if (const auto event = WhilePreparing(Hears(), /*over=*/false); event.has_value()) return event;
  const bool ended = guard_ == nullptr || !guard_->guard_open || !guard_->to_agent.empty();
  const Micros limit = freeze_begin_ + kFreezeLimit;
  const bool over = ended || Clock() > limit;
  if (const auto event = WhilePreparing(Hears(), over); event.has_value()) return event;
  return Wait(ToNow(limit) + 1);
}

std::optional<SourceEvent> SourceAgent::Cede() {
  if (!asking_) {
    if (const auto event = BeforeCeding(Hears()); event.has_value()) return event;
  }
  std::optional<GuardWord> word;
  if (Ask(GuardOp::kCede, kQuick, &word) == Outcome::kWaiting) return std::nullopt;
  if (word.has_value() && !word->ok) {
    if (world_.Mutated(Mutation::kCedesAfterThaw)) return SourceEvent::kDone;
    if (world_.Mutated(Mutation::kUnknownIsRefused)) return Failure(Hears());
  }
  return AfterCeding(word, Hears());
}

// Steps: 0 a guard, 1 its word; 2: there is none.
SourceAgent::Outcome SourceAgent::AskEnsuredGuard(GuardOp op, Micros limit, std::optional<GuardWord>* word) {
  if (step_ == 0) {
    switch (EnsureGuard()) {
      case Outcome::kWaiting: return Outcome::kWaiting;
      case Outcome::kYes: step_ = 1; break;
      case Outcome::kNo: step_ = 2; break;
    }
  }
  return step_ == 1 ? Ask(op, limit, word) : Outcome::kNo;
}

std::optional<SourceEvent> SourceAgent::AskGuard() {
  std::optional<GuardWord> word;
  if (AskEnsuredGuard(GuardOp::kStatus, kQuick, &word) == Outcome::kWaiting) return std::nullopt;
  if (world_.Mutated(Mutation::kAsksTheJournalAlone)) word.reset();
  const SourceEvent event = AfterAskingGuard(word, JournalState(), Hears());
  if (event != SourceEvent::kUnknown) return event;
  return After(200 * kMillisecond, event);
}

std::optional<SourceEvent> SourceAgent::Commit() {
  if (step_ == 0) {
    if (abandon_) return SourceEvent::kDone;
    if (!world_.network.Send(stream_, End::kSource, Frame::kCommit)) return SourceEvent::kUnknown;
    step_ = 1;
    deadline_ = world_.now() + kRunningLimit;
  }
  if (world_.Mutated(Mutation::kKillsWhenCeded)) {
    target_running_ = true;
    return SourceEvent::kDone;
  }
  const std::optional<SourceEvent> event = WhileCommitting(Hears(), world_.now() >= deadline_);
  if (!event.has_value()) return Wait(deadline_);
  if (*event == SourceEvent::kDone) {
    serves_ = missing_;
    target_running_ = true;
  }
  return event;
}

std::optional<SourceEvent> SourceAgent::AskTarget() {
  if (abandon_) {  // the product's thread has waited for the answer, and does not listen to it
    if (greeting_ != 0) world_.network.Close(std::exchange(greeting_, 0), End::kSource);
    return SourceEvent::kDone;
  }
  const Outcome reached = Reach(Greeting::kAsk, 5 * kSecond);
  if (reached == Outcome::kWaiting) return std::nullopt;
  std::optional<TargetState> answer;
  if (reached == Outcome::kYes) answer = answer_;
  if (world_.Mutated(Mutation::kBelievesUnwrittenAbort) && answer == TargetState::kOpen)
    return SourceEvent::kTargetAborted;
  const SourceEvent event = migration::AfterAskingTarget(answer, reclaim_);
  if (answer.has_value()) reclaim_ = false;
  if (event != SourceEvent::kUnknown) return event;
  return After(kSecond, event);
}

std::optional<SourceEvent> SourceAgent::TakeBack() {
  std::optional<GuardWord> word;
  if (AskEnsuredGuard(GuardOp::kTargetAborted, kQuick, &word) == Outcome::kWaiting) return std::nullopt;
  SourceEvent event = migration::AfterTakingBack(word);
  if (world_.Mutated(Mutation::kAbortedStaysFrozen) && JournalState() == SourceState::kAborted)
    event = SourceEvent::kDone;
  if (event == SourceEvent::kUnknown) return After(kSecond, event);
  world_.source_thawed_noted = true;
  return event;
}

std::optional<SourceEvent> SourceAgent::ServePages() {
  serves_ = serves_ && !abandon_;
  if (serves_ && none_missing_) serves_ = false;
  if (!serves_) return SourceEvent::kDone;
  if (heard_.lost) return SourceEvent::kUnknown;
  if (std::exchange(listed_, false)) {
    const bool there = world_.source() != Pod::kDead;
    world_.network.Send(stream_, End::kSource, there ? Frame::kPages : Frame::kPagesLost);
  }
  return Wait(kNever);
}

std::optional<SourceEvent> SourceAgent::Kill() {
  std::optional<GuardWord> word;
  if (AskEnsuredGuard(GuardOp::kKill, 6 * kQuick, &word) == Outcome::kWaiting) return std::nullopt;
  return AfterKilling(word, JournalState());
}

// Steps: 0 the guard is told, 1 and left, 2 what the journal says, 3 a guard is needed.
std::optional<SourceEvent> SourceAgent::Thaw() {
  if (step_ == 0) {
    std::optional<GuardWord> word;
    if (guard_ != nullptr && Ask(GuardOp::kThaw, kQuick, &word) == Outcome::kWaiting) return std::nullopt;
    step_ = 1;
    return Wait(world_.now());
  }
  if (step_ == 1) {
    LeaveGuard();
    deadline_ = world_.now() + kGuardThawLimit;
    step_ = 2;
  }
  if (step_ == 3) {
    const Outcome ensured = EnsureGuard();
    if (ensured == Outcome::kWaiting) return std::nullopt;
    if (ensured == Outcome::kYes) return SourceEvent::kUnknown;
    return After(kSecond, SourceEvent::kUnknown);
  }
  ThawStep step = migration::NextThawStep(JournalState());
  if (step == ThawStep::kWriteAborted) {
    if (node_.guard_lives()) {
      step = ThawStep::kLookAgain;  // it holds the journal's lock
    } else {
      world_.source_journal.broken = false;
      (void)world_.Append(Process::kSourceAgent, world_.source_journal, SourceState::kAborted);
      if (!up_) return std::nullopt;
    }
  }
  if (step != ThawStep::kLookAgain) {
    if (stream_ != 0 && !heard_.target_aborted && !heard_.lost)
      told_ = world_.network.Send(stream_, End::kSource, Frame::kAbort);
    return SourceEvent::kDone;
  }
  if (world_.now() < deadline_) return Wait(world_.now() + 50 * kMillisecond);
  step_ = 3;
  return Wait(world_.now());
}

// Best effort, in kAborted.
void SourceAgent::TellAbort() {
  if (step_ == 0) {
    StopListening();
    over_ = told_ || heard_.target_aborted || stream_ == 0;
    step_ = 1;
  }
  if (over_) return;
  if (world_.now() < pause_until_) {
    wake_ = pause_until_;
    return;
  }
  switch (Reach(Greeting::kAsk, 2 * kSecond)) {
    case Outcome::kWaiting: return;
    case Outcome::kYes:
      if (migration::TellsAbort(answer_)) world_.network.Send(stream_, End::kSource, Frame::kAbort);
      StopListening();
      over_ = true;
      return;
    case Outcome::kNo:
      over_ = ++attempts_ == 3;
      pause_until_ = world_.now() + kSecond;
      wake_ = pause_until_;
      return;
  }
}

// --- helpers of the stages
// ----------------------------------------------------------------------------------------------

SourceHears SourceAgent::Hears() const {
  SourceHears hears = heard_;
  hears.abort_wanted = abort_;
  return hears;
}

SourceState SourceAgent::JournalState() {
  if (!world_.Mutated(Mutation::kReadsUnsynced)) world_.source_journal.Sync();
  return world_.source_journal.read();
}

std::optional<SourceEvent> SourceAgent::After(Micros pause, SourceEvent event) {
  after_ = event;
  pause_until_ = world_.now() + pause;
  return Wait(pause_until_);
}

void SourceAgent::Listen() {
  if (greeting_ != 0 || stream_ == 0 || heard_.lost) return;
  if (!world_.network.Readable(stream_, End::kSource)) return;
  const std::optional<Message> message = world_.network.Receive(stream_, End::kSource);
  if (!message.has_value()) {
    world_.Tell("source", "sees the end of its stream");
    return StopListening();
  }
  Hear(*message);
}

void SourceAgent::Hear(const Message& message) {
  world_.Tell("source hears", NameOf(message.frame));
  switch (message.frame) {
    case Frame::kAtGate: at_gate_ = true; break;
    case Frame::kPrepared: heard_.prepared = true; break;
    case Frame::kRunning:
      heard_.running = true;
      missing_ = message.value != 0;
      break;
    case Frame::kMissing: listed_ = true; break;
    case Frame::kMissingEnd: none_missing_ = true; break;
    case Frame::kAbort:
      heard_.target_aborted = true;
      if (stage_ == SourceStage::kCopying || stage_ == SourceStage::kSending) StopListening();
      if (stage_ == SourceStage::kSending) LeaveGuard();
      break;
    case Frame::kHello:
    case Frame::kHelloOk:
    case Frame::kRefused:
    case Frame::kRound:
    case Frame::kArmed:
    case Frame::kState:
    case Frame::kCommit:
    case Frame::kPages:
    case Frame::kPagesLost: break;  // not understood
  }
}

void SourceAgent::StopListening() {
  if (stream_ == 0) return;
  world_.network.Close(stream_, End::kSource);
  heard_.lost = true;
}

// Hangs up; an answer that is under way is not heard.
void SourceAgent::LeaveGuard() {
  asking_ = false;
  if (guard_ == nullptr) return;
  guard_->agent_open = false;
  guard_ = nullptr;
}

SourceAgent::Outcome SourceAgent::Reach(Greeting greeting, Micros limit) {
  Network& network = world_.network;
  if (greeting_ == 0) {
    StopListening();
    refused_ = false;
    if (!node_.target_listens()) return Outcome::kNo;
    greeting_ = network.Connect();
    if (greeting_ == 0) return Outcome::kNo;
    greeting_until_ = Clock() + limit;
    network.Send(greeting_, End::kSource, Frame::kHello, static_cast<int>(greeting));
    world_.Tell("source", "connects, and says HELLO", NameOf(greeting));
  }
  const bool late = Clock() >= greeting_until_;
  if (!network.Readable(greeting_, End::kSource) && !late) {
    wake_ = ToNow(greeting_until_);
    return Outcome::kWaiting;
  }
  const int stream = std::exchange(greeting_, 0);
  const std::optional<Message> message = late ? std::nullopt : network.Receive(stream, End::kSource);
  if (!message.has_value() || message->frame != Frame::kHelloOk) {
    refused_ = message.has_value();
    network.Close(stream, End::kSource);
    return Outcome::kNo;
  }
  answer_ = static_cast<TargetState>(message->value);
  world_.Tell("source hears", "HELLO_OK", json::Name(answer_));
  stream_ = stream;
  heard_ = {};
  at_gate_ = missing_ = listed_ = none_missing_ = false;
  return Outcome::kYes;
}

SourceAgent::Outcome SourceAgent::Ask(GuardOp op, Micros limit, std::optional<GuardWord>* word) {
  if (guard_ == nullptr) return Outcome::kNo;
  if (!asking_) {
    asking_ = true;
    ask_until_ = world_.now() + limit;
    if (guard_->guard_open) guard_->to_guard.push_back(op);
    wake_ = ask_until_;
    if (guard_->to_agent.empty() && guard_->guard_open) return Outcome::kWaiting;
  }
  if (!guard_->to_agent.empty()) {
    const agent_api::GuardReply reply = guard_->to_agent.front();
    guard_->to_agent.pop_front();
    asking_ = false;
    if (reply.reason == "Busy") return Outcome::kNo;
    *word = GuardWord{reply.ok, reply.state};
    return Outcome::kYes;
  }
  if (guard_->guard_open && world_.now() < ask_until_) {
    wake_ = ask_until_;
    return Outcome::kWaiting;
  }
  LeaveGuard();
  return Outcome::kNo;
}

// A guard that answers: the one there is, or one that is found, or a new one.
SourceAgent::Outcome SourceAgent::EnsureGuard() {
  if (ensure_ == 0) {
    const bool ended = guard_ == nullptr || !guard_->guard_open || (!asking_ && !guard_->to_agent.empty());
    std::optional<GuardWord> word;
    const Outcome asked = ended ? Outcome::kNo : Ask(GuardOp::kStatus, kQuick, &word);
    if (asked == Outcome::kWaiting) return asked;
    if (asked == Outcome::kYes) return asked;
    ensure_ = 1;
  }
  ensure_ = 0;
  if (!world_.guard_spec) return Outcome::kNo;
  LeaveGuard();
  guard_ = node_.find();
  if (guard_ == nullptr) guard_ = node_.start();
  return guard_ == nullptr ? Outcome::kNo : Outcome::kYes;
}

}  // namespace godwit::simulator
