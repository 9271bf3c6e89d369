// SPDX-License-Identifier: Apache-2.0
// The conventions of Prometheus that can be checked without a Prometheus (the cluster's tests run `promtool
// check metrics`).
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metrics/metrics.h"

namespace godwit::metrics {
namespace {

using testing::HasSubstr;

std::vector<Description> All() {
  Registry controller, agent;
  ControllerMetrics controller_metrics(controller);
  AgentMetrics agent_metrics(agent);
  std::vector<Description> all = controller.Descriptions();
  for (Description& metric : agent.Descriptions()) all.push_back(std::move(metric));
  return all;
}

TEST(Tables, NamesCarryTheirComponentAndUnit) {
  for (const Description& metric : All()) {
    SCOPED_TRACE(metric.name);
    EXPECT_TRUE(absl::StartsWith(metric.name, "godwit_controller_") ||
                absl::StartsWith(metric.name, "godwit_agent_") || metric.name == kInvariantViolations);
    EXPECT_EQ(absl::EndsWith(metric.name, "_total"), metric.type == "counter");
    if (metric.type == "histogram") {
      EXPECT_TRUE(absl::EndsWith(metric.name, "_seconds") ||
                  absl::EndsWith(metric.name, "_bytes_per_second"));
      EXPECT_TRUE(std::is_sorted(metric.buckets.begin(), metric.buckets.end()));
      EXPECT_FALSE(metric.buckets.empty());
    }
  }
}

TEST(Tables, NoNameStandsTwice) {
  std::set<std::string> names;
  for (const Description& metric : All()) {
    const bool is_new = names.insert(metric.name).second;
    EXPECT_TRUE(is_new || metric.name == kInvariantViolations) << metric.name;
  }
}

TEST(Tables, EveryHelpIsASentence) {
  for (const Description& metric : All()) {
    SCOPED_TRACE(metric.name);
    EXPECT_TRUE(absl::EndsWith(metric.help, "."));
    EXPECT_GT(metric.help.size(), 20u);
    EXPECT_FALSE(absl::StrContains(metric.help, "|")) << "would break the table in docs/metrics.md";
  }
}

TEST(Tables, NoLabelNamesAnObject) {
  const std::set<std::string> unbounded = {"pod", "namespace", "name", "uid", "container", "image"};
  for (const Description& metric : All()) {
    for (const std::string& label : metric.labels)
      EXPECT_FALSE(unbounded.contains(label)) << metric.name << " " << label;
  }
}

TEST(Tables, WhatAlertsWatchIsThereBeforeAnythingHappened) {
  Registry controller, agent;
  ControllerMetrics controller_metrics(controller);
  AgentMetrics agent_metrics(agent);
  const std::string text = controller.Exposition() + agent.Exposition();
  EXPECT_THAT(text, HasSubstr("godwit_controller_finished_total{kind=\"Migration\",outcome=\"Failed\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("godwit_controller_leader 0\n"));
  EXPECT_THAT(text, HasSubstr("godwit_agent_frozen_pods 0\n"));
  for (const char* invariant : {"I1", "I2", "I3", "I5", "I6", "I7"})
    EXPECT_THAT(text, HasSubstr(absl::StrCat(kInvariantViolations, "{invariant=\"", invariant, "\"} 0\n")));
  EXPECT_THAT(text, HasSubstr("godwit_agent_pre_copies_total{outcome=\"gave_up\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("godwit_agent_pager_backlog_bytes 0\n"));
  EXPECT_THAT(text, HasSubstr("godwit_agent_stream_errors_total{reason=\"Checksum\"} 0\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "godwit_agent_freeze_duration_seconds_count{operation=\"migration\",outcome=\"aborted\"} 0\n"));
}

}  // namespace
}  // namespace godwit::metrics
