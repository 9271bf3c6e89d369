// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/latencies.h"

#include "gtest/gtest.h"

namespace godwit::pager {
namespace {

TEST(LatenciesTest, WithoutAnyTheyAreZero) {
  EXPECT_EQ(Latencies().Quantile(0.5), absl::ZeroDuration());
  EXPECT_EQ(Latencies().count(), 0);
}

TEST(LatenciesTest, QuantilesAreExactToAnEighth) {
  Latencies latencies;
  for (int us = 1; us <= 1000; ++us) latencies.Add(absl::Microseconds(us));
  EXPECT_EQ(latencies.count(), 1000);
  for (const double share : {0.01, 0.5, 0.9, 0.99, 1.0}) {
    const absl::Duration exact = absl::Microseconds(1000 * share);
    EXPECT_GE(latencies.Quantile(share), exact) << share;
    EXPECT_LE(latencies.Quantile(share), exact * 9 / 8) << share;
  }
}

TEST(LatenciesTest, TheShortestAndTheLongestHaveTheirPlace) {
  Latencies latencies;
  latencies.Add(absl::Nanoseconds(-5));
  EXPECT_EQ(latencies.Quantile(1), absl::ZeroDuration());
  latencies.Add(absl::InfiniteDuration());
  EXPECT_GT(latencies.Quantile(1), absl::Hours(24 * 365));
  for (int64_t ns = 1; ns < int64_t{1} << 40; ns = ns * 3 / 2 + 1) {
    Latencies one;
    one.Add(absl::Nanoseconds(ns));
    EXPECT_GE(one.Quantile(0.5), absl::Nanoseconds(ns));
    EXPECT_LE(one.Quantile(0.5), absl::Nanoseconds(ns + ns / 8));
  }
}

}  // namespace
}  // namespace godwit::pager
