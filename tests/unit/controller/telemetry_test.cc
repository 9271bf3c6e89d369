// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/telemetry.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metrics/metrics.h"

namespace godwit::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(TelemetryTest, WhatSomebodyCancelledIsNoFailure) {
  metrics::Registry registry;
  metrics::ControllerMetrics metrics(registry);
  Telemetry telemetry(&metrics);
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  for (const char* reason : {"Cancelled", "Deleted", "Timeout"}) {
    telemetry.Changed(
        k8s::ObjectMeta{.uid = reason, .creation_timestamp = now - absl::Seconds(5)},
        {.kind = "Migration", .from = "Copying", .to = "Failed", .ended = true, .reason = reason}, now);
  }
  const std::string told = registry.Exposition();
  EXPECT_THAT(told, HasSubstr(R"(finished_total{kind="Migration",outcome="Cancelled"} 2)"));
  EXPECT_THAT(told, HasSubstr(R"(finished_total{kind="Migration",outcome="Failed"} 1)"));
  EXPECT_THAT(told, HasSubstr(R"(reason="Timeout")"));
  EXPECT_THAT(told, Not(HasSubstr(R"(reason="Cancelled")")));
}

}  // namespace
}  // namespace godwit::controller
