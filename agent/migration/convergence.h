// SPDX-License-Identifier: Apache-2.0
// When is the time to freeze? From the figures of the rounds alone: no I/O, no clock.
//
// What stands between the freeze and the thaw is a fixed part (freezing, CRIU's dump and restore, the
// messages), which depends on what the pod consists of and not on its memory; the memory that nobody carries
// but CRIU (locked, memfds, written private mappings of files, ...), which it copies and which goes over
// then; and the pages that were written after the last round had looked: these go over while CRIU dumps, so
// that only what takes longer than the dump counts:
//
//   left    = dirty rate x (time from the last look to the freeze)         at most what is mapped
//   freeze  = fixed + CRIU's bytes / its rate + CRIU's bytes / throughput
//                   + max(0, comparing + left / throughput - dump)
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
  int64_t lanes = 1;          // over so many connections at a time
  // Comparing shared memory with what was sent before: as long again in the freeze, beside the dump.
  absl::Duration comparing;
  int64_t criu_bytes = 0;  // that CRIU has to copy (BeyondSmall): the same in the freeze
};

// The fixed part for a pod of so many containers, which are dumped and restored one after another, and whose
// processes make up `weight` together. A weight of zeros, one that is not known, counts as small.
struct FixedPart {
  absl::Duration freeze;  // all of it
  absl::Duration dump;    // within it: pages can be sent meanwhile
};
FixedPart FixedPartFor(int containers, const agent_api::Weight& weight);

// What CRIU has to copy of these bytes beyond what so many small containers and processes have, whose data is
// in the fixed part.
int64_t BeyondSmall(int64_t criu_bytes, int containers, int64_t processes);
// How long CRIU's dump and restore of so much memory take together, and to send it at `throughput` (bytes a
// second).
absl::Duration CriuTakes(int64_t bytes, double throughput);

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
  // What CRIU has to copy, as the last round has found it.
  int64_t criu_bytes() const { return last_.criu_bytes; }
  // Before the second round, which is the first that knows a rate, there is no prediction, unless no rate
  // matters: infinite.
  absl::Duration PredictedFreeze() const;
  bool Fits() const { return PredictedFreeze() <= Bearable(); }

  enum class Verdict {
    kCopyOn,
    kFreeze,   // the prediction fits
    kInsist,   // it does not and will not, and is not to matter
    kGiveUp,   // it does not and will not
    kTooLate,  // whatever is predicted: kubelet would end the target's start (IsTooLate)
  };
  // Of a pod that fits already: would one more round leave clearly less for the freeze than the last one did?
  // A round is as long as what the one before left to it, so that each next one is shorter, until looking
  // takes longer than sending.
  bool AnotherRoundPays() const;
  // Of a pod that does not fit: it would not, either, if CRIU had nothing to copy, which no post-copy leaves
  // for later.
  bool PullingPays() const;
  // Would so much more, which no round has seen, make the freeze longer?
  bool IsWorthARound(int64_t bytes) const;

  // `copying`: since the first round; `switching`: since the target waits, nullopt while it does not.
  Verdict Decide(absl::Duration copying, std::optional<absl::Duration> switching) const;

  // The freeze has begun and CRIU has not: so many bytes are of processes that no round has seen (a fork for
  // a snapshot), and would go over whole. What the user would bear of a pod that does not converge is borne,
  // with kSurprise of grace; and nothing that would take longer than `freeze_limit`, when the guard thaws.
  enum class Surprise {
    kSend,
    kLeave,   // for the target to pull
    kGiveUp,  // thaw
  };
  Surprise JudgeUnseen(int64_t bytes, absl::Duration freeze_limit) const;

 private:
  absl::Duration Sending() const;
  absl::Duration CriuPart() const;
  absl::Duration OverLink(int64_t bytes) const;
  absl::Duration Bearable() const;

  agent_api::PreCopyLimits limits_;
  FixedPart fixed_;
  const bool pulled_;
  int rounds_ = 0;
  double dirty_rate_ = 0;
  double shared_rate_ = 0;  // of shared memory alone
  double throughput_ = 0;
  double link_ = 0;  // the best of the rounds that nothing held back, as in the freeze nothing does
  RoundFigures last_;
};

// How long a target whose `create` waits is kept waiting for a prediction that fits: the rest of what kubelet
// grants is for the freeze.
inline constexpr absl::Duration kSwitchPatience = absl::Seconds(30);

// How long after the order to switch a freeze may begin. One `create` has two minutes of kubelet's
// (runtimeRequestTimeout), and the target ends it after 100 s (the controller's --create_limit). What is left
// then is for dump, sending and restore; with less the pod would stand still for nothing.
inline constexpr absl::Duration kLatestFreeze = absl::Seconds(75);
bool IsTooLate(std::optional<absl::Duration> switching);

// By how much more than its budget a freeze may be longer by processes that came in its last moment. To thaw
// costs the whole migration, which is more than a second of standing still.
inline constexpr absl::Duration kSurprise = absl::Seconds(1);

}  // namespace godwit::migration
