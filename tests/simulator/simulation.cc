// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/simulation.h"

#include <algorithm>
#include <utility>

#include "agent/permits/source_hold.h"

namespace godwit::simulator {
namespace {

using migration::AbortAnswer;

constexpr Micros kFreezeLimit = 10 * kSecond;
constexpr Micros kThawWithin = 5 * kSecond;  // I6
constexpr Micros kRelayAfter = 30 * kSecond;
constexpr Micros kTimeout = 600 * kSecond;      // of the Migration, until the decision
constexpr Micros kEndsWithin = 3600 * kSecond;  // when no fault comes any more
constexpr int64_t kMostSteps = 50'000;
constexpr int64_t kFaultsUntil = 120;  // steps

constexpr const char* kFaultNames[] = {"the source's agent ends",
                                       "the guard ends",
                                       "the guard is told to end",
                                       "the next guard will not be able to serve",
                                       "the target's agent ends",
                                       "the source's node goes down",
                                       "the target's node goes down",
                                       "a connection is cut",
                                       "the source's agent sleeps",
                                       "the guard sleeps",
                                       "the target's agent sleeps",
                                       "a clock jumps",
                                       "the source's next record fails",
                                       "the target's next record fails",
                                       "the copy dies",
                                       "somebody aborts the source",
                                       "somebody aborts the target",
                                       "a later migration will move the copy on",
                                       "the source's processes die",
                                       "the source's agent never comes back",
                                       "the source's node never comes back",
                                       "the target's agent never comes back",
                                       "the target's node never comes back",
                                       "the link between the nodes is cut for good"};

agent_api::GuardSpec MakeSpec() {
  agent_api::GuardSpec spec;
  spec.freeze_limit = absl::Microseconds(kFreezeLimit);
  spec.containers.push_back({.name = "app"});
  return spec;
}

}  // namespace

Simulation::Simulation(uint64_t seed, Mutation mutation, bool tracing, Figures& figures)
    : world_(seed, mutation, tracing, figures),
      spec_(MakeSpec()),
      source_(world_,
              {.start = [this] { return StartGuard(); },
               .find = [this] { return FindGuard(); },
               .guard_lives = [this] { return GuardLives(); },
               .target_listens = [this] { return target_.up(); }},
              static_cast<int>(world_.random.Below(3))),
      target_{world_, world_.random.Between(1, 2000) * kMillisecond, world_.random.OneIn(4)} {
  ++figures.schedules;
  world_.alive = [this](Process process) {
    switch (process) {
      case Process::kSourceAgent: return source_.up();
      case Process::kGuard: return GuardLives();
      case Process::kTargetAgent: return target_.up();
    }
    return false;
  };
  world_.crash = [this](Process process, bool node) { End(process, node); };
  world_.interleave = [this](Process) {
    if (depth_ > 0 || !world_.random.OneIn(2)) return;
    ++depth_;
    slow_ = world_.random.OneIn(8);
    const int64_t steps = world_.random.Below(slow_ ? 40 : 5);
    for (int64_t i = 0; i < steps && world_.violation().empty() && Step(); ++i) continue;
    --depth_;
  };
  PlanFaults();
}

void Simulation::PlanFaults() {
  Random& random = world_.random;
  world_.network.disorder = random.OneIn(3);
  retired_ = random.OneIn(4);
  const int64_t count = random.Below(6);
  const bool together = random.OneIn(2);  // what none of them does alone
  const int64_t first = together ? random.Below(kFaultsUntil) : 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t step = first + random.Below(together ? 12 : kFaultsUntil);
    planned_.push_back({step, static_cast<Fault>(random.Below(kFaults))});
  }
  std::sort(planned_.begin(), planned_.end(),
            [](const Planned& a, const Planned& b) { return a.step > b.step; });
  if (random.OneIn(2)) return;
  world_.write_crash = {.record = static_cast<int>(random.Below(7)),
                        .position = static_cast<WriteCrash::Position>(random.Below(3)),
                        .node = random.OneIn(3)};
}

