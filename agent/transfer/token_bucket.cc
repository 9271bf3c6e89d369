// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/token_bucket.h"

#include <algorithm>

#include "base/clock.h"

namespace godwit::transfer {

TokenBucket::TokenBucket(int64_t bytes_per_second)
    : limit_(static_cast<double>(bytes_per_second)), settled_(SteadyNow()) {}

void TokenBucket::Settle(absl::Time now) {
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - settled_));
  debt_ = limit_ <= 0 ? 0 : std::max(0.0, debt_ - seconds * limit_);
  settled_ = now;
}

absl::Duration TokenBucket::Due() const {
  if (debt_ <= 0) return absl::ZeroDuration();
  // At least a millisecond: rounding must not make who waits spin.
  return std::max(absl::Seconds(debt_ / limit_), absl::Milliseconds(1));
}

void TokenBucket::SetLimit(int64_t bytes_per_second) {
  absl::MutexLock lock(&mutex_);
  Settle(SteadyNow());
  limit_ = static_cast<double>(bytes_per_second);
  changed_.SignalAll();
}

int64_t TokenBucket::limit() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(limit_);
}

void TokenBucket::Take(int64_t bytes, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  for (;;) {
    const absl::Time now = SteadyNow();
    Settle(now);
    if (debt_ <= 0 || now >= deadline) break;
    changed_.WaitWithTimeout(&mutex_, std::min(Due(), deadline - now));
  }
  debt_ += static_cast<double>(bytes);
}

absl::Duration TokenBucket::UntilPaid() {
  absl::MutexLock lock(&mutex_);
  Settle(SteadyNow());
  return Due();
}

}  // namespace godwit::transfer
