// SPDX-License-Identifier: Apache-2.0
// One `runc checkpoint --leave-running` of a frozen container.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/criu/plan.h"
#include "base/file.h"
#include "base/process.h"

namespace godwit::guard {

class Dump {
 public:
  // Starts it. The plan's files must be prepared (criu::Prepare), its folders exist.
  static absl::StatusOr<std::unique_ptr<Dump>> Start(const criu::Plan& plan);

  // Becomes readable when it has ended; for poll(2).
  int pidfd() const { return child_.pidfd(); }
  // After pidfd() became readable: how it went. A failure says why, from CRIU's log.
  absl::Status Result();

  // Asks CRIU to end early and heal the tasks itself. May be repeated.
  void Abort();
  // When it was asked to end and should be killed if it still runs: something hangs, and a pod that stands
  // still for ever is worse than the risk to the application.
  std::optional<absl::Time> kill_at() const { return kill_at_; }
  void Kill();

  ~Dump();

 private:
  Dump(criu::Plan plan, Child child, UniqueFd output)
      : plan_(std::move(plan)), child_(std::move(child)), output_(std::move(output)) {}

  criu::Plan plan_;
  Child child_;
  UniqueFd output_;  // runc's stderr, an anonymous file
  std::optional<absl::Time> kill_at_;
};

}  // namespace godwit::guard
