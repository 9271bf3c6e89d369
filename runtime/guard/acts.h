// SPDX-License-Identifier: Apache-2.0
// What the guard does to the machine it runs on.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/criu/plan.h"
#include "agent/journal/journal.h"
#include "agent/runtime/fence.h"
#include "agent/runtime/freezer.h"
#include "agent/runtime/quick_breakpoints.h"
#include "base/clock.h"
#include "runtime/guard/dump.h"
#include "runtime/guard/guard.h"

namespace godwit::guard {

class HostActs final : public Acts {
 public:
  // Makes the folders of the dumps and opens the journal. `proc`: where procfs is mounted.
  static absl::StatusOr<std::unique_ptr<HostActs>> Make(const GuardSpec& spec, std::string proc = "/proc",
                                                        Clock& clock = Clock::Real());
  ~HostActs() override;

  SourceState journaled() const { return journal_->state(); }
  // The dump that runs, or nullptr. The loop watches its descriptors, kills it at kill_at, and calls
  // FinishDump when it has succeeded or ended.
  Dump* dump() { return dump_.get(); }
  // What keeps the pod's packets away while it stands still; not OK: nothing does, and CRIU locks
  // connections.
  const absl::Status& fence_status() const { return fence_status_; }
  // How the dump went. The container is verified to stand still.
  absl::Status FinishDump();

  std::optional<Refusal> Freeze(const std::function<absl::Status()>& before_freeze,
                                FreezeMoment* moment) override;
  absl::Status Thaw() override;
  absl::Status StillFrozen() override;
  absl::Status HoldPod() override;
  absl::Status Kill() override;
  absl::Status Journal(SourceState state, absl::string_view reason, absl::string_view message,
                       SourceState* now) override;
  absl::Status Arm() override;
  void Disarm() override;
  absl::Status StartDump(const std::string& container) override;
  void AbortDump() override;

 private:
  HostActs(const GuardSpec& spec, std::string proc, Clock& clock)
      : spec_(spec), proc_(std::move(proc)), clock_(clock) {}
  absl::Status Prepare();
  // One guard a container: what one has frozen another must not thaw.
  absl::Status PrepareDumps();
  absl::Status ClaimContainers();
  absl::Status MakeFence();
  void LowerFence();
  // May the pod be frozen now? `exec_in_flight` tells whether waiting a little could help.
  std::optional<Refusal> Check(bool* exec_in_flight) const;
  std::vector<std::string> Cgroups() const;
  std::vector<std::vector<pid_t>> Processes() const;

  const GuardSpec& spec_;
  const std::string proc_;
  Clock& clock_;
  criu::Programs programs_;
  std::optional<journal::SourceJournal> journal_;
  std::vector<UniqueFd> claims_;             // locked, each the folder of a container's cgroup
  std::map<std::string, criu::Plan> plans_;  // by container name; empty after FROZEN
  std::optional<runtime::Fence> fence_;
  absl::Status fence_status_;
  runtime::FrozenCgroups frozen_;                               // the containers'
  std::vector<std::vector<pid_t>> stood_still_;                 // their processes, in this guard's freeze
  runtime::FrozenCgroups held_;                                 // the pod's
  std::optional<runtime::QuickBreakpoints> quick_breakpoints_;  // from Arm on
  std::map<std::string, std::unique_ptr<Dump>> armed_;          // held at their gates
  std::unique_ptr<Dump> dump_;
  std::vector<std::unique_ptr<Dump>> ending_;  // succeeded; runc and CRIU are about to end
};

}  // namespace godwit::guard
