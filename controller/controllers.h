// SPDX-License-Identifier: Apache-2.0
// The reconcilers with their queues, and what puts objects into them: changes of the objects themselves, of
// the pods they concern, of nodes and of the agents on them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "controller/checkpoint/reconciler.h"
#include "controller/migration/reconciler.h"
#include "controller/nodes/labels.h"
#include "controller/restore/reconciler.h"
#include "controller/runtime/cluster.h"
#include "controller/runtime/reconcile_loop.h"
#include "controller/runtime/telemetry.h"
#include "k8s/events.h"
#include "metrics/metrics.h"

namespace godwit::controller {

struct ControllersSettings {
  MigrationSettings migration;
  CheckpointSettings checkpoint;
  RestoreSettings restore;
  NodeLabelSettings nodes;
  int workers = 8;  // of each kind: a look may wait for agents
};

class Controllers {
 public:
  // Adds its listeners to the cluster's copies: make it before the cluster is started, and destroy it after
  // that was stopped. What is pointed to outlives it.
  Controllers(Cluster* cluster, k8s::EventRecorder* events, metrics::ControllerMetrics* metrics,
              const ControllersSettings& settings);

  // Only one replica's are started. What was heard of before waits in the queues.
  void Start();
  // Ends what is in work. Cannot be started again.
  void Stop();

  // Sets the gauges of objects, queues and agents.
  void Publish();

 private:
  void Listen();
  void OnPod(const k8s::Change<k8s::Pod>& change);

  Cluster* const cluster_;
  metrics::ControllerMetrics* const metrics_;
  Telemetry telemetry_;
  MigrationReconciler migration_;
  CheckpointReconciler checkpoint_;
  RestoreReconciler restore_;
  NodeLabels labels_;
  ReconcileLoop migrations_;
  ReconcileLoop checkpoints_;
  ReconcileLoop restores_;
  ReconcileLoop nodes_;
};

}  // namespace godwit::controller