Outcome Simulation::Run() {
  while (world_.violation().empty() && !Over()) {
    if (!Step()) world_.Violate("progress: nothing will happen any more, and a side has not come to its end");
    if (quiet_since_ == kNever && planned_.empty() && step_ > kFaultsUntil) {
      quiet_since_ = world_.now();
      world_.network.disorder = false;
      world_.write_crash.record = -1;
      world_.source_journal.Repair();
      world_.target_journal.Repair();
    }
    const bool late = quiet_since_ != kNever && world_.now() - quiet_since_ > kEndsWithin;
    if (late || step_ > kMostSteps) world_.Violate("progress: a side does not come to its end");
  }
  if (world_.violation().empty()) CheckEnd();
  world_.figures.steps += step_;
  return {.violation = world_.violation(), .trace = world_.trace(), .hash = world_.trace_hash()};
}

// --- who acts next
// ------------------------------------------------------------------------------------------------------

bool Simulation::Step() {
  ++step_;
  Pass(world_.random.Below(400));
  if (!planned_.empty() && planned_.back().step <= step_) {
    const Fault fault = planned_.back().fault;
    planned_.pop_back();
    Inject(fault);
    return true;
  }
  if (depth_ == 0) dead_guards_.clear();
  if (may_move_on_ && target_.stage() == TargetStage::kRunning && world_.copy() == Pod::kRuns)
    world_.MoveCopyOn();
  enum Actor { kSource, kGuard, kTarget, kController, kKubelet, kSourceKubelet, kSourceBack, kTargetBack };
  Actor ready[8];
  int count = 0;
  const Micros now = world_.now();
  for (const Node node : {Node::kSource, Node::kTarget}) {
    if (Of(node).off_at <= now && depth_ == 0) TurnOff(node);
  }
  if (!Apart()) apart_since_ = kNever;
  if (Apart() && apart_since_ == kNever) apart_since_ = now;
  if (source_.Ready()) ready[count++] = kSource;
  if (GuardLives() && guard_->Ready()) ready[count++] = kGuard;
  if (target_.Ready()) ready[count++] = kTarget;
  if (control_next_ <= now && ControllerCares()) ready[count++] = kController;
  if (kubelet_next_ <= now && KubeletCares()) ready[count++] = kKubelet;
  if (kubelet_next_ <= now && SourceKubeletCares()) ready[count++] = kSourceKubelet;
  if (!source_.up() && !source_.busy() && source_back_ <= now) ready[count++] = kSourceBack;
  if (!target_.up() && !target_.busy() && target_back_ <= now) ready[count++] = kTargetBack;
  if (count == 0 && depth_ > 0 && !slow_) return false;
  if (count == 0) {
    Micros next = std::min(source_.NextTime(), target_.NextTime());
    if (GuardLives()) next = std::min(next, guard_->NextTime());
    if (ControllerCares()) next = std::min(next, control_next_);
    if (Apart() && now < apart_since_ + kRelayAfter) next = std::min(next, apart_since_ + kRelayAfter);
    if (now < kTimeout && source_.MayBeAborted()) next = std::min(next, kTimeout);
    if (KubeletCares() || SourceKubeletCares()) next = std::min(next, kubelet_next_);
    for (const Leaving& leaving : leaving_) next = std::min(next, leaving.off_at);
    if (!source_.up() && !source_.busy()) next = std::min(next, source_back_);
    if (!target_.up() && !target_.busy()) next = std::min(next, target_back_);
    if (next == kNever) return depth_ > 0 || !planned_.empty();
    Pass(std::max<Micros>(next - now, 1));
    return true;
  }
  switch (ready[world_.random.Below(count)]) {
    case kSource: source_.Step(); break;
    case kGuard: guard_->Step(); break;
    case kTarget: target_.Step(); break;
    case kController: Control(); break;
    case kKubelet: world_.StartCopyAfresh(); break;
    case kSourceKubelet: world_.StartSourceAfresh(); break;
    case kSourceBack: source_.Restart(); break;
    case kTargetBack: target_.Restart(); break;
  }
  return true;
}

