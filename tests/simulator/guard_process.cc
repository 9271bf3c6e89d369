// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/guard_process.h"

#include <algorithm>
#include <utility>

#include "base/json.h"

namespace godwit::simulator {
namespace {

using agent_api::GuardOp;
using agent_api::GuardReply;

constexpr Micros kGrace = 3 * kSecond;  // dump.cc: from being asked to end to being killed

Micros ToMicros(absl::Duration duration) { return absl::ToInt64Microseconds(duration); }

void ThawAsItEnds(World& world) {
  if (guard::ThawsAsItEnds(world.source_journal.read()) || world.Mutated(Mutation::kEndThawsCeded))
    world.ThawSource("guard, as it ends,");
}

}  // namespace

GuardProcess::GuardProcess(World& world, const agent_api::GuardSpec& spec)
    : world_(world), guard_(spec, acts_, world.source_journal.read()), idle_since_(world.now()) {
  world_.source_journal.Sync();  // opening it does
  world_.source_journal.broken = false;
  world_.Tell("guard", "starts, and reads", json::Name(world_.source_journal.read()));
}

void GuardProcess::FailToServe(World& world) {
  world.Tell("guard", "starts, cannot serve, and ends");
  world.source_journal.Sync();
  if (world.source_journal.read() == SourceState::kOpen) return;  // nothing to adopt
  ThawAsItEnds(world);
}

void GuardProcess::Die() {
  if (dead_) return;
  dead_ = true;
  if (agent_ != nullptr) agent_->guard_open = false;
  for (const auto& link : arriving_) link->guard_open = false;
}

// --- what it does to the world
// ------------------------------------------------------------------------------------------

std::optional<guard::Refusal> GuardProcess::WorldActs::Freeze(
    const std::function<absl::Status()>& before_freeze, guard::FreezeMoment* moment) {
  if (process_.dead_) return guard::Refusal{"Dead", ""};
  if (world_.source() != Pod::kRuns) return guard::Refusal{"ContainerGone", ""};
  if (world_.random.OneIn(30)) return guard::Refusal{"ExecInFlight", ""};
  if (!before_freeze().ok()) return guard::Refusal{"JournalFailed", ""};
  world_.interleave(Process::kGuard);
  if (process_.dead_) return guard::Refusal{"Dead", ""};
  if (world_.source() != Pod::kRuns) return guard::Refusal{"ContainerGone", ""};
  if (world_.random.OneIn(30)) return guard::Refusal{"PendingSignal", ""};
  world_.FreezeSource();
  const absl::Duration now = process_.Now();
  *moment = {now, absl::UnixEpoch() + absl::Microseconds(world_.wall(Node::kSource)), now};
  return std::nullopt;
}

absl::Status GuardProcess::WorldActs::Thaw() {
  if (process_.dead_) return absl::UnavailableError("");
  world_.interleave(Process::kGuard);
  if (process_.dead_) return absl::UnavailableError("");
  world_.ThawSource("guard");
  return absl::OkStatus();
}

absl::Status GuardProcess::WorldActs::StillFrozen() {
  if (process_.dead_) return absl::UnavailableError("");
  world_.interleave(Process::kGuard);
  return world_.source() == Pod::kFrozen ? absl::OkStatus() : absl::FailedPreconditionError("");
}

// What it keeps from running the simulator has the permit's rule for (agent/permits/source_hold.h).
absl::Status GuardProcess::WorldActs::HoldPod() {
  return process_.dead_ || world_.random.OneIn(50) ? absl::UnavailableError("") : absl::OkStatus();
}

absl::Status GuardProcess::WorldActs::Kill() {
  if (process_.dead_ || world_.random.OneIn(20)) return absl::UnavailableError("");
  world_.KillSource();
  return absl::OkStatus();
}

absl::Status GuardProcess::WorldActs::Journal(SourceState state, absl::string_view, absl::string_view,
                                              SourceState* now) {
  *now = SourceState::kNone;
  if (process_.dead_) return absl::UnavailableError("");
  const auto appended = world_.Append(Process::kGuard, world_.source_journal, state);
  if (process_.dead_) return absl::UnavailableError("");
  *now = appended.now.value_or(SourceState::kNone);
  if (appended.ok) world_.Tell("guard", "has journaled", json::Name(state));
  return appended.ok ? absl::OkStatus() : absl::UnavailableError("");
}

absl::Status GuardProcess::WorldActs::Arm() {
  return process_.dead_ || world_.random.OneIn(50) ? absl::UnavailableError("") : absl::OkStatus();
}

absl::Status GuardProcess::WorldActs::StartDump(const std::string&) {
  if (process_.dead_) return absl::UnavailableError("");
  const bool hangs = world_.random.OneIn(30);
  process_.dump_ends_ = hangs ? kNever : world_.now() + world_.random.Between(5, 200) * kMillisecond;
  process_.dump_aborted_ = false;
  process_.dump_fails_ = world_.random.OneIn(30);
  return absl::OkStatus();
}

void GuardProcess::WorldActs::AbortDump() {
  if (process_.dead_ || process_.dump_aborted_) return;
  process_.dump_aborted_ = true;
  process_.dump_ends_ = std::min(process_.dump_ends_, world_.now() + world_.random.Between(1, kGrace));
}

// --- the loop
// ---------------------------------------------------------------------------------------------------------

bool GuardProcess::Ready() const {
  if (dead_ || busy_ || stalled_until > world_.now()) return false;
  if (!recovered_ || told_to_end_ || !arriving_.empty()) return true;
  if (agent_ != nullptr && (!agent_->to_guard.empty() || !agent_->agent_open)) return true;
  return NextTime() <= world_.now();
}

Micros GuardProcess::NextTime() const {
  if (dead_ || busy_) return kNever;
  Micros next = dump_ends_;
  if (const auto deadline = guard_.deadline(); deadline.has_value())
    next = std::min(next, ToMicros(*deadline));
  if (!guard_.dumping() && (guard_.finished() || !had_agent_)) {
    const bool ends = MayEnd(guard_, had_agent_, agent_ != nullptr, Now() - absl::Microseconds(idle_since_));
    next = std::min(next, ends ? world_.now() : idle_since_ + 31 * kSecond);
  }
  if (!commands_.empty() && !guard_.dumping()) next = world_.now();
  return std::max(next, stalled_until);
}

void GuardProcess::Step() {
  busy_ = true;
  if (!std::exchange(recovered_, true)) {
    const bool stays =
        world_.Mutated(Mutation::kAbortedStaysFrozen) && guard_.state() == SourceState::kAborted;
    if (!stays) guard_.Recover(Now());
  }
  ReadCommands();
  Accept();
  if (told_to_end_) {
    told_to_end_ = false;
    guard_.AgentGone(Now());
  }
  if (!dead_) WatchDump();
  if (!dead_) guard_.Tick(Now());
  if (!dead_) HandleCommands();
  const bool ends = MayEnd(guard_, had_agent_, agent_ != nullptr, Now() - absl::Microseconds(idle_since_));
  if (!dead_ && ends && arriving_.empty()) End();
  if (world_.Mutated(Mutation::kThawsAfterCeding) && guard_.state() == SourceState::kCeded &&
      guard_.Status(Now()).frozen_for > absl::Seconds(1))
    world_.ThawSource("guard");
  busy_ = false;
}

void GuardProcess::ReadCommands() {
  if (agent_ == nullptr) return;
  while (!agent_->to_guard.empty()) {
    commands_.push_back(agent_->to_guard.front());
    agent_->to_guard.pop_front();
  }
  if (!agent_->agent_open) LoseAgent();
}

void GuardProcess::Accept() {
  if (dead_ || arriving_.empty()) return;
  const std::shared_ptr<GuardLink> link = arriving_.front();
  arriving_.pop_front();
  if (agent_ != nullptr) {
    GuardReply reply = guard_.Status(Now());
    reply.ok = false;
    reply.reason = "Busy";
    link->to_agent.push_back(reply);
    link->guard_open = false;
    return;
  }
  agent_ = link;
  had_agent_ = true;
  idle_since_ = world_.now();
}

void GuardProcess::HandleCommands() {
  while (!commands_.empty() && !dead_) {
    if (guard_.dumping()) {
      if (std::find(commands_.begin(), commands_.end(), GuardOp::kThaw) != commands_.end()) guard_.Hurry();
      return;
    }
    const GuardOp op = commands_.front();
    commands_.pop_front();
    world_.Tell("guard", "is asked to", json::Name(op));
    const auto reply = guard_.Handle({.op = op, .container = "app", .message = ""}, Now());
    if (reply.has_value()) Reply(*reply);
  }
}

void GuardProcess::WatchDump() {
  if (dump_ends_ > world_.now()) return;
  dump_ends_ = kNever;
  const bool failed = dump_fails_ || dump_aborted_;
  Reply(guard_.DumpEnded(failed ? absl::UnavailableError("") : absl::OkStatus(), Now()));
}

void GuardProcess::Reply(const GuardReply& reply) {
  if (dead_) return;
  idle_since_ = world_.now();
  if (agent_ != nullptr && agent_->agent_open) agent_->to_agent.push_back(reply);
}

void GuardProcess::LoseAgent() {
  agent_->guard_open = false;
  agent_ = nullptr;
  commands_.clear();
  idle_since_ = world_.now();
  world_.Tell("guard", "has lost its agent");
  guard_.AgentGone(Now());
  if (world_.Mutated(Mutation::kThawsWhenAgentGone)) world_.ThawSource("guard");
}

void GuardProcess::End() {
  world_.Tell("guard", "ends");
  if (guard_.state() != SourceState::kOpen) ThawAsItEnds(world_);
  Die();
}

}  // namespace godwit::simulator
