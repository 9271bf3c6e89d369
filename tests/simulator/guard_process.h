// SPDX-License-Identifier: Apache-2.0
// godwit-guard as a process of the simulated source node: the product's Guard with acts upon the world, in a
// loop as that of runtime/guard/server.cc.
#pragma once

#include <deque>
#include <memory>
#include <optional>

#include "runtime/guard/guard.h"
#include "tests/simulator/world.h"

namespace godwit::simulator {

// A conversation between an agent and a guard, over a socket of the node: reliable, in order.
struct GuardLink {
  std::deque<agent_api::GuardOp> to_guard;
  std::deque<agent_api::GuardReply> to_agent;
  bool agent_open = true;
  bool guard_open = true;
};

class GuardProcess {
 public:
  // Takes up what the journal says, as a guard does before it listens.
  GuardProcess(World& world, const agent_api::GuardSpec& spec);
  ~GuardProcess() = default;
  GuardProcess(const GuardProcess&) = delete;
  GuardProcess& operator=(const GuardProcess&) = delete;

  // A guard that adopts what an earlier one froze and then cannot serve, and ends.
  static void FailToServe(World& world);

  void Connect(const std::shared_ptr<GuardLink>& link) { arriving_.push_back(link); }
  void TellToEnd() { told_to_end_ = true; }  // SIGTERM
  bool Ready() const;
  Micros NextTime() const;
  void Step();
  // The process is gone: it does nothing more.
  void Die();
  // Ended by itself or not.
  bool dead() const { return dead_; }
  bool busy() const { return busy_; }
  Micros stalled_until = 0;

 private:
  class WorldActs final : public guard::Acts {
   public:
    explicit WorldActs(GuardProcess& process) : process_(process), world_(process.world_) {}
    std::optional<guard::Refusal> Freeze(const std::function<absl::Status()>& before_freeze,
                                         guard::FreezeMoment* moment) override;
    absl::Status Thaw() override;
    absl::Status StillFrozen() override;
    absl::Status HoldPod() override;
    absl::Status Kill() override;
    absl::Status Journal(SourceState state, absl::string_view reason, absl::string_view message,
                         SourceState* now) override;
    absl::Status Arm() override;
    void Disarm() override {}
    absl::Status StartDump(const std::string& container) override;
    void AbortDump() override;

   private:
    GuardProcess& process_;
    World& world_;
  };

  absl::Duration Now() const { return absl::Microseconds(world_.now()); }
  void ReadCommands();
  void Accept();
  void HandleCommands();
  void WatchDump();
  void Reply(const agent_api::GuardReply& reply);
  void LoseAgent();
  void End();

  World& world_;
  WorldActs acts_{*this};
  guard::Guard guard_;
  std::deque<std::shared_ptr<GuardLink>> arriving_;
  std::shared_ptr<GuardLink> agent_;
  std::deque<agent_api::GuardOp> commands_;
  bool had_agent_ = false;
  bool told_to_end_ = false;
  bool recovered_ = false;
  bool dead_ = false;
  bool busy_ = false;
  Micros idle_since_;
  Micros dump_ends_ = kNever;
  bool dump_aborted_ = false;
  bool dump_fails_ = false;
};

}  // namespace godwit::simulator
