// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include "absl/random/random.h"
#include "base/backoff.h"
#include "gtest/gtest.h"

namespace godwit {
namespace {

TEST(ClockTest, FakeTimePassesOnlyWhenTold) {
  FakeClock clock(absl::FromUnixSeconds(1000));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(1000));
  clock.Advance(absl::Seconds(5));
  clock.SleepFor(absl::Seconds(2));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(1007));
  EXPECT_EQ(clock.Monotonic(), absl::Seconds(7));
}

TEST(ClockTest, RealTimeGoesForward) {
  Clock& clock = Clock::Real();
  const absl::Duration before = clock.Monotonic();
  clock.SleepFor(absl::Milliseconds(2));
  EXPECT_GE(clock.Monotonic() - before, absl::Milliseconds(2));
  EXPECT_GT(clock.Now(), absl::FromUnixSeconds(1'700'000'000));
}

TEST(BackoffTest, GrowsToItsCap) {
  const BackoffPolicy policy{
      .first = absl::Seconds(1), .longest = absl::Seconds(10), .factor = 2, .jitter = 0};
  EXPECT_EQ(BackoffDelay(policy, 0, 0.5), absl::Seconds(1));
  EXPECT_EQ(BackoffDelay(policy, 1, 0.5), absl::Seconds(2));
  EXPECT_EQ(BackoffDelay(policy, 3, 0.5), absl::Seconds(8));
  EXPECT_EQ(BackoffDelay(policy, 4, 0.5), absl::Seconds(10));
  EXPECT_EQ(BackoffDelay(policy, 1'000'000, 0.5), absl::Seconds(10));
}

TEST(BackoffTest, JitterStaysInItsBandAndUnderTheCap) {
  const BackoffPolicy policy{.first = absl::Seconds(8), .longest = absl::Seconds(10), .jitter = 0.25};
  EXPECT_EQ(BackoffDelay(policy, 0, 0), absl::Seconds(6));
  EXPECT_EQ(BackoffDelay(policy, 0, 1), absl::Seconds(10));
  EXPECT_EQ(BackoffDelay(policy, 5, 0), absl::Seconds(7.5));
  EXPECT_EQ(BackoffDelay(policy, 5, 1), absl::Seconds(10));
}

TEST(BackoffTest, ResetStartsAgain) {
  absl::BitGen random;
  Backoff backoff({.first = absl::Seconds(1), .longest = absl::Hours(1), .jitter = 0});
  EXPECT_EQ(backoff.Next(random), absl::Seconds(1));
  EXPECT_EQ(backoff.Next(random), absl::Seconds(2));
  EXPECT_EQ(backoff.Next(random), absl::Seconds(4));
  backoff.Reset();
  EXPECT_EQ(backoff.Next(random), absl::Seconds(1));
}

}  // namespace
}  // namespace godwit
