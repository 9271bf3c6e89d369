// SPDX-License-Identifier: Apache-2.0
// One look at a Migration and at most one write: read it, Observe, Decide, Execute. Holds nothing between two
// looks.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "controller/migration/decision.h"
#include "controller/runtime/cluster.h"
#include "controller/runtime/telemetry.h"
#include "k8s/events.h"
#include "k8s/resource.h"

namespace godwit::controller {

class MigrationReconciler {
 public:
  // What is pointed to outlives the reconciler.
  MigrationReconciler(Cluster* cluster, k8s::EventRecorder* events, Telemetry* telemetry,
                      MigrationSettings settings, Clock* clock = &Clock::Real())
      : cluster_(cluster), events_(events), telemetry_(telemetry), settings_(settings), clock_(clock) {}

  // As controller/runtime/reconcile_loop.h wants it.
  absl::StatusOr<absl::Duration> Reconcile(const k8s::ObjectName& name);

 private:
  absl::Status WriteStatus(const MigrationObserved& seen, const MigrationDecision& decision);
  void Tell(const MigrationObserved& seen, const MigrationDecision& decision) const;

  Cluster* const cluster_;
  k8s::EventRecorder* const events_;
  Telemetry* const telemetry_;
  const MigrationSettings settings_;
  Clock* const clock_;
};

}  // namespace godwit::controller
