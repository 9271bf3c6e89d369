// SPDX-License-Identifier: Apache-2.0
// One look at a Restore and at most one write. Holds nothing between two looks.
#pragma once

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "controller/restore/decide.h"
#include "controller/runtime/cluster.h"
#include "controller/runtime/telemetry.h"
#include "k8s/events.h"
#include "k8s/resource.h"

namespace godwit::controller {

class RestoreReconciler {
 public:
  // What is pointed to outlives the reconciler.
  RestoreReconciler(Cluster* cluster, k8s::EventRecorder* events, Telemetry* telemetry,
                    RestoreSettings settings, Clock* clock = &Clock::Real())
      : cluster_(cluster), events_(events), telemetry_(telemetry), settings_(settings), clock_(clock) {}

  // As controller/runtime/reconcile_loop.h wants it.
  absl::StatusOr<absl::Duration> Reconcile(const k8s::ObjectName& name);

 private:
  absl::StatusOr<RestoreObserved> Observe(const crds::Restore& restore) const;
  int RestoresInWork(const crds::Restore& restore) const;
  void ObservePending(RestoreObserved& seen) const;
  void ObserveManifest(RestoreObserved& seen) const;
  absl::Status Execute(const RestoreObserved& seen, const RestoreDecision& decision) const;
  absl::Status Permit(const RestoreObserved& seen, Agent& agent) const;
  absl::Status WriteStatus(const RestoreObserved& seen, const RestoreDecision& decision) const;

  Cluster* const cluster_;
  k8s::EventRecorder* const events_;
  Telemetry* const telemetry_;
  const RestoreSettings settings_;
  Clock* const clock_;
};

}  // namespace godwit::controller
