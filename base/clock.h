// SPDX-License-Identifier: Apache-2.0
// Time as an argument: what waits or measures takes a Clock, so that tests need not wait.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace godwit {

class Clock {
 public:
  virtual ~Clock() = default;
  // Wall clock: for what is shown or compared between machines.
  virtual absl::Time Now() const = 0;
  // CLOCK_MONOTONIC since an arbitrary point: for durations and deadlines.
  virtual absl::Duration Monotonic() const = 0;
  virtual void SleepFor(absl::Duration duration) = 0;

  static Clock& Real();
};

// For deadlines and lengths of time inside one process: the wall clock's time when it was first asked, and
// CLOCK_MONOTONIC since then, so that no clock that is set makes a wait longer or shorter. Not to be shown,
// kept, or compared with another process's. abseil's waits take it as a length (`deadline - SteadyNow()`):
// their own deadlines are the wall clock's.
absl::Time SteadyNow();

// Stands still until told to go on. SleepFor returns at once, with the time passed. Safe to share between
// threads.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time now = absl::FromUnixSeconds(1'700'000'000)) : start_(now) {}
  absl::Time Now() const override;
  absl::Duration Monotonic() const override;
  void SleepFor(absl::Duration duration) override { Advance(duration); }
  void Advance(absl::Duration duration);

 private:
  const absl::Time start_;
  mutable absl::Mutex mutex_;
  absl::Duration passed_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
};

}  // namespace godwit
