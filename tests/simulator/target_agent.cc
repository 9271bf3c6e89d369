// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/target_agent.h"

#include <algorithm>
#include <array>

#include "base/json.h"

namespace godwit::simulator {
namespace {

using migration::AbortAnswer;
using migration::Bringing;
using migration::CommitAct;
using migration::EndAct;

// As in target*.cc.
constexpr Micros kLook = 2 * kSecond;  // rarer than the product's: the world tells most of it
constexpr Micros kResumeLimit = 60 * kSecond;
constexpr Micros kCreateLimit = 100 * kSecond;  // of the simulated Migration
constexpr Micros kPullLimit = 600 * kSecond;

}  // namespace

TargetAgent::TargetAgent(World& world, Micros claim_at, bool post_copy)
    : world_(world), claim_at_(claim_at), post_copy_(post_copy) {}

bool TargetAgent::Ready() const {
  if (!up_ || busy_ || stalled_until > world_.now()) return false;
  if (wake_ <= world_.now()) return true;
  for (const int id : world_.network.Held(End::kTarget)) {
    if (world_.network.Readable(id, End::kTarget)) return true;
  }
  return false;
}

Micros TargetAgent::NextTime() const {
  if (!up_ || busy_) return kNever;
  return std::max(stalled_until, std::min(wake_, world_.network.NextTime(End::kTarget)));
}

void TargetAgent::Step() {
  busy_ = true;
  const bool heard = Serve();
  std::optional<TargetEvent> event;
  if (!heard) {
    wake_ = kNever;
    event = Perform();
  } else {
    wake_ = world_.now();
  }
  busy_ = false;
  if (!up_ || !event.has_value()) return;
  const std::optional<TargetStage> next = migration::Next(stage_, *event);
  if (!next.has_value()) {
    world_.Violate("the target's table has no such transition");
    return;
  }
  if (*next != stage_) world_.Tell("target", migration::NameOf(*next));
  if (*next != stage_) until_ = 0;
  stage_ = *next;
  step_ = 0;
  wake_ = world_.now();
}

void TargetAgent::Crash() {
  up_ = false;
  served_.clear();
  world_.network.CloseAll(End::kTarget);
}

void TargetAgent::Restart() {
  up_ = true;
  wake_ = world_.now();
  step_ = 0;
  recovered_ = true;
  until_ = 0;
  commit_ = thawed_ = spent_ = armed_ = has_state_ = in_rounds_ = false;
  bringing_ = Bringing::kNotBegun;
  stream_ = told_ = listed_ = 0;
  alone_since_ = kNever;
  world_.target_journal.Sync();
  world_.target_journal.broken = false;
  const TargetState journal = world_.target_journal.read();
  const bool thawed = world_.target_thawed_noted && !world_.Mutated(Mutation::kThawsAgain);
  stage_ = migration::RecoveredStage(journal, thawed);
  abort_ = StateOf(stage_) == TargetState::kAborted || stage_ == TargetStage::kAborting;
  pulled_ = false;
  if (stage_ == TargetStage::kPulling) {
    spent_ = true;
    BeginPulling();
  }
  world_.Tell("target", "starts anew, and reads", json::Name(journal));
}

void TargetAgent::Abort() {
  if (!up_ || AbortIn(stage_) != AbortAnswer::kNoted || abort_) return;
  world_.Tell("target", "is told to abort");
  abort_ = true;
  wake_ = world_.now();
}

void TargetAgent::TakeOver() {
  if (!MayTakeOver()) return;
  world_.Tell("target", "is told that the source never will run");
  commit_ = true;
  wake_ = world_.now();
}

// --- the stages
// ---------------------------------------------------------------------------------------------------------

std::optional<TargetEvent> TargetAgent::Perform() {
  switch (stage_) {
    case TargetStage::kRestoring: return Restore();
    case TargetStage::kPreparing: return Prepare();
    case TargetStage::kPrepared: return AwaitVerdict();
    case TargetStage::kCommitting: return Commit();
    case TargetStage::kPulling: return AwaitPages();
    case TargetStage::kAborting: return EndCopy();
    case TargetStage::kRunning:
    case TargetStage::kAborted: return std::nullopt;
  }
  return std::nullopt;
}

// Steps: 0 until a `create` waits and the restore may come to its gate, 1 until the state is there, 2
// restoring.
std::optional<TargetEvent> TargetAgent::Restore() {
  const bool cut = bringing_ == Bringing::kCut && Clock() >= resume_by_;
  if (abort_ || cut) {
    abort_ = true;
    return TargetEvent::kFailed;
  }
  if (step_ == 0) {
    if (!armed_ || world_.now() < claim_at_) return Wait(std::max(claim_at_, world_.now() + kLook));
    world_.copies_noted = true;
    Tell(Frame::kAtGate);
    step_ = 1;
    until_ = Clock() + kCreateLimit;
  }
  if (step_ == 1) {
    if (!has_state_) {
      if (Clock() < until_) return Wait(world_.now() + until_ - Clock());
      abort_ = true;
      return TargetEvent::kFailed;
    }
    step_ = 2;
    until_ = world_.now() + world_.random.Between(5, 60) * kMillisecond;
  }
  if (world_.now() < until_) return Wait(until_);
  if (world_.random.OneIn(30)) {
    abort_ = true;
    return TargetEvent::kFailed;
  }
  world_.RestoreCopy();
  world_.pages_missing = post_copy_;
  return TargetEvent::kDone;
}

std::optional<TargetEvent> TargetAgent::Prepare() {
  world_.copies_missing = world_.pages_missing;
  const bool prepared = world_.copy() == Pod::kFrozen && WriteState(TargetState::kPrepared);
  if (!up_) return std::nullopt;
  if (prepared) return TargetEvent::kDone;
  abort_ = true;
  return TargetEvent::kFailed;
}

std::optional<TargetEvent> TargetAgent::AwaitVerdict() {
  if (step_ == 0 && !recovered_) Tell(Frame::kPrepared);
  step_ = 1;
  const bool stands = world_.copy() == Pod::kFrozen && world_.copies_noted;
  const auto event = migration::WhilePrepared(abort_, stands, commit_);
  if (!event.has_value()) return Wait(world_.now() + kLook);
  if (!stands) abort_ = true;
  return event;
}

std::optional<TargetEvent> TargetAgent::Commit() {
  if (step_ == 0) BeginPulling();
  std::array acts = migration::kCommitActs;
  if (world_.Mutated(Mutation::kThawsBeforeRunning)) std::swap(acts[0], acts[2]);
  if (!Do(acts.at(static_cast<size_t>(step_)))) return Wait(world_.now() + kSecond);
  if (++step_ == static_cast<int>(acts.size())) return TargetEvent::kDone;
  return Wait(world_.now());
}

bool TargetAgent::Do(CommitAct act) {
  switch (act) {
    case CommitAct::kWriteRunning: return WriteState(TargetState::kRunning);
    case CommitAct::kSpendPermits: spent_ = true; break;
    case CommitAct::kThaw: world_.ThawCopy(); break;
    case CommitAct::kTellRunning:
      thawed_ = true;
      Tell(Frame::kRunning);
      break;
    case CommitAct::kWriteSpent: world_.permit = World::Permit::kSpent; break;
    case CommitAct::kNoteThawed: world_.target_thawed_noted = true; break;
  }
  return true;
}

void TargetAgent::BeginPulling() {
  pulled_ = world_.copies_missing && !world_.pulled_noted;
  if (recovered_ && stream_ == 0) alone_since_ = world_.now();
}

std::optional<TargetEvent> TargetAgent::AwaitPages() {
  if (!pulled_ || !world_.pages_missing || world_.pages_given_up) {
    EndPulling();
    return TargetEvent::kDone;
  }
  if (alone_since_ != kNever && world_.now() - alone_since_ > kPullLimit) {
    world_.LoseCopy();  // ends with a failure that says so
    return Wait(world_.now());
  }
  if (told_ != 0 && told_ != listed_) {
    world_.network.Send(told_, End::kTarget, Frame::kMissing);
    listed_ = told_;
  }
  return Wait(world_.now() + kLook);
}

void TargetAgent::EndPulling() {
  if (!pulled_) return;
  pulled_ = false;
  world_.pulled_noted = true;
  if (told_ != 0) world_.network.Send(told_, End::kTarget, Frame::kMissingEnd);
}

std::optional<TargetEvent> TargetAgent::EndCopy() {
  std::array acts = migration::kEndActs;
  if (world_.Mutated(Mutation::kDestroysLast)) std::swap(acts[0], acts[1]);
  if (world_.now() < until_) return Wait(until_);
  if (!Do(acts.at(static_cast<size_t>(step_)))) {
    until_ = world_.now() + kSecond;
    return TargetEvent::kFailed;
  }
  if (++step_ == static_cast<int>(acts.size())) return TargetEvent::kDone;
  return Wait(world_.now());
}

bool TargetAgent::Do(EndAct act) {
  switch (act) {
    case EndAct::kEndPermitsAndCopies:
      world_.permit = World::Permit::kAborted;
      world_.DestroyCopy();
      return !world_.random.OneIn(30);
    case EndAct::kWriteAborted: return WriteState(TargetState::kAborted);
    case EndAct::kTellAbort: Tell(Frame::kAbort); return true;
  }
  return true;
}

bool TargetAgent::WriteState(TargetState state) {
  const auto appended = world_.Append(Process::kTargetAgent, world_.target_journal, state);
  const bool written = up_ && (appended.ok || appended.now == state);
  if (written) world_.Tell("target", "has journaled", json::Name(state));
  return written;
}

void TargetAgent::Tell(Frame frame) {
  if (stream_ == 0) return;
  if (frame == Frame::kRunning) return TellRunning(stream_);
  world_.network.Send(stream_, End::kTarget, frame);
}

void TargetAgent::TellRunning(int stream) {
  if (stream == stream_) told_ = stream;
  world_.network.Send(stream, End::kTarget, Frame::kRunning, pulled_ ? 1 : 0);
}

// --- the source's streams
// ----------------------------------------------------------------------------------------------

bool TargetAgent::Serve() {
  Network& network = world_.network;
  for (const int id : network.Held(End::kTarget)) {
    if (!network.Readable(id, End::kTarget)) continue;
    auto served =
        std::find_if(served_.begin(), served_.end(), [id](const Served& one) { return one.id == id; });
    if (served == served_.end()) served = served_.insert(served_.end(), Served{id});
    const std::optional<Message> message = network.Receive(id, End::kTarget);
    if (!message.has_value()) {
      SeeEnd(*served);
      return true;
    }
    world_.Tell("target hears", NameOf(message->frame));
    if (!served->greeted) {
      Greet(*served, *message);
    } else if (served->brings) {
      TakeState(*served, *message);
    } else {
      TakeVerdict(*served, *message);
    }
    return true;
  }
  return false;
}

void TargetAgent::Greet(Served& served, const Message& hello) {
  const int id = served.id;
  if (hello.frame != Frame::kHello) return HangUp(id);
  const auto greeting = static_cast<Greeting>(hello.value);
  const bool ask = greeting == Greeting::kAsk;
  const bool resume = greeting == Greeting::kResume;
  served.greeted = true;
  if (resume && bringing_ == Bringing::kServed) {  // the end of the old one was not seen yet
    const auto old =
        std::find_if(served_.begin(), served_.end(), [](const Served& one) { return one.brings; });
    if (old != served_.end()) SeeEnd(*old);
  }
  if (!migration::TakesStream(ask, resume, bringing_, stage_, abort_)) {
    world_.network.Send(id, End::kTarget, Frame::kRefused);
    return HangUp(id);
  }
  if (!ask) {
    bringing_ = Bringing::kServed;
    std::find_if(served_.begin(), served_.end(), [id](const Served& one) { return one.id == id; })->brings =
        true;
  }
  stream_ = id;
  alone_since_ = kNever;
  world_.network.Send(id, End::kTarget, Frame::kHelloOk, static_cast<int>(StateOf(stage_)));
}

void TargetAgent::TakeState(Served& served, const Message& message) {
  switch (message.frame) {
    case Frame::kRound: in_rounds_ = true; return;
    case Frame::kArmed: armed_ = true; return;
    case Frame::kState:
      has_state_ = true;
      served.brings = false;  // the verdict comes over it
      return;
    default: break;
  }
  if (message.frame != Frame::kAbort) world_.Tell("target", "does not understand that");
  Abort();
  HangUp(served.id);
}

void TargetAgent::TakeVerdict(Served& served, const Message& message) {
  switch (message.frame) {
    case Frame::kCommit:
      commit_ = true;
      if (migration::RunsAlready(stage_, thawed_)) TellRunning(served.id);
      return;
    case Frame::kPages: world_.pages_missing = false; return;
    case Frame::kPagesLost:
      if (pulled_) world_.LoseCopy();
      return;
    case Frame::kAbort:
      // Whoever fences a node may have the other's word: it comes back without what it ran.
      if (AbortIn(stage_) == AbortAnswer::kTooLate && !world_.fenced(Node::kSource) &&
          !world_.fenced(Node::kTarget))
        world_.Violate("the source aborted what it had ceded");
      Abort();
      return;
    default: SeeEnd(served); return;  // not understood: hung up
  }
}

void TargetAgent::SeeEnd(const Served& served) {
  const int id = served.id;
  const bool brings = served.brings;
  const bool greeted = served.greeted;
  HangUp(id);
  if (!greeted) return;
  if (brings && migration::MayResume(armed_, in_rounds_, abort_)) {
    bringing_ = Bringing::kCut;
    resume_by_ = Clock() + kResumeLimit;
    return;
  }
  if (stream_ == id) alone_since_ = world_.now();
  if (brings || migration::LossAborts(stage_, abort_)) Abort();
  if (world_.Mutated(Mutation::kRunsWithoutCommit) && stage_ == TargetStage::kPrepared) commit_ = true;
}

void TargetAgent::HangUp(int id) {
  world_.network.Close(id, End::kTarget);
  std::erase_if(served_, [id](const Served& one) { return one.id == id; });
}

}  // namespace godwit::simulator
