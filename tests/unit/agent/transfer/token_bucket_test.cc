// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/token_bucket.h"

#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace godwit::transfer {
namespace {

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

TEST(TokenBucketTest, WithoutALimitNothingWaits) {
  TokenBucket bucket(0);
  EXPECT_EQ(bucket.limit(), 0);
  const absl::Time start = absl::Now();
  for (int i = 0; i < 1000; ++i) bucket.Take(int64_t{1} << 40, Soon());
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

// All takers together: the last Take may be in debt, what went before it is paid.
TEST(TokenBucketTest, AllTakersTogetherKeepTheLimit) {
  TokenBucket bucket(1'000'000);
  const absl::Time start = absl::Now();
  std::vector<std::thread> takers;
  for (int taker = 0; taker < 3; ++taker) {
    takers.emplace_back([&bucket] {
      for (int i = 0; i < 10; ++i) bucket.Take(10'000, Soon());
    });
  }
  for (std::thread& taker : takers) taker.join();
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(289));
}

TEST(TokenBucketTest, APauseIsNotSavedForABurst) {
  TokenBucket bucket(1'000'000);
  absl::Time paused = absl::Now() + absl::Milliseconds(50);
  bucket.Take(50'000, Soon());
  bucket.Take(1, Soon());
  EXPECT_GE(absl::Now(), paused);
  const absl::Time start = absl::Now();
  for (int i = 0; i < 6; ++i) bucket.Take(20'000, Soon());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(99));
}

TEST(TokenBucketTest, WhoMustNotWaitIsToldHowLongItWouldBe) {
  TokenBucket bucket(1'000'000);
  EXPECT_EQ(bucket.UntilPaid(), absl::ZeroDuration());
  bucket.Take(100'000'000, Soon());
  EXPECT_GT(bucket.UntilPaid(), absl::Seconds(50));
  EXPECT_LE(bucket.UntilPaid(), absl::Seconds(100));
  bucket.SetLimit(int64_t{1} << 40);
  EXPECT_LE(bucket.UntilPaid(), absl::Milliseconds(1));
  bucket.SetLimit(0);
  EXPECT_EQ(bucket.UntilPaid(), absl::ZeroDuration());
}

TEST(TokenBucketTest, ADeadlineEndsTheWait) {
  TokenBucket bucket(1);
  bucket.Take(1'000'000, Soon());
  const absl::Time deadline = absl::Now() + absl::Milliseconds(30);
  bucket.Take(1, deadline);
  EXPECT_GE(absl::Now(), deadline);
  EXPECT_LT(absl::Now(), deadline + absl::Seconds(10));
}

TEST(TokenBucketTest, ANewLimitWakesWhoWaits) {
  for (const int64_t limit : {int64_t{0}, int64_t{1} << 40}) {
    TokenBucket bucket(1);
    bucket.Take(1'000'000, Soon());
    absl::Notification went;
    std::thread taker([&] {
      bucket.Take(1, absl::InfiniteFuture());
      went.Notify();
    });
    EXPECT_FALSE(went.HasBeenNotified());
    bucket.SetLimit(limit);
    EXPECT_TRUE(went.WaitForNotificationWithTimeout(absl::Seconds(20)));
    taker.join();
    EXPECT_EQ(bucket.limit(), limit);
  }
}

TEST(TokenBucketTest, ALowerLimitHoldsForDebtsAlreadyMade) {
  TokenBucket bucket(1'000'000'000);
  bucket.Take(2'000'000, Soon());
  bucket.SetLimit(20'000'000);
  const absl::Time start = absl::Now();
  bucket.Take(1, Soon());
  bucket.Take(1'000'000, Soon());
  bucket.Take(1, Soon());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(49));
}

}  // namespace
}  // namespace godwit::transfer
