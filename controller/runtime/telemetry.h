// SPDX-License-Identifier: Apache-2.0
// Counts the way of our objects through their phases. What it remembers serves the metrics alone: a new
// leader does not know when a phase began and leaves that phase's duration out.
#pragma once

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "k8s/meta.h"
#include "metrics/metrics.h"

namespace godwit::controller {

struct PhaseChange {
  absl::string_view kind;
  absl::string_view from;
  absl::string_view to;
  bool ended = false;
  bool succeeded = false;
  std::string reason;  // of a failure
};

// Thread-safe.
class Telemetry {
 public:
  // `metrics` outlives this; null: nothing is counted.
  explicit Telemetry(metrics::ControllerMetrics* metrics) : metrics_(metrics) {}
  void Changed(const k8s::ObjectMeta& object, const PhaseChange& change, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // A promise of the hand-over was seen broken; true, and counted, the first time for this object.
  bool Broken(const std::string& uid, const std::string& invariant) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  metrics::ControllerMetrics* const metrics_;
  absl::Mutex mutex_;
  absl::flat_hash_map<std::string, absl::Time> began_ ABSL_GUARDED_BY(mutex_);  // by uid: the phase it is in
  absl::flat_hash_set<std::string> broken_ ABSL_GUARDED_BY(mutex_);
};

// The reason of the Complete condition, for counting failures.
std::string CompleteReason(const std::vector<k8s::Condition>& conditions);

}  // namespace godwit::controller
