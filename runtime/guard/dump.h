// SPDX-License-Identifier: Apache-2.0
// One `runc checkpoint --leave-running` of a container that is frozen, or will be when its gate is opened.
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
  // Starts it. The plan's files must be prepared (criu::Prepare), its folders exist. With a gate in the plan
  // nothing is dumped before OpenGate.
  static absl::StatusOr<std::unique_ptr<Dump>> Start(const criu::Plan& plan);

  // Returns when CRIU waits at the gate. FailedPrecondition: it ended instead, and why; DeadlineExceeded.
  absl::Status ReachGate(absl::Time deadline);
  // The dump begins. Unavailable: CRIU has ended meanwhile.
  absl::Status OpenGate();
  // Closes the gate without a word and returns when runc and CRIU have ended, killed where they do not.
  void Dismiss();

  // One of them becomes readable when it is over; for poll(2).
  int pidfd() const { return child_.pidfd(); }
  int done_fd() const { return done_.get(); }
  // CRIU has said that the images are complete and the tasks let go. It and runc take a few milliseconds more
  // to end, which nobody need wait for; this object must live as long.
  bool succeeded();
  bool ended() { return child_.Wait(absl::ZeroDuration()).ok(); }
  // When it has succeeded or ended: how it went. A failure says why, from CRIU's log. Returns when CRIU has
  // ended too, as far as it has not succeeded: at once but for a runc that was killed.
  absl::Status Result();

  // Asks CRIU to end early and heal the tasks itself. May be repeated.
  void Abort();
  // Monotonic: when it was asked to end and should be killed if it still runs: something hangs, and a pod
  // that stands still for ever is worse than the risk to the application.
  std::optional<absl::Duration> kill_at() const { return kill_at_; }
  void Kill();

  ~Dump();

 private:
  Dump(criu::Plan plan, Child child, UniqueFd output, UniqueFd done)
      : plan_(std::move(plan)),
        child_(std::move(child)),
        output_(std::move(output)),
        done_(std::move(done)) {}

  void AwaitCriu();

  criu::Plan plan_;
  Child child_;
  UniqueFd output_;  // runc's stderr, an anonymous file
  UniqueFd done_;    // the FIFO's end
  bool succeeded_ = false;
  UniqueFd gate_;  // reached, not opened
  std::optional<absl::Duration> kill_at_;
};

}  // namespace godwit::guard
