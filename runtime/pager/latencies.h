// SPDX-License-Identifier: Apache-2.0
// How long things took: a count and quantiles, exact to an eighth, in constant space. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace godwit::pager {

class Latencies {
 public:
  void Add(absl::Duration taken);
  int64_t count() const { return count_; }
  // The time that `share` of them (0 to 1) took at most, rounded up. Zero when there are none.
  absl::Duration Quantile(double share) const;

 private:
  // Eight steps for each power of two, of nanoseconds.
  std::array<int64_t, 62 * 8> buckets_{};
  int64_t count_ = 0;
};

}  // namespace godwit::pager
