// SPDX-License-Identifier: Apache-2.0
// One migration from its beginning to its end, with the faults that a seed decides: who acts next, how long
// it takes, what goes wrong and where. The same seed is the same run, to the last byte of its trace.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/simulator/guard_process.h"
#include "tests/simulator/source_agent.h"
#include "tests/simulator/target_agent.h"
#include "tests/simulator/world.h"

namespace godwit::simulator {

struct Outcome {
  uint64_t seed = 0;      // for whoever runs many
  std::string violation;  // empty: all invariants held, and both sides came to their end
  std::string trace;      // when asked for
  uint64_t hash = 0;      // of the trace, also when it was not asked for
};

class Simulation {
 public:
  Simulation(uint64_t seed, Mutation mutation, bool tracing, Figures& figures);
  Outcome Run();

 private:
  enum class Fault {
    kSourceAgentEnds,
    kGuardEnds,
    kGuardToldToEnd,
    kGuardCannotServe,
    kTargetAgentEnds,
    kSourceNodeEnds,
    kTargetNodeEnds,
    kCut,
    kSourceStalls,
    kGuardStalls,
    kTargetStalls,
    kClockJumps,
    kSourceDiskFails,
    kTargetDiskFails,
    kCopyDies,
    kSourceIsAborted,
    kTargetIsAborted,
    kMovesOn,
    kSourceDies,
    kSourceAgentGoes,
    kSourceNodeGoes,
    kTargetAgentGoes,
    kTargetNodeGoes,
    kLinkGoes,
  };
  static constexpr int kFaults = static_cast<int>(Fault::kLinkGoes) + 1;

  void PlanFaults();
  bool Step();  // false: nothing will ever happen any more
  void Pass(Micros time);
  void Inject(Fault fault);
  void End(Process process, bool node);
  void EndNode(Node node);
  void LeaveForGood(Node node, bool at_once);
  void TurnOff(Node node);
  bool GuardLives() const { return guard_ != nullptr && !guard_->dead(); }
  std::shared_ptr<GuardLink> StartGuard();
  std::shared_ptr<GuardLink> FindGuard();
  bool Apart() const;
  bool MayRelay() const;
  void Relay();
  bool HasNotHeard() const;
  bool ControllerCares() const;
  void Control();
  void GiveUp(Node node);
  bool MayGiveUp(Node node) const;
  bool KubeletCares() const;
  bool SourceKubeletCares() const;
  bool Over() const;
  void CheckEnd();

  World world_;
  agent_api::GuardSpec spec_;
  std::unique_ptr<GuardProcess> guard_;
  std::vector<std::unique_ptr<GuardProcess>> dead_guards_;
  SourceAgent source_;
  TargetAgent target_;

  struct Planned {
    int64_t step;
    Fault fault;
  };
  std::vector<Planned> planned_;  // the next one last
  // An agent that never comes back, as long as its node does not; one day somebody turns the node off.
  struct Leaving {
    bool left = false;
    bool off = false;
    bool given_up = false;  // by the controller
    bool returns = false;   // after that
    Micros off_at = kNever;
  };
  Leaving leaving_[2];
  Leaving& Of(Node node) { return leaving_[static_cast<int>(node)]; }
  const Leaving& Of(Node node) const { return leaving_[static_cast<int>(node)]; }
  bool retired_ = false;         // the source's pod is deleted already: what is taken back would be ended
  Micros apart_since_ = kNever;  // since when the two sides might have heard of each other, and have not
  bool seen_running_ = false;    // the controller has heard that the copy runs
  bool guard_cannot_serve_ = false;
  bool may_move_on_ = false;
  Micros source_back_ = 0;
  Micros target_back_ = 0;
  Micros control_next_ = 0;
  Micros kubelet_next_ = 0;
  int64_t step_ = 0;
  int depth_ = 0;      // of acts that others go on in
  bool slow_ = false;  // that act takes so long that others come to their limits
  Micros quiet_since_ = kNever;
  Micros orphaned_ =
      0;  // how long the source has stood still, not ceded, with its agent dead and a guard that can act
  Micros frozen_ = 0;
};

}  // namespace godwit::simulator
