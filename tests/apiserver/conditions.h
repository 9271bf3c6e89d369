// SPDX-License-Identifier: Apache-2.0
// Waiting for what a real server will do in its own time.
#pragma once

#include <functional>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace godwit::apiserver {

// Looks at `condition` again and again until it holds; false when it does not within `limit`.
inline bool WaitUntil(const std::function<bool()>& condition, absl::Duration limit = absl::Minutes(1)) {
  const absl::Duration deadline = Clock::Real().Monotonic() + limit;
  while (!condition()) {
    if (Clock::Real().Monotonic() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return true;
}

}  // namespace godwit::apiserver
