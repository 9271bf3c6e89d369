// SPDX-License-Identifier: Apache-2.0
// What metrics are made of: a registry, and counters, gauges and histograms whose number of labels the
// compiler checks. The metrics themselves, all of them, are in metrics/metrics.h. Everything here may be
// called from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace godwit::metrics {

// A metric as documentation and tests see it.
struct Description {
  std::string name;
  std::string type;  // "counter", "gauge", "histogram"
  std::string help;
  std::vector<std::string> labels;
  std::vector<double> buckets;  // histograms: upper bounds, +Inf left out
};

// Owns every metric made from it; must outlive them.
class Registry {
 public:
  Registry() = default;
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // Everything as Prometheus' text format 0.0.4: the body of /metrics, content type kContentType.
  std::string Exposition() const;

  // `refresh` runs at the beginning of every Exposition(), to set gauges whose value is only known by
  // looking. Whatever it uses must outlive the registry. It must be quick: it holds up the scrape.
  void BeforeExposition(std::function<void()> refresh);

  // In the order in which they were made.
  std::vector<Description> Descriptions() const;

  // For Counter, Gauge and Histogram below: makes the family and remembers its description.
  prometheus::Registry& Enter(Description description);

 private:
  prometheus::Registry registry_;
  mutable absl::Mutex mutex_;
  std::vector<Description> descriptions_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> refreshes_ ABSL_GUARDED_BY(mutex_);
};

inline constexpr char kContentType[] = "text/plain; version=0.0.4; charset=utf-8";

namespace internal {

prometheus::Family<prometheus::Counter>& MakeCounter(Registry& registry, Description description);
prometheus::Family<prometheus::Gauge>& MakeGauge(Registry& registry, Description description);
prometheus::Family<prometheus::Histogram>& MakeHistogram(Registry& registry, Description description);

template <size_t N>
prometheus::Labels Pair(const std::vector<std::string>& names, const std::array<std::string, N>& values) {
  prometheus::Labels labels;
  for (size_t i = 0; i < N; ++i) labels.emplace(names[i], values[i]);
  return labels;
}

template <class... Values>
std::array<std::string, sizeof...(Values)> Strings(Values... values) {
  return {std::string(absl::string_view(values))...};
}

}  // namespace internal

// Only grows. metrics.finished.With("Migration", "Succeeded").Increment();
template <size_t N>
class Counter {
 public:
  using Labels = std::array<std::string, N>;
  Counter(Registry& registry, const char* name, const char* help, Labels labels = {})
      : labels_(labels.begin(), labels.end()),
        family_(internal::MakeCounter(registry, Description{.name = name, .help = help, .labels = labels_})) {
  }

  // The series of these label values, made at zero the first time. The reference stays valid as long as the
  // registry.
  template <class... Values>
  prometheus::Counter& With(Values... values) {
    static_assert(sizeof...(Values) == N, "one value for each label, in the order of the table");
    return family_.Add(internal::Pair(labels_, internal::Strings(values...)));
  }

 private:
  const std::vector<std::string> labels_;
  prometheus::Family<prometheus::Counter>& family_;
};

// Goes up and down. metrics.leader.With().Set(1);
template <size_t N>
class Gauge {
 public:
  using Labels = std::array<std::string, N>;
  Gauge(Registry& registry, const char* name, const char* help, Labels labels = {})
      : labels_(labels.begin(), labels.end()),
        family_(internal::MakeGauge(registry, Description{.name = name, .help = help, .labels = labels_})) {}

  // As Counter::With. A gauge is fed either by With or by Replace, never by both.
  template <class... Values>
  prometheus::Gauge& With(Values... values) {
    static_assert(sizeof...(Values) == N, "one value for each label, in the order of the table");
    return family_.Add(internal::Pair(labels_, internal::Strings(values...)));
  }

  // Sets these series and removes all others: for things that come and go, such as nodes.
  void Replace(const std::map<Labels, double>& values) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    for (auto it = present_.begin(); it != present_.end();) {
      if (values.contains(it->first)) {
        ++it;
        continue;
      }
      family_.Remove(it->second);
      it = present_.erase(it);
    }
    for (const auto& [labels, value] : values) {
      prometheus::Gauge*& gauge = present_[labels];
      if (gauge == nullptr) gauge = &family_.Add(internal::Pair(labels_, labels));
      gauge->Set(value);
    }
  }

 private:
  const std::vector<std::string> labels_;
  prometheus::Family<prometheus::Gauge>& family_;
  absl::Mutex mutex_;
  std::map<Labels, prometheus::Gauge*> present_ ABSL_GUARDED_BY(mutex_);
};

// A distribution, in the unit that ends its name. metrics.reconcile_duration.Observe(absl::Now() - start,
// "Migration");
template <size_t N>
class Histogram {
 public:
  using Labels = std::array<std::string, N>;
  Histogram(Registry& registry, const char* name, const char* help, Labels labels,
            std::vector<double> buckets)
      : labels_(labels.begin(), labels.end()),
        buckets_(std::move(buckets)),
        family_(internal::MakeHistogram(
            registry, Description{.name = name, .help = help, .labels = labels_, .buckets = buckets_})) {}

  // As Counter::With.
  template <class... Values>
  prometheus::Histogram& With(Values... values) {
    static_assert(sizeof...(Values) == N, "one value for each label, in the order of the table");
    return family_.Add(internal::Pair(labels_, internal::Strings(values...)), buckets_);
  }

  // For histograms of seconds.
  template <class... Values>
  void Observe(absl::Duration duration, Values... values) {
    With(values...).Observe(absl::ToDoubleSeconds(duration));
  }

 private:
  const std::vector<std::string> labels_;
  const std::vector<double> buckets_;
  prometheus::Family<prometheus::Histogram>& family_;
};

}  // namespace godwit::metrics
