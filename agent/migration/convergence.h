// SPDX-License-Identifier: Apache-2.0
// When is the time to freeze? From the figures of the rounds alone: no I/O, no clock.
//
// What stands between the freeze and the thaw is a fixed part (freezing, CRIU's dump and restore, the
// messages), which depends on what the pod consists of and not on its memory, and the pages that were written
// after the last round had looked; these go over while CRIU dumps, so that only what takes longer than the
// dump counts:
//
//   left    = dirty rate x (time from the last look to the freeze)         at most what is mapped
//   freeze  = fixed + max(0, comparing + left / throughput - dump)
//
// A post-copy leaves the pages of tasks for later, so that there it is shared memory alone that is left.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "agent/api/messages.h"

namespace godwit::migration {

// One round, as it was measured.
struct RoundFigures {
  absl::Duration since_last;  // from the last round's look to this one's; zero for the first
  absl::Duration took;        // from the look until all was sent
  int64_t memory_bytes = 0;   // mapped and carried
  int64_t dirty_bytes = 0;    // written since the last look
  int64_t shared_bytes = 0;   // of these, in shared memory
  int64_t sent_bytes = 0;     // content that went over
  // Comparing shared memory with what was sent before: as long again in the freeze, beside the dump.
  absl::Duration comparing;
};

// The fixed part for a pod of so many containers, which are dumped and restored one after another, and whose
// processes make up `weight` together. A weight of zeros, one that is not known, counts as small.
struct FixedPart {
  absl::Duration freeze;  // all of it
  absl::Duration dump;    // within it: pages can be sent meanwhile
};
FixedPart FixedPartFor(int containers, const agent_api::Weight& weight);

// From the end of a round to the freeze: a command to the guard, the write to cgroup.freeze.
inline constexpr absl::Duration kToTheFreeze = absl::Milliseconds(5);

// While the target is on its way a round that has converged is repeated after this many times its own length,
// and no sooner than that: looking costs the pod little then.
inline constexpr int kPauseFactor = 4;
inline constexpr absl::Duration kShortestPause = absl::Milliseconds(100);

// Bytes a second of a link; a guess where nothing is known of it (0).
inline double ThroughputOrGuess(double throughput) { return throughput > 0 ? throughput : 200e6; }

class Convergence {
 public:
  // `pulled`: of a post-copy. Without shared memory one round is enough for it, whatever the budget.
  Convergence(const agent_api::PreCopyLimits& limits, const FixedPart& fixed, bool pulled = false)
      : limits_(limits), fixed_(fixed), pulled_(pulled) {}

  void SetLimits(const agent_api::PreCopyLimits& limits) { limits_ = limits; }
  // The pod has other processes by now.
  void SetFixed(const FixedPart& fixed) { fixed_ = fixed; }
  void Add(const RoundFigures& round);

  // Bytes a second; of the last rounds, the newer the more.
  int64_t dirty_rate() const { return static_cast<int64_t>(dirty_rate_); }
  int64_t throughput() const { return static_cast<int64_t>(throughput_); }
  // Before the second round, which is the first that knows a rate, there is no prediction, unless no rate
  // matters: infinite.
  absl::Duration PredictedFreeze() const;
  bool Fits() const { return PredictedFreeze() <= Bearable(); }

  enum class Verdict {
    kCopyOn,
    kFreeze,  // the prediction fits
    kInsist,  // it does not and will not, and is not to matter
    kGiveUp,  // it does not and will not
  };
  // Of a pod that fits already: would one more round leave clearly less for the freeze than the last one did?
  // A round is as long as what the one before left to it, so that each next one is shorter, until looking
  // takes longer than sending.
  bool AnotherRoundPays() const;

  // `copying`: since the first round; `switching`: since the target waits, nullopt while it does not.
  Verdict Decide(absl::Duration copying, std::optional<absl::Duration> switching) const;

 private:
  absl::Duration Sending() const;
  absl::Duration Bearable() const;

  agent_api::PreCopyLimits limits_;
  FixedPart fixed_;
  const bool pulled_;
  int rounds_ = 0;
  double dirty_rate_ = 0;
  double shared_rate_ = 0;  // of shared memory alone
  double throughput_ = 0;
  RoundFigures last_;
};

// How long a target whose `create` waits is kept waiting for a prediction that fits: the rest of what kubelet
// grants is for the freeze.
inline constexpr absl::Duration kSwitchPatience = absl::Seconds(30);

}  // namespace godwit::migration
