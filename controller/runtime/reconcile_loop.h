// SPDX-License-Identifier: Apache-2.0
// Works off the objects of one kind: keys come in from watches, each goes to the reconciler, and comes again
// when that asks for it, or later and later when it fails. No object is in work twice at the same time.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "k8s/resource.h"
#include "k8s/workqueue.h"
#include "metrics/metrics.h"

namespace godwit::controller {

// One look at one object and at most one write. Answers when to look again even if nothing is heard
// (InfiniteDuration: not at all); an error means again soon, with growing pauses.
using Reconcile = std::function<absl::StatusOr<absl::Duration>(const k8s::ObjectName&)>;

class ReconcileLoop {
 public:
  struct Options {
    std::string kind;  // for logs and metrics
    int workers = 4;
    k8s::WorkQueue::Options queue = {.max_delay = absl::Seconds(15)};
    metrics::ControllerMetrics* metrics = nullptr;  // may be null; else outlives the loop
  };
  ReconcileLoop(Options options, Reconcile reconcile);
  ~ReconcileLoop() { Stop(); }

  // From any thread, also before Start.
  void Add(const k8s::ObjectName& name) { queue_.Add(name.ToString()); }

  void Start();
  // Ends what is in work, then returns. A stopped loop cannot be started again.
  void Stop();

  // What a worker does with one key that is ready; false when none is. For tests that want no threads.
  bool RunOnce();

  // For the gauge of waiting objects.
  size_t depth() const { return queue_.depth(); }
  const std::string& kind() const { return options_.kind; }

 private:
  void Work();
  void Handle(const std::string& key);

  const Options options_;
  const Reconcile reconcile_;
  k8s::WorkQueue queue_;
  std::vector<std::thread> workers_;
};

}  // namespace godwit::controller
