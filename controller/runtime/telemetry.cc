// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/telemetry.h"

#include "absl/strings/str_cat.h"
#include "crds/common.h"

namespace godwit::controller {

void Telemetry::Changed(const k8s::ObjectMeta& object, const PhaseChange& change, absl::Time now) {
  if (metrics_ == nullptr || change.from == change.to) return;
  const absl::Time created = object.creation_timestamp.value_or(now);
  {
    absl::MutexLock lock(&mutex_);
    const auto began = began_.find(object.uid);
    if (began != began_.end()) {
      metrics_->phase_duration.Observe(now - began->second, change.kind, change.from);
    } else if (change.from == "Pending") {
      metrics_->phase_duration.Observe(now - created, change.kind, change.from);
    }
    if (change.ended) {
      began_.erase(object.uid);
    } else {
      began_[object.uid] = now;
    }
  }
  if (!change.ended) return;
  const bool wished = change.reason == "Cancelled" || change.reason == "Deleted";
  const absl::string_view outcome = change.succeeded ? "Succeeded" : wished ? "Cancelled" : "Failed";
  metrics_->finished.With(change.kind, outcome).Increment();
  metrics_->duration.Observe(now - created, change.kind, outcome);
  if (!change.succeeded && !wished)
    metrics_->failures.With(change.kind, absl::string_view(change.reason)).Increment();
}

bool Telemetry::Broken(const std::string& uid, const std::string& invariant) {
  {
    absl::MutexLock lock(&mutex_);
    if (!broken_.insert(absl::StrCat(invariant, " ", uid)).second) return false;
  }
  if (metrics_ != nullptr) metrics_->invariant_violations.With(invariant).Increment();
  return true;
}

std::string CompleteReason(const std::vector<k8s::Condition>& conditions) {
  const k8s::Condition* complete = k8s::FindCondition(conditions, crds::kComplete);
  return complete == nullptr ? "" : complete->reason;
}

}  // namespace godwit::controller
