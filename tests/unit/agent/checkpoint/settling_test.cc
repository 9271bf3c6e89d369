// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/settling.h"

#include <vector>

#include "gtest/gtest.h"

namespace godwit::checkpoint {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// After how many rounds of a pod that writes like this it freezes.
int RoundsUntilSettled(const std::vector<int64_t>& mib, absl::Duration round = absl::Seconds(1)) {
  Settling settling;
  for (const int64_t dirty : mib) {
    settling.Add(dirty * kMiB);
    if (settling.Settled(settling.rounds() * round)) return settling.rounds();
  }
  return 0;
}

TEST(SettlingTest, ARoundOfLittleIsTheLast) {
  EXPECT_EQ(RoundsUntilSettled({4}), 1);
  EXPECT_EQ(RoundsUntilSettled({2048, 300, 40, 6, 1}), 4);
}

TEST(SettlingTest, WhatDoesNotShrinkIsNotWaitedFor) {
  EXPECT_EQ(RoundsUntilSettled({2048, 2048}), 2) << "it writes faster than the disk";
  EXPECT_EQ(RoundsUntilSettled({2048, 64, 64}), 3) << "it rewrites the same again and again";
}

TEST(SettlingTest, NeitherRoundsNorTimeAreWithoutEnd) {
  std::vector<int64_t> mib;
  for (int64_t dirty = 1'000'000; dirty > 100; dirty = dirty * 7 / 10) mib.push_back(dirty);
  EXPECT_EQ(RoundsUntilSettled(mib), 12);
  EXPECT_EQ(RoundsUntilSettled(mib, absl::Minutes(2)), 3);
}

TEST(SettlingTest, NothingIsSettledBeforeTheFirstRound) { EXPECT_FALSE(Settling().Settled(absl::Hours(1))); }

}  // namespace
}  // namespace godwit::checkpoint
