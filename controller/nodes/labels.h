// SPDX-License-Identifier: Apache-2.0
// Labels nodes whose container runtime knows the handler godwit, so that the RuntimeClass schedules there and
// nowhere else; takes the label from others. Also what the metrics about agents are fed from.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/runtime/cluster.h"
#include "k8s/resource.h"
#include "metrics/metrics.h"

namespace godwit::controller {

struct NodeLabelSettings {
  absl::Duration period = absl::Seconds(15);   // how often each agent is asked
  absl::Duration starting = absl::Seconds(2);  // the same, while its answer is no
};

// What the label of a node should be: true, false, or nullopt: leave it as it is (the agent does not answer,
// and what kubelet says of the node's handlers does not decide it).
std::optional<bool> HandlerLive(const k8s::Node& node, const NodeView& view);

class NodeLabels {
 public:
  // What is pointed to outlives this; `metrics` may be null.
  NodeLabels(Cluster* cluster, metrics::ControllerMetrics* metrics, NodeLabelSettings settings = {})
      : cluster_(cluster), metrics_(metrics), settings_(settings) {}

  // As controller/runtime/reconcile_loop.h wants it; the name is a node's.
  absl::StatusOr<absl::Duration> Reconcile(const k8s::ObjectName& name) ABSL_LOCKS_EXCLUDED(mutex_);

  // Sets the gauges to what was last seen of each agent; nodes that are gone drop out.
  void Publish() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Seen {
    bool up = false;
    bool runtime_ready = false;
  };

  Cluster* const cluster_;
  metrics::ControllerMetrics* const metrics_;
  const NodeLabelSettings settings_;
  absl::Mutex mutex_;
  std::map<std::string, Seen> seen_ ABSL_GUARDED_BY(mutex_);  // by node; for the metrics alone
};

}  // namespace godwit::controller
