// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/convergence.h"

#include "gtest/gtest.h"

namespace godwit::migration {
namespace {

using agent_api::PreCopyLimits;
using agent_api::WhenNotConverging;
using Verdict = Convergence::Verdict;

constexpr int64_t kMiB = int64_t{1} << 20;
const std::optional<absl::Duration> kNotYet;

PreCopyLimits Limits(absl::Duration budget, WhenNotConverging otherwise = WhenNotConverging::kFail) {
  return {.freeze_budget = budget, .pre_copy_timeout = absl::Minutes(1), .when_not_converging = otherwise};
}

// A pod that writes `rate` and a link that takes `throughput`, both bytes a second, after enough rounds.
Convergence After(int rounds, double rate, double throughput, int64_t memory, const PreCopyLimits& limits,
                  int containers = 1) {
  Convergence convergence(limits, FixedPartFor(containers, {}));
  double dirty = static_cast<double>(memory);
  absl::Duration since = absl::ZeroDuration();
  for (int i = 0; i < rounds; ++i) {
    const absl::Duration took = absl::Milliseconds(1) + absl::Seconds(dirty / throughput);
    convergence.Add({.since_last = since,
                     .took = took,
                     .memory_bytes = memory,
                     .dirty_bytes = static_cast<int64_t>(dirty),
                     .sent_bytes = static_cast<int64_t>(dirty)});
    since = took;
    dirty = std::min(static_cast<double>(memory), rate * absl::ToDoubleSeconds(took));
  }
  return convergence;
}

TEST(ConvergenceTest, TheFirstRoundPredictsNothing) {
  Convergence convergence(Limits(absl::Milliseconds(100)), FixedPartFor(1, {}));
  EXPECT_EQ(convergence.PredictedFreeze(), absl::InfiniteDuration());
  convergence.Add({.took = absl::Seconds(1), .memory_bytes = kMiB, .dirty_bytes = kMiB, .sent_bytes = kMiB});
  EXPECT_EQ(convergence.PredictedFreeze(), absl::InfiniteDuration());
  EXPECT_EQ(convergence.Decide(absl::Hours(1), kNotYet), Verdict::kCopyOn);
}

// 50 MB/s over a link of 400 MB/s: rounds are an eighth of the one before, until 40 ms of looking are left.
TEST(ConvergenceTest, RoundsGoOnWhileTheyMakeTheFreezeShorter) {
  constexpr double kRate = 50e6;
  constexpr double kThroughput = 400e6;
  constexpr absl::Duration kLooking = absl::Milliseconds(40);
  Convergence convergence(Limits(absl::Seconds(10)), FixedPartFor(1, {}));
  double dirty = 4e9;
  absl::Duration since = absl::ZeroDuration();
  int rounds = 0;
  do {
    const absl::Duration took = kLooking + absl::Seconds(dirty / kThroughput);
    convergence.Add({.since_last = since,
                     .took = took,
                     .memory_bytes = int64_t{4} << 30,
                     .dirty_bytes = static_cast<int64_t>(dirty),
                     .sent_bytes = static_cast<int64_t>(dirty)});
    since = took;
    dirty = kRate * absl::ToDoubleSeconds(took);
  } while ((++rounds < 2 || convergence.AnotherRoundPays()) && rounds < 100);
  EXPECT_LE(rounds, 5);
  EXPECT_LT(dirty / kThroughput, 0.010);
}

// What a round does not make shorter is not waited for: the link carries no more than is written.
TEST(ConvergenceTest, NoRoundsWithoutEndWhereTheyDoNotShrink) {
  EXPECT_FALSE(After(6, 190e6, 200e6, 512 * kMiB, Limits(absl::Seconds(10))).AnotherRoundPays());
  EXPECT_FALSE(After(6, 0, 200e6, 512 * kMiB, Limits(absl::Seconds(10))).AnotherRoundPays());
}

TEST(ConvergenceTest, WhatIsPulledNeedsOneRoundAndIsNotInTheFreeze) {
  Convergence convergence(Limits(absl::Milliseconds(100)), FixedPartFor(2, {}), /*pulled=*/true);
  EXPECT_EQ(convergence.Decide(absl::ZeroDuration(), kNotYet), Verdict::kCopyOn);
  convergence.Add({.took = absl::Seconds(9),
                   .memory_bytes = 900 * kMiB,
                   .dirty_bytes = 900 * kMiB,
                   .sent_bytes = 900 * kMiB});
  EXPECT_EQ(convergence.Decide(absl::ZeroDuration(), kNotYet), Verdict::kFreeze) << "whatever the budget";
  EXPECT_EQ(convergence.PredictedFreeze(), FixedPartFor(2, {}).freeze);
}

// Processes that share memory need it whole.
TEST(ConvergenceTest, OfWhatIsPulledTheSharedMemoryIsInTheFreeze) {
  const auto after = [](int rounds, int64_t shared_bytes) {
    Convergence convergence(Limits(absl::Milliseconds(100), WhenNotConverging::kFreeze), FixedPartFor(1, {}),
                            /*pulled=*/true);
    for (int i = 0; i < rounds; ++i) {
      convergence.Add({.since_last = i == 0 ? absl::ZeroDuration() : absl::Seconds(1),
                       .took = absl::Seconds(1),
                       .memory_bytes = 2048 * kMiB,
                       .dirty_bytes = 1024 * kMiB,
                       .shared_bytes = i == 0 ? 512 * kMiB : shared_bytes,
                       .sent_bytes = 1024 * kMiB});
    }
    return convergence;
  };
  EXPECT_EQ(after(1, 0).Decide(absl::ZeroDuration(), kNotYet), Verdict::kCopyOn) << "no rate is known yet";
  EXPECT_EQ(after(2, 0).PredictedFreeze(), FixedPartFor(1, {}).freeze);
  EXPECT_EQ(after(2, 10 * kMiB).Decide(absl::Seconds(2), kNotYet), Verdict::kFreeze)
      << "whatever else is written";
  EXPECT_EQ(after(2, 10 * kMiB).dirty_rate(), 1024 * kMiB);
  EXPECT_EQ(after(2, 512 * kMiB).Decide(absl::Seconds(2), kNotYet), Verdict::kCopyOn);
  EXPECT_EQ(after(2, 512 * kMiB).Decide(absl::Hours(1), kNotYet), Verdict::kInsist);
}

TEST(ConvergenceTest, WhatDoesNotConvergeAndMayBePulledIsFrozen) {
  const Convergence convergence =
      After(8, 400e6, 100e6, 1024 * kMiB, Limits(absl::Milliseconds(100), WhenNotConverging::kPostCopy));
  EXPECT_EQ(convergence.Decide(absl::Seconds(59), kNotYet), Verdict::kCopyOn);
  EXPECT_EQ(convergence.Decide(absl::Seconds(61), kNotYet), Verdict::kInsist);
}

TEST(ConvergenceTest, APodThatWritesSlowerThanTheLinkFitsWhateverItsSize) {
  for (const int64_t memory : {64 * kMiB, 512 * kMiB, 8192 * kMiB}) {
    const Convergence convergence = After(6, 50e6, 1e9, memory, Limits(absl::Milliseconds(100)));
    EXPECT_EQ(convergence.Decide(absl::Seconds(10), kNotYet), Verdict::kFreeze) << memory;
    EXPECT_NEAR(static_cast<double>(convergence.dirty_rate()), 50e6, 15e6) << memory;
  }
}

TEST(ConvergenceTest, APodThatWritesFasterThanTheLinkDoesNotFitUntilTimeIsUp) {
  const PreCopyLimits limits = Limits(absl::Milliseconds(100));
  const Convergence convergence = After(8, 400e6, 100e6, 1024 * kMiB, limits);
  EXPECT_GT(convergence.PredictedFreeze(), absl::Seconds(5));
  EXPECT_EQ(convergence.Decide(absl::Seconds(59), kNotYet), Verdict::kCopyOn);
  EXPECT_EQ(convergence.Decide(absl::Seconds(61), kNotYet), Verdict::kGiveUp);
}

TEST(ConvergenceTest, WhatIsDoneThenIsTheUsersWord) {
  Convergence convergence =
      After(8, 400e6, 100e6, 1024 * kMiB, Limits(absl::Milliseconds(100), WhenNotConverging::kFreeze));
  EXPECT_EQ(convergence.Decide(absl::Seconds(61), kNotYet), Verdict::kInsist);
  convergence.SetLimits(Limits(absl::Minutes(1), WhenNotConverging::kFail));
  EXPECT_EQ(convergence.Decide(absl::Seconds(61), kNotYet), Verdict::kFreeze);
}

TEST(ConvergenceTest, ATargetThatWaitsIsNotKeptForEver) {
  const Convergence convergence = After(8, 400e6, 100e6, 1024 * kMiB, Limits(absl::Milliseconds(100)));
  EXPECT_EQ(convergence.Decide(absl::Seconds(40), kSwitchPatience - absl::Seconds(1)), Verdict::kCopyOn);
  EXPECT_EQ(convergence.Decide(absl::Seconds(40), kSwitchPatience + absl::Seconds(1)), Verdict::kGiveUp);
}

TEST(ConvergenceTest, ABudgetBelowTheFixedPartIsHopelessAtOnce) {
  const Convergence idle = After(3, 0, 1e9, 64 * kMiB, Limits(absl::Milliseconds(20)));
  EXPECT_EQ(idle.Decide(absl::Seconds(1), kNotYet), Verdict::kGiveUp);
  const Convergence insists =
      After(3, 0, 1e9, 64 * kMiB, Limits(absl::Milliseconds(20), WhenNotConverging::kFreeze));
  EXPECT_EQ(insists.Decide(absl::Seconds(1), kNotYet), Verdict::kInsist);
}

// Shared memory is compared once more in the freeze, beside the dump.
TEST(ConvergenceTest, ComparingIsPartOfTheFreezeAndNoRoundMakesItShorter) {
  const auto after = [](absl::Duration comparing, absl::Duration budget) {
    Convergence convergence(Limits(budget), FixedPartFor(1, {}));
    for (int i = 0; i < 4; ++i) {
      convergence.Add({.since_last = i == 0 ? absl::ZeroDuration() : absl::Seconds(1),
                       .took = comparing + absl::Milliseconds(100),
                       .memory_bytes = 1024 * kMiB,
                       .dirty_bytes = i == 0 ? 1024 * kMiB : kMiB,
                       .sent_bytes = i == 0 ? 1024 * kMiB : 2 * kMiB,
                       .comparing = comparing});
    }
    return convergence;
  };
  const FixedPart fixed = FixedPartFor(1, {});
  const absl::Duration budget = absl::Seconds(1);
  EXPECT_LT(after(fixed.dump / 2, budget).PredictedFreeze(), fixed.freeze + absl::Milliseconds(20));
  const absl::Duration lengthy = after(absl::Milliseconds(300), budget).PredictedFreeze();
  EXPECT_GE(lengthy, fixed.freeze + absl::Milliseconds(300) - fixed.dump);
  EXPECT_LT(lengthy, fixed.freeze + absl::Milliseconds(350));
  EXPECT_EQ(after(absl::Milliseconds(300), absl::Milliseconds(100)).Decide(absl::Seconds(1), kNotYet),
            Verdict::kGiveUp);
  EXPECT_EQ(after(absl::Milliseconds(300), lengthy).Decide(absl::Seconds(1), kNotYet), Verdict::kFreeze);
  EXPECT_EQ(after(absl::Milliseconds(300), budget).throughput(),
            after(absl::ZeroDuration(), budget).throughput())
      << "it is no part of sending";
}

// CRIU's images go over one connection, whatever the pages had: a slow link's rate, or what one can carry.
TEST(ConvergenceTest, WhatIsLeftToCriuGoesOverOneConnection) {
  const auto sending = [](double rate, int64_t lanes) {
    const auto predicted = [&](int64_t criu_bytes) {
      Convergence convergence(Limits(absl::Seconds(100)), FixedPartFor(1, {}));
      convergence.Add({.took = absl::Seconds(static_cast<double>(4096 * kMiB) / rate),
                       .memory_bytes = 4096 * kMiB,
                       .dirty_bytes = 4096 * kMiB,
                       .sent_bytes = 4096 * kMiB,
                       .lanes = lanes,
                       .criu_bytes = criu_bytes});
      convergence.Add({.since_last = absl::Seconds(1),
                       .took = absl::Milliseconds(1),
                       .memory_bytes = 4096 * kMiB,
                       .lanes = lanes,
                       .criu_bytes = criu_bytes});
      return convergence.PredictedFreeze();
    };
    return absl::ToDoubleSeconds(predicted(1 << 30) - predicted(0));
  };
  const double criu = sending(1e18, 1);
  EXPECT_NEAR(sending(120e6, 4) - criu, 8.9, 0.1) << "1 Gbit/s gives one as much as four";
  EXPECT_NEAR(sending(1.2e9, 2) - criu, 1.07, 0.02);
  EXPECT_NEAR(sending(8e9, 4) - criu, 0.54, 0.02);
  EXPECT_NEAR(sending(8e9, 1) - criu, 0.13, 0.02);
}

// Locked memory, memfds and the like: whatever the rounds do, it is copied while the pod stands still.
TEST(ConvergenceTest, WhatIsLeftToCriuIsInTheFreezeAndNoRoundMakesItShorter) {
  const auto after = [](int64_t criu_bytes, const PreCopyLimits& limits, bool pulled = false) {
    Convergence convergence(limits, FixedPartFor(1, {}), pulled);
    for (int i = 0; i < 3; ++i) {
      convergence.Add({.since_last = i == 0 ? absl::ZeroDuration() : absl::Seconds(1),
                       .took = absl::Milliseconds(68),
                       .memory_bytes = 64 * kMiB,
                       .dirty_bytes = i == 0 ? 64 * kMiB : 0,
                       .sent_bytes = 64 * kMiB,
                       .criu_bytes = criu_bytes});
    }
    return convergence;
  };
  const PreCopyLimits second = Limits(absl::Seconds(1));
  EXPECT_EQ(after(0, second).Decide(absl::Seconds(1), kNotYet), Verdict::kFreeze);
  EXPECT_NEAR(absl::ToDoubleSeconds(after(4096 * kMiB, second).PredictedFreeze()), 0.075 + 6.6 + 4.35, 0.3)
      << "dumped and restored, and sent";
  EXPECT_EQ(after(4096 * kMiB, second).criu_bytes(), 4096 * kMiB);
  EXPECT_EQ(after(4096 * kMiB, second).Decide(absl::Seconds(1), kNotYet), Verdict::kGiveUp);
  EXPECT_EQ(after(4096 * kMiB, Limits(absl::Seconds(1), WhenNotConverging::kFreeze))
                .Decide(absl::Seconds(1), kNotYet),
            Verdict::kInsist)
      << "at once: time does not help";
  EXPECT_EQ(after(4096 * kMiB, Limits(absl::Seconds(12))).Decide(absl::Seconds(1), kNotYet),
            Verdict::kFreeze);
  EXPECT_EQ(after(4096 * kMiB, second, /*pulled=*/true).Decide(absl::Seconds(1), kNotYet), Verdict::kFreeze)
      << "no freeze would be shorter";
  EXPECT_FALSE(after(4096 * kMiB, second).PullingPays());
  EXPECT_TRUE(after(0, Limits(absl::Milliseconds(1))).PullingPays());
}

TEST(ConvergenceTest, WhatSmallProcessesHaveIsInTheFixedPart) {
  EXPECT_EQ(BeyondSmall(4 * kMiB, 1, 1), 0);
  EXPECT_EQ(BeyondSmall(10 * kMiB, 1, 1), 6 * kMiB);
  EXPECT_EQ(BeyondSmall(10 * kMiB, 2, 2), 2 * kMiB);
  EXPECT_EQ(BeyondSmall(10 * kMiB, 1, 4), 3 * kMiB);
  EXPECT_EQ(BeyondSmall(10 * kMiB, 1, 100), 0);
}

// One `create` of kubelet's bears so much; a freeze that begins at its end is for nothing.
TEST(ConvergenceTest, NoFreezeBeginsWhenTheTargetHasWaitedTooLong) {
  EXPECT_LT(kSwitchPatience, kLatestFreeze);
  EXPECT_FALSE(IsTooLate(kNotYet));
  for (const WhenNotConverging otherwise : {WhenNotConverging::kFail, WhenNotConverging::kFreeze}) {
    const Convergence fits = After(6, 0, 1e9, 64 * kMiB, Limits(absl::Milliseconds(100), otherwise));
    const Convergence not_yet = After(8, 400e6, 100e6, 1024 * kMiB, Limits(absl::Seconds(1), otherwise));
    EXPECT_EQ(fits.Decide(absl::Minutes(5), kLatestFreeze - absl::Seconds(1)), Verdict::kFreeze);
    for (const Convergence& one : {fits, not_yet})
      EXPECT_EQ(one.Decide(absl::Minutes(5), kLatestFreeze + absl::Seconds(1)), Verdict::kTooLate);
  }
}

// Such as the child that writes Redis' snapshot: nothing of it is at the target.
TEST(ConvergenceTest, OfAProcessThatNoRoundHasSeenTheUsersWordCounts) {
  using Surprise = Convergence::Surprise;
  constexpr absl::Duration kLimit = absl::Seconds(90);
  const auto after = [](WhenNotConverging otherwise) {
    return After(6, 0, 1e9, 64 * kMiB, Limits(absl::Milliseconds(100), otherwise));
  };
  const Convergence fails = after(WhenNotConverging::kFail), freezes = after(WhenNotConverging::kFreeze),
                    pulls = after(WhenNotConverging::kPostCopy);
  EXPECT_FALSE(fails.IsWorthARound(kMiB));
  EXPECT_TRUE(fails.IsWorthARound(64 * kMiB));
  for (const Convergence& one : {fails, freezes, pulls})
    EXPECT_EQ(one.JudgeUnseen(512 * kMiB, kLimit), Surprise::kSend) << "half a second";
  EXPECT_EQ(fails.JudgeUnseen(4096 * kMiB, kLimit), Surprise::kGiveUp);
  EXPECT_EQ(freezes.JudgeUnseen(4096 * kMiB, kLimit), Surprise::kSend);
  EXPECT_EQ(pulls.JudgeUnseen(4096 * kMiB, kLimit), Surprise::kLeave);
  EXPECT_EQ(freezes.JudgeUnseen(4096 * kMiB, absl::Seconds(2)), Surprise::kGiveUp)
      << "the guard would thaw before it has gone over";
}

TEST(ConvergenceTest, EachContainerAddsToTheFreeze) {
  const Convergence one = After(3, 0, 1e9, 64 * kMiB, Limits(absl::Milliseconds(100)), 1);
  const Convergence three = After(3, 0, 1e9, 64 * kMiB, Limits(absl::Milliseconds(100)), 3);
  EXPECT_EQ(three.PredictedFreeze(), FixedPartFor(3, {}).freeze);
  EXPECT_GT(three.PredictedFreeze(), 2 * one.PredictedFreeze());
}

TEST(ConvergenceTest, WhatCriuLooksAtAddsToTheFreezeAndToTheDump) {
  const FixedPart small = FixedPartFor(1, {.processes = 1, .threads = 1, .descriptors = 5, .mappings = 18});
  EXPECT_EQ(small.freeze, FixedPartFor(1, {}).freeze) << "one that is not known counts as small";
  const agent_api::Weight weights[] = {{.processes = 51, .threads = 51},
                                       {.processes = 1, .threads = 400},
                                       {.processes = 1, .threads = 1, .descriptors = 1000},
                                       {.processes = 1, .threads = 1, .mappings = 10000}};
  for (const agent_api::Weight& weight : weights) {
    const FixedPart fixed = FixedPartFor(1, weight);
    EXPECT_GT(fixed.freeze, small.freeze + absl::Milliseconds(50));
    EXPECT_GT(fixed.dump, small.dump);
    EXPECT_LT(fixed.dump - small.dump, fixed.freeze - small.freeze) << "restoring is part of it";
  }
  // Three small containers are small, too.
  EXPECT_EQ(FixedPartFor(3, {.processes = 3, .threads = 3, .descriptors = 18, .mappings = 60}).freeze,
            FixedPartFor(3, {}).freeze);
}

TEST(ConvergenceTest, APodOfOtherProcessesByNowIsPredictedAnew) {
  Convergence convergence = After(6, 10e6, 1e9, 64 * kMiB, Limits(absl::Milliseconds(100)));
  EXPECT_TRUE(convergence.Fits());
  convergence.SetFixed(FixedPartFor(1, {.processes = 200, .threads = 200}));
  EXPECT_FALSE(convergence.Fits());
}

}  // namespace
}  // namespace godwit::migration
