// SPDX-License-Identifier: Apache-2.0
#include "metrics/registry.h"

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::metrics {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Registry, ExpositionShowsHelpTypeLabelsAndValue) {
  Registry registry;
  Counter<2> requests{registry, "requests_total", "Requests so far.", {"verb", "code"}};
  requests.With("GET", "200").Increment();
  requests.With("GET", "200").Increment(2);
  const std::string text = registry.Exposition();
  EXPECT_THAT(text, HasSubstr("# HELP requests_total Requests so far.\n# TYPE requests_total counter\n"));
  EXPECT_THAT(text, HasSubstr("requests_total{code=\"200\",verb=\"GET\"} 3\n"));
}

TEST(Registry, SeriesExistAtZeroBeforeTheirFirstEvent) {
  Registry registry;
  Counter<1> requests{registry, "requests_total", "Requests so far.", {"verb"}};
  requests.With("GET");
  EXPECT_THAT(registry.Exposition(), HasSubstr("requests_total{verb=\"GET\"} 0\n"));
}

TEST(Registry, HostileLabelValuesAreEscaped) {
  Registry registry;
  Gauge<1> up{registry, "up", "Up.", {"node"}};
  up.With("a\"b\\c\nd").Set(1);
  EXPECT_THAT(registry.Exposition(), HasSubstr("up{node=\"a\\\"b\\\\c\\nd\"} 1\n"));
}

TEST(Registry, HistogramsTakeDurationsInSeconds) {
  Registry registry;
  Histogram<1> freeze{registry, "freeze_seconds", "Freezes.", {"kind"}, {0.1, 1}};
  freeze.Observe(absl::Milliseconds(50), "migration");
  freeze.Observe(absl::Milliseconds(500), "migration");
  const std::string text = registry.Exposition();
  EXPECT_THAT(text, HasSubstr("freeze_seconds_bucket{kind=\"migration\",le=\"0.1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("freeze_seconds_bucket{kind=\"migration\",le=\"1\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("freeze_seconds_sum{kind=\"migration\"} 0.55\n"));
}

TEST(Registry, ReplaceRemovesTheSeriesOfWhatIsGone) {
  Registry registry;
  Gauge<1> up{registry, "up", "Up.", {"node"}};
  up.Replace({{{"n1"}, 1}, {{"n2"}, 0}});
  up.Replace({{{"n2"}, 1}, {{"n3"}, 1}});
  const std::string text = registry.Exposition();
  EXPECT_THAT(text, Not(HasSubstr("n1")));
  EXPECT_THAT(text, HasSubstr("up{node=\"n2\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("up{node=\"n3\"} 1\n"));
}

TEST(Registry, RefreshesRunBeforeEachExposition) {
  Registry registry;
  Gauge<0> looks{registry, "looks", "Looks."};
  registry.BeforeExposition([&] { looks.With().Increment(); });
  EXPECT_THAT(registry.Exposition(), HasSubstr("looks 1\n"));
  EXPECT_THAT(registry.Exposition(), HasSubstr("looks 2\n"));
}

TEST(Registry, AMetricMadeTwiceIsOneMetric) {
  Registry registry;
  Counter<0> first{registry, "events_total", "Events."};
  Counter<0> second{registry, "events_total", "Events."};
  first.With().Increment();
  second.With().Increment();
  EXPECT_THAT(registry.Exposition(), HasSubstr("events_total 2\n"));
  EXPECT_EQ(registry.Descriptions().size(), 1u);
}

TEST(Registry, ThreadsMayCountWhileOthersRead) {
  Registry registry;
  Counter<1> events{registry, "events_total", "Events.", {"thread"}};
  Gauge<1> nodes{registry, "nodes", "Nodes.", {"node"}};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        events.With(t % 2 == 0 ? "even" : "odd").Increment();
        nodes.Replace({{{i % 2 == 0 ? "a" : "b"}, 1.0}});
        if (i % 50 == 0) registry.Exposition();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(registry.Exposition(), HasSubstr("events_total{thread=\"even\"} 1000\n"));
}

}  // namespace
}  // namespace godwit::metrics