// Time goes by, for everybody; what must not last too long is measured.
void Simulation::Pass(Micros time) {
  const bool frozen = world_.source() == Pod::kFrozen && !world_.source_journal.holds(SourceState::kCeded) &&
                      world_.source_journal.read() != SourceState::kCeded;
  const bool able = GuardLives() && !guard_->busy() && guard_->stalled_until <= world_.now();
  world_.Advance(time);
  if (!frozen || source_.up()) orphaned_ = 0;
  if (!frozen) frozen_ = 0;
  if (!frozen || !able) return;
  if (!source_.up()) orphaned_ += time;
  frozen_ += time;
  if (orphaned_ > kThawWithin) world_.Violate("I6: its agent is dead, and the source was not thawed in time");
  if (frozen_ > kFreezeLimit + kThawWithin)
    world_.Violate("I6: the source stands still beyond its freeze limit");
}

// --- faults
// -------------------------------------------------------------------------------------------------------------

void Simulation::Inject(Fault fault) {
  Random& random = world_.random;
  const auto stall = [&](Micros& until) {
    ++world_.figures.stalls;
    until = world_.now() +
            (random.OneIn(3) ? random.Between(1, 60) * kSecond : random.Between(1, 2000) * kMillisecond);
  };
  world_.Tell("FAULT", kFaultNames[static_cast<int>(fault)]);
  switch (fault) {
    case Fault::kSourceAgentEnds: return End(Process::kSourceAgent, false);
    case Fault::kGuardEnds: return End(Process::kGuard, false);
    case Fault::kGuardToldToEnd:
      if (GuardLives()) guard_->TellToEnd();
      return;
    case Fault::kGuardCannotServe: guard_cannot_serve_ = true; return;
    case Fault::kTargetAgentEnds: return End(Process::kTargetAgent, false);
    case Fault::kSourceNodeEnds: return End(Process::kSourceAgent, true);
    case Fault::kTargetNodeEnds: return End(Process::kTargetAgent, true);
    case Fault::kCut: {
      const auto& held =
          world_.network.Held(random.OneIn(2) ? simulator::End::kSource : simulator::End::kTarget);
      if (held.empty()) return;
      ++world_.figures.cuts;
      return world_.network.Cut(held[static_cast<size_t>(random.Below(static_cast<int64_t>(held.size())))]);
    }
    case Fault::kSourceStalls: return stall(source_.stalled_until);
    case Fault::kGuardStalls:
      if (GuardLives()) stall(guard_->stalled_until);
      return;
    case Fault::kTargetStalls: return stall(target_.stalled_until);
    case Fault::kClockJumps: {
      ++world_.figures.clock_jumps;
      const Micros by =
          random.OneIn(2) ? random.Between(1, 7200) * kSecond : random.Between(1, 20'000) * kMillisecond;
      const Node node = random.OneIn(2) ? Node::kSource : Node::kTarget;
      world_.Jump(node, random.OneIn(2) ? by : -by);
      source_.LookAtTheClock();
      target_.LookAtTheClock();
      return;
    }
    case Fault::kSourceDiskFails:
      return world_.source_journal.Fail(static_cast<DiskFault>(random.Between(1, 3)));
    case Fault::kTargetDiskFails:
      return world_.target_journal.Fail(static_cast<DiskFault>(random.Between(1, 3)));
    case Fault::kCopyDies: return world_.LoseCopy();
    case Fault::kSourceIsAborted: return source_.Abort();
    case Fault::kTargetIsAborted: ++world_.figures.aborts; return target_.Abort();
    case Fault::kMovesOn: may_move_on_ = true; return;
    case Fault::kSourceDies: return world_.LoseSource();
    case Fault::kSourceAgentGoes: return LeaveForGood(Node::kSource, /*at_once=*/false);
    case Fault::kSourceNodeGoes: return LeaveForGood(Node::kSource, /*at_once=*/true);
    case Fault::kTargetAgentGoes: return LeaveForGood(Node::kTarget, /*at_once=*/false);
    case Fault::kTargetNodeGoes: return LeaveForGood(Node::kTarget, /*at_once=*/true);
    case Fault::kLinkGoes:
      // Pages that are missing would never come: the limit of a pull is not simulated.
      if (target_.post_copy() || Of(Node::kSource).left || Of(Node::kTarget).left) return;
      ++world_.figures.cuts;
      return world_.network.CutForGood();
  }
}

// `at_once`: the node, too. Of the two nodes only one: nobody is left to resolve it otherwise.
void Simulation::LeaveForGood(Node node, bool at_once) {
  const Node other = node == Node::kSource ? Node::kTarget : Node::kSource;
  Leaving& leaving = Of(node);
  if (leaving.left || Of(other).left || world_.network.gone()) return;
  leaving.left = true;
  leaving.returns = world_.random.OneIn(2);
  leaving.off_at = world_.now() + (at_once ? 0 : world_.random.Between(60, 900) * kSecond);
  End(node == Node::kSource ? Process::kSourceAgent : Process::kTargetAgent, at_once);
  (node == Node::kSource ? source_back_ : target_back_) = kNever;
}

void Simulation::TurnOff(Node node) {
  Leaving& leaving = Of(node);
  leaving.off_at = kNever;
  leaving.off = true;
  EndNode(node);
  (node == Node::kSource ? source_back_ : target_back_) = kNever;
}

void Simulation::End(Process process, bool node) {
  if (node) return EndNode(NodeOf(process));
  if (!world_.alive(process)) return;
  ++world_.figures.process_crashes;
  world_.Tell("FAULT", "dies:", NameOf(process));
  const Micros back = world_.now() + (world_.random.OneIn(4) ? world_.random.Between(1, 60) * kSecond
                                                             : world_.random.Between(1, 3000) * kMillisecond);
  switch (process) {
    case Process::kSourceAgent:
      source_.Crash();
      source_back_ = back;
      return;
    case Process::kGuard: guard_->Die(); return;
    case Process::kTargetAgent:
      target_.Crash();
      target_back_ = back;
      return;
  }
}

void Simulation::EndNode(Node node) {
  ++world_.figures.node_crashes;
  world_.Tell("FAULT", "a node goes down");
  const bool comes_back = !Of(node).left || Of(node).given_up;
  const Micros back = comes_back ? world_.now() + world_.random.Between(1, 60) * kSecond : kNever;
  if (node == Node::kSource) {
    world_.LoseSource();
    if (GuardLives()) guard_->Die();
    source_.Crash();
    source_back_ = back;
    world_.source_journal.LosePower(world_.random);
  } else {
    world_.LoseCopy();
    target_.Crash();
    target_back_ = back;
    world_.target_journal.LosePower(world_.random);
  }
}

// --- what the agents find on their nodes
// --------------------------------------------------------------------------------

std::shared_ptr<GuardLink> Simulation::StartGuard() {
  if (GuardLives()) return nullptr;  // it holds the containers
  if (std::exchange(guard_cannot_serve_, false)) {
    GuardProcess::FailToServe(world_);
    return nullptr;
  }
  if (world_.source_journal.LookHidden()) return nullptr;
  if (guard_ != nullptr) dead_guards_.push_back(std::move(guard_));
  guard_ = std::make_unique<GuardProcess>(world_, spec_);
  return FindGuard();
}

std::shared_ptr<GuardLink> Simulation::FindGuard() {
  if (!GuardLives()) return nullptr;
  auto link = std::make_shared<GuardLink>();
  guard_->Connect(link);
  return link;
}

// --- the controller, and kubelet
// ---------------------------------------------------------------------------------------

// A side whose agent is gone, with whom the other side cannot come to its end. That its node is off only a
// fence tells.
bool Simulation::MayGiveUp(Node node) const {
  const Leaving& leaving = Of(node);
  if (!leaving.left || leaving.given_up) return false;
  const bool unfenced =
      world_.Mutated(node == Node::kSource ? Mutation::kTakesOverUnfenced : Mutation::kReclaimsUnfenced);
  return leaving.off || unfenced;
}

void Simulation::GiveUp(Node node) {
  if (!world_.Mutated(Mutation::kReclaimsUnfenced) && !world_.Mutated(Mutation::kTakesOverUnfenced))
    world_.Fence(node);
  Of(node).given_up = true;
  if (!Of(node).returns) return;
  const Micros back = world_.now() + world_.random.Between(1, 60) * kSecond;
  (node == Node::kSource ? source_back_ : target_back_) = back;
}

// decide_switching.cc, Relay: both agents answer, the source has ceded, and the target has not taken over.
bool Simulation::Apart() const {
  return source_.MayBeReclaimed() && target_.up() &&
         (target_.stage() == TargetStage::kAborted || target_.MayTakeOver());
}

bool Simulation::MayRelay() const {
  const bool told = target_.stage() == TargetStage::kAborted && source_.reclaimed();
  // A copy that lacks pages, whose source's pod is deleted: nothing is done without the link.
  const bool neither = retired_ && target_.post_copy() && target_.stage() != TargetStage::kAborted;
  return Apart() && !told && !neither && world_.now() - apart_since_ >= kRelayAfter;
}

void Simulation::Relay() {
  if (target_.stage() == TargetStage::kAborted) return source_.Reclaim();
  if (!retired_) return target_.Abort();
  target_.TakeOver();
}

// The target runs, and all its pages are there.
bool Simulation::HasNotHeard() const {
  return source_.ceded() && !source_.target_running() && target_.up() &&
         target_.stage() == TargetStage::kRunning && source_.stage() != SourceStage::kTakingBack;
}

bool Simulation::ControllerCares() const {
  if (MayRelay() || HasNotHeard()) return true;
  if (MayGiveUp(Node::kSource) || MayGiveUp(Node::kTarget)) return true;
  if (Of(Node::kTarget).given_up && !target_.up()) {
    const bool reclaims = source_.MayBeReclaimed() && !source_.reclaimed() && !seen_running_;
    if (reclaims || (source_.ceded() && (seen_running_ || source_.target_running()))) return true;
  }
  if (Of(Node::kSource).given_up && !source_.up()) {
    if (target_.MayTakeOver() || (target_.up() && AbortIn(target_.stage()) == AbortAnswer::kNoted))
      return true;
  }
  if (source_.MayBeKilled()) return true;
  if (source_.up() && source_.stage() == SourceStage::kAborted && target_.up() &&
      AbortIn(target_.stage()) == AbortAnswer::kNoted)
    return true;
  const bool target_ended = target_.up() && target_.stage() == TargetStage::kAborted;
  return source_.MayBeAborted() && (target_ended || world_.now() >= kTimeout);
}

// decide_finishing.cc, decide_ending.cc: the source is killed when the target runs, and each side is told of
// an abort of the other's.
void Simulation::Control() {
  control_next_ = world_.now() + world_.random.Between(100, 1000) * kMillisecond;
  seen_running_ = seen_running_ || source_.target_running() ||
                  (target_.up() && StateOf(target_.stage()) == TargetState::kRunning);
  for (const Node node : {Node::kSource, Node::kTarget}) {
    if (MayGiveUp(node)) return GiveUp(node);
  }
  if (Of(Node::kTarget).given_up && !target_.up()) {
    if (source_.ceded() && (seen_running_ || source_.target_running()))
      return source_.Finish(/*abandon=*/true, /*unconfirmed=*/!source_.target_running());
    if (source_.MayBeReclaimed()) return source_.Reclaim();
  }
  if (Of(Node::kSource).given_up && !source_.up()) {
    if (target_.MayTakeOver()) return target_.TakeOver();
    return target_.Abort();
  }
  if (MayRelay()) return Relay();
  if (HasNotHeard()) return source_.Finish(/*abandon=*/false, /*unconfirmed=*/true);
  if (source_.MayBeKilled()) return source_.Finish(/*abandon=*/false, /*unconfirmed=*/false);
  if (source_.stage() == SourceStage::kAborted) return target_.Abort();
  source_.Abort();
}

bool Simulation::KubeletCares() const {
  const Leaving& leaving = Of(Node::kTarget);
  if (leaving.off && !target_.up()) return false;
  if (leaving.given_up && !world_.Mutated(Mutation::kKeepsFencedPods)) return false;
  return world_.copy() == Pod::kDead && (target_.spent() || world_.permit == World::Permit::kSpent);
}

// The container is started again as soon as nothing forbids it; also before the agent is back.
bool Simulation::SourceKubeletCares() const {
  const Leaving& leaving = Of(Node::kSource);
  if (leaving.off && !source_.up()) return false;
  if (leaving.given_up && !world_.Mutated(Mutation::kKeepsFencedPods)) return false;
  const bool held = !permits::MayStartAfresh(world_.source_journal.read());
  return world_.source() == Pod::kDead && (!held || world_.Mutated(Mutation::kStartsHeldSource));
}

// --- the end
// ------------------------------------------------------------------------------------------------------------

bool Simulation::Over() const {
  const bool source_over = source_.over() || (Of(Node::kSource).given_up && source_back_ == kNever);
  const bool target_over = target_.final() || (Of(Node::kTarget).given_up && target_back_ == kNever);
  if (!source_over || !target_over || KubeletCares() || SourceKubeletCares() || depth_ > 0) return false;
  return quiet_since_ != kNever || planned_.empty();
}

void Simulation::CheckEnd() {
  const bool done = source_.stage() == SourceStage::kDone;
  const bool runs = target_.stage() == TargetStage::kRunning;
  // Who was given up and never came back has no opinion, and who came back may have the old one.
  if (world_.fenced(Node::kSource)) {
    ++(runs ? world_.figures.done : world_.figures.aborted);
    if (runs && world_.copy() != Pod::kRuns && world_.copy() != Pod::kMoved)
      world_.Violate("I2: no copy runs at the end");
    return;
  }
  if (world_.fenced(Node::kTarget)) {
    ++(done ? world_.figures.done : world_.figures.aborted);
    const bool goes_on = world_.source() == Pod::kRuns || world_.source() == Pod::kAfresh;
    if (!done && !goes_on) world_.Violate("I2: the source does not go on");
    return;
  }
  if (done != runs) return world_.Violate("the sides have ended differently");
  if (done) {
    ++world_.figures.done;
    if (world_.source_journal.durable() != SourceState::kDone ||
        world_.target_journal.durable() != TargetState::kRunning)
      world_.Violate("the journals do not say how it ended");
    if (world_.source() != Pod::kDead) world_.Violate("I5: the source is left");
    if (world_.copy() != Pod::kRuns && world_.copy() != Pod::kMoved)
      world_.Violate("I2: no copy runs at the end");
    return;
  }
  ++world_.figures.aborted;
  if (world_.source() != Pod::kRuns && world_.source() != Pod::kAfresh)
    world_.Violate("I2: the source does not go on");
  if (world_.copy() == Pod::kRuns || world_.copy() == Pod::kFrozen) world_.Violate("I5: a copy is left");
  if (world_.target_journal.durable() != TargetState::kAborted)
    world_.Violate("the target's journal is not Aborted");
}

}  // namespace godwit::simulator
