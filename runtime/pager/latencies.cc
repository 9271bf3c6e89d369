// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/latencies.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace godwit::pager {
namespace {

// Bucket n < 8 holds n nanoseconds; the others those that begin with the same four bits.
size_t BucketOf(uint64_t ns) {
  if (ns < 8) return static_cast<size_t>(ns);
  const int shift = std::bit_width(ns) - 4;
  return static_cast<size_t>(shift) * 8 + static_cast<size_t>(ns >> shift);
}

// The longest that is in the bucket.
uint64_t LongestOf(size_t bucket) {
  if (bucket < 16) return bucket;
  const size_t shift = bucket / 8 - 1;
  return ((bucket % 8 + 8 + 1) << shift) - 1;
}

}  // namespace

void Latencies::Add(absl::Duration taken) {
  const int64_t ns = std::max<int64_t>(absl::ToInt64Nanoseconds(taken), 0);
  ++buckets_[std::min(BucketOf(static_cast<uint64_t>(ns)), buckets_.size() - 1)];
  ++count_;
}

absl::Duration Latencies::Quantile(double share) const {
  const auto wanted = static_cast<int64_t>(std::ceil(share * static_cast<double>(count_)));
  int64_t seen = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    seen += buckets_[bucket];
    if (seen > 0 && seen >= wanted) return absl::Nanoseconds(LongestOf(bucket));
  }
  return absl::ZeroDuration();
}

}  // namespace godwit::pager
