// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/reconcile_loop.h"

#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"

namespace godwit::controller {

ReconcileLoop::ReconcileLoop(Options options, Reconcile reconcile)
    : options_(std::move(options)), reconcile_(std::move(reconcile)), queue_(options_.queue) {}

void ReconcileLoop::Start() {
  for (int i = 0; i < options_.workers; ++i) workers_.emplace_back([this] { Work(); });
}

void ReconcileLoop::Stop() {
  queue_.ShutDown();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ReconcileLoop::Work() {
  for (;;) {
    const absl::Duration waited = queue_.oldest();
    std::optional<std::string> key = queue_.Get();
    if (!key) return;
    if (queue_.shutting_down()) {  // what still waits is the next leader's
      queue_.Done(*key);
      continue;
    }
    if (options_.metrics != nullptr) options_.metrics->queue_wait.Observe(waited, options_.kind);
    Handle(*key);
  }
}

bool ReconcileLoop::RunOnce() {
  std::optional<std::string> key = queue_.TryGet();
  if (!key) return false;
  Handle(*key);
  return true;
}

void ReconcileLoop::Handle(const std::string& key) {
  const absl::Time start = absl::Now();
  const absl::StatusOr<absl::Duration> again = reconcile_(k8s::ObjectName::Parse(key));
  if (options_.metrics != nullptr)
    options_.metrics->reconcile_duration.Observe(absl::Now() - start, options_.kind);
  if (!again.ok()) {
    LOG(WARNING) << Log("reconciling failed; trying again")
                        .With("kind", options_.kind)
                        .With("object", key)
                        .With("failures", queue_.Failures(key))
                        .With(again.status());
    if (options_.metrics != nullptr) options_.metrics->reconcile_errors.With(options_.kind).Increment();
    queue_.AddRateLimited(key);
  } else {
    queue_.Forget(key);
    if (*again <= absl::ZeroDuration()) {
      queue_.Add(key);
    } else if (*again != absl::InfiniteDuration()) {
      queue_.AddAfter(key, *again);
    }
  }
  queue_.Done(key);
}

}  // namespace godwit::controller
