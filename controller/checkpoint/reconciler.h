// SPDX-License-Identifier: Apache-2.0
// One look at a Checkpoint and at most one write. Holds nothing between two looks.
#pragma once

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "controller/checkpoint/decide.h"
#include "controller/runtime/cluster.h"
#include "controller/runtime/telemetry.h"
#include "k8s/events.h"
#include "k8s/resource.h"

namespace godwit::controller {

class CheckpointReconciler {
 public:
  // What is pointed to outlives the reconciler.
  CheckpointReconciler(Cluster* cluster, k8s::EventRecorder* events, Telemetry* telemetry,
                       CheckpointSettings settings, Clock* clock = &Clock::Real())
      : cluster_(cluster), events_(events), telemetry_(telemetry), settings_(settings), clock_(clock) {}

  // As controller/runtime/reconcile_loop.h wants it.
  absl::StatusOr<absl::Duration> Reconcile(const k8s::ObjectName& name);

 private:
  absl::StatusOr<CheckpointObserved> Observe(const crds::Checkpoint& checkpoint) const;
  absl::Status Execute(const CheckpointObserved& seen, CheckpointStep step) const;
  absl::Status WriteStatus(const CheckpointObserved& seen, const CheckpointDecision& decision) const;

  Cluster* const cluster_;
  k8s::EventRecorder* const events_;
  Telemetry* const telemetry_;
  const CheckpointSettings settings_;
  Clock* const clock_;
};

}  // namespace godwit::controller
