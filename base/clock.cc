// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <time.h>

#include "absl/time/clock.h"

namespace godwit {
namespace {

class RealClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
  absl::Duration Monotonic() const override {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return absl::DurationFromTimespec(now);
  }
  void SleepFor(absl::Duration duration) override { absl::SleepFor(duration); }
};

}  // namespace

Clock& Clock::Real() {
  static RealClock clock;
  return clock;
}

absl::Time SteadyNow() {
  static const absl::Time kBegin = absl::Now();
  static const absl::Duration kBeginMonotonic = Clock::Real().Monotonic();
  return kBegin + (Clock::Real().Monotonic() - kBeginMonotonic);
}

absl::Time FakeClock::Now() const {
  absl::MutexLock lock(&mutex_);
  return start_ + passed_;
}

absl::Duration FakeClock::Monotonic() const {
  absl::MutexLock lock(&mutex_);
  return passed_;
}

void FakeClock::Advance(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  passed_ += duration;
}

}  // namespace godwit
