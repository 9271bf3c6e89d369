// SPDX-License-Identifier: Apache-2.0
#include "metrics/registry.h"

#include <algorithm>

#include "prometheus/text_serializer.h"

namespace godwit::metrics {

std::string Registry::Exposition() const {
  std::vector<std::function<void()>> refreshes;
  {
    absl::MutexLock lock(&mutex_);
    refreshes = refreshes_;
  }
  for (const auto& refresh : refreshes) refresh();
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

void Registry::BeforeExposition(std::function<void()> refresh) {
  absl::MutexLock lock(&mutex_);
  refreshes_.push_back(std::move(refresh));
}

std::vector<Description> Registry::Descriptions() const {
  absl::MutexLock lock(&mutex_);
  return descriptions_;
}

prometheus::Registry& Registry::Enter(Description description) {
  absl::MutexLock lock(&mutex_);
  const bool known = std::any_of(descriptions_.begin(), descriptions_.end(),
                                 [&](const Description& other) { return other.name == description.name; });
  if (!known) descriptions_.push_back(std::move(description));
  return registry_;
}

namespace internal {
namespace {

// A second family of the same name and help is the first one again (the registry merges them).
template <class Builder>
auto& Make(Builder builder, const char* type, Registry& registry, Description description) {
  description.type = type;
  builder.Name(description.name).Help(description.help);
  return builder.Register(registry.Enter(std::move(description)));
}

}  // namespace

prometheus::Family<prometheus::Counter>& MakeCounter(Registry& registry, Description description) {
  return Make(prometheus::BuildCounter(), "counter", registry, std::move(description));
}

prometheus::Family<prometheus::Gauge>& MakeGauge(Registry& registry, Description description) {
  return Make(prometheus::BuildGauge(), "gauge", registry, std::move(description));
}

prometheus::Family<prometheus::Histogram>& MakeHistogram(Registry& registry, Description description) {
  return Make(prometheus::BuildHistogram(), "histogram", registry, std::move(description));
}

}  // namespace internal
}  // namespace godwit::metrics
