// SPDX-License-Identifier: Apache-2.0
// How long to wait before trying again: exponential, capped, with jitter so that many do not try at the same
// moment.
#pragma once

#include "absl/random/bit_gen_ref.h"
#include "absl/time/time.h"

namespace godwit {

struct BackoffPolicy {
  absl::Duration first = absl::Milliseconds(100);
  absl::Duration longest = absl::Seconds(30);
  double factor = 2;
  double jitter =
      0.2;  // the delay lies within (1 +- jitter) times its nominal value, and never above `longest`
};

// The delay before attempt number `attempt` (0: the first retry). `random` in [0, 1) chooses the place in the
// jitter.
absl::Duration BackoffDelay(const BackoffPolicy& policy, int attempt, double random);

// Counts the attempts of one thing that is tried again and again. Not safe to share between threads.
class Backoff {
 public:
  explicit Backoff(const BackoffPolicy& policy = {}) : policy_(policy) {}
  // The delay before the next try; grows with each call.
  absl::Duration Next(absl::BitGenRef random);
  void Reset() { attempt_ = 0; }

 private:
  BackoffPolicy policy_;
  int attempt_ = 0;
};

}  // namespace godwit
