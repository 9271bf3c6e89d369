// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/forecast.h"

#include "gtest/gtest.h"

namespace godwit::migration {
namespace {

using agent_api::CopyMode;
using agent_api::PreCopyLimits;
using agent_api::WhenNotConverging;

constexpr int64_t kMiB = int64_t{1} << 20;

PreCopyLimits Limits(WhenNotConverging otherwise = WhenNotConverging::kFreeze) {
  return {.freeze_budget = absl::Milliseconds(100),
          .pre_copy_timeout = absl::Minutes(1),
          .when_not_converging = otherwise};
}

// A pod that writes `rate` bytes a second, over `hot` bytes again and again, to a link of `throughput`.
Sample SampleOf(int64_t content, double rate, int64_t hot, double throughput) {
  Sample sample{.memory_bytes = content,
                .content_bytes = content,
                .look = absl::Milliseconds(2),
                .throughput = throughput};
  for (const int ms : {20, 60, 200, 1000}) {
    const auto bytes = static_cast<int64_t>(rate * ms / 1000);
    sample.written.push_back({.within = absl::Milliseconds(ms), .bytes = std::min(bytes, hot)});
  }
  return sample;
}

Forecast Foretell(const Sample& sample, CopyMode mode = CopyMode::kPreCopy,
                  const PreCopyLimits& limits = Limits()) {
  return ForecastCopy(sample, FixedPartFor(1, {}), mode, limits, 0);
}

TEST(ForecastTest, AnIdlePodStandsStillForTheFixedPart) {
  const Forecast forecast = Foretell(SampleOf(512 * kMiB, 0, 0, 500e6));
  EXPECT_TRUE(forecast.converges);
  EXPECT_EQ(forecast.freeze, FixedPartFor(1, {}).freeze);
  EXPECT_NEAR(absl::ToDoubleSeconds(forecast.copying), 1.1, 0.2) << "512 MiB at 500 MB/s";
  EXPECT_NEAR(static_cast<double>(forecast.transfer_bytes), 513.0 * kMiB, 4.0 * kMiB);
}

TEST(ForecastTest, APodThatWritesSlowerThanTheLinkConverges) {
  const Forecast forecast = Foretell(SampleOf(512 * kMiB, 50e6, 512 * kMiB, 500e6));
  EXPECT_TRUE(forecast.converges);
  EXPECT_LT(forecast.freeze, absl::Milliseconds(100));
  EXPECT_GT(forecast.rounds, 1);
  EXPECT_GT(forecast.transfer_bytes, 540 * kMiB) << "what is written meanwhile goes over again";
}

TEST(ForecastTest, APodThatWritesFasterThanTheLinkDoesNot) {
  const Sample sample = SampleOf(1024 * kMiB, 400e6, 1024 * kMiB, 100e6);
  const Forecast forecast = Foretell(sample);
  EXPECT_FALSE(forecast.converges);
  EXPECT_GT(forecast.freeze, absl::Seconds(5));
  EXPECT_GE(forecast.copying, absl::Minutes(1)) << "it is tried for so long";
  EXPECT_GT(forecast.transfer_bytes, 4096 * kMiB);
}

// A mean rate over a second would tell of 20 MB in a second and so of 0.1 MB in the last 5 ms.
TEST(ForecastTest, WhatIsWrittenOverAndOverIsInTheFreezeAsAWhole) {
  Sample sample = SampleOf(512 * kMiB, 0, 0, 100e6);
  for (Sample::Written& look : sample.written) look.bytes = 20 * kMiB;
  const Forecast forecast = Foretell(sample);
  EXPECT_GT(forecast.freeze, absl::Milliseconds(150));
  EXPECT_LT(forecast.freeze, absl::Milliseconds(350));
}

TEST(ForecastTest, APostCopyLeavesItForLater) {
  const Sample sample = SampleOf(1024 * kMiB, 400e6, 1024 * kMiB, 100e6);
  const Forecast forecast = Foretell(sample, CopyMode::kPostCopy);
  EXPECT_TRUE(forecast.converges);
  EXPECT_EQ(forecast.freeze, FixedPartFor(1, {}).freeze);
  EXPECT_GT(forecast.pulling, absl::Seconds(5));
  const Forecast after = Foretell(sample, CopyMode::kPreCopy, Limits(WhenNotConverging::kPostCopy));
  EXPECT_FALSE(after.converges);
  EXPECT_EQ(after.freeze, FixedPartFor(1, {}).freeze);
  EXPECT_GT(after.pulling, absl::Seconds(1));
}

TEST(ForecastTest, ABandwidthLimitHoldsForTheRoundsAndNotForTheFreeze) {
  PreCopyLimits limits = Limits();
  limits.bandwidth_limit = 50 * kMiB;
  const Sample sample = SampleOf(512 * kMiB, 20e6, 512 * kMiB, 1e9);
  const Forecast forecast = Foretell(sample, CopyMode::kPreCopy, limits);
  EXPECT_GT(forecast.copying, absl::Seconds(10));
  EXPECT_LT(forecast.freeze, Foretell(sample).freeze + absl::Milliseconds(40));
}

TEST(ForecastTest, MemoryThatIsLeftToCriuIsCopiedInTheFreeze) {
  Sample sample = SampleOf(64 * kMiB, 0, 0, 1e9);
  sample.criu_bytes = 650 * kMiB;
  const Forecast forecast = Foretell(sample);
  EXPECT_NEAR(absl::ToDoubleSeconds(forecast.freeze), 0.075 + 1.05 + 0.68, 0.2);
  EXPECT_FALSE(forecast.converges) << "as the migration would find: no round makes that shorter";
  PreCopyLimits limits = Limits();
  limits.freeze_budget = absl::Seconds(2);
  EXPECT_TRUE(Foretell(sample, CopyMode::kPreCopy, limits).converges);
}

TEST(ForecastTest, SharedMemoryIsComparedBesideTheDump) {
  Sample sample = SampleOf(1024 * kMiB, 0, 0, 1e9);
  sample.shared_bytes = 1024 * kMiB;
  sample.comparing = absl::Milliseconds(200);
  const FixedPart fixed = FixedPartFor(1, {});
  EXPECT_EQ(Foretell(sample).freeze, fixed.freeze + absl::Milliseconds(200) - fixed.dump);
}

TEST(ForecastTest, AStopAndCopyIsAsLongAsItsMemory) {
  const Sample sample{.throughput = 1e9};
  const Forecast forecast = ForecastStopAndCopy(sample, FixedPartFor(1, {}), 512 * kMiB, 100 * kMiB, false);
  EXPECT_NEAR(absl::ToDoubleSeconds(forecast.freeze), 1.55, 0.2) << "1576 ms were measured";
  EXPECT_LT(ForecastStopAndCopy(sample, FixedPartFor(1, {}), 512 * kMiB, 100 * kMiB, true).freeze,
            forecast.freeze);
  EXPECT_GE(forecast.transfer_bytes, 612 * kMiB);
}

TEST(ForecastTest, NothingSampledIsNoCrash) {
  const Forecast forecast = Foretell(Sample{});
  EXPECT_GE(forecast.freeze, FixedPartFor(1, {}).freeze);
}

}  // namespace
}  // namespace godwit::migration
