// SPDX-License-Identifier: Apache-2.0
// Leader election by a coordination.k8s.io Lease: of several replicas one works. Whoever holds the Lease
// renews it; who sees it unchanged for its whole duration, by the own clock, takes it. A leader that could
// not renew for `renew_deadline` stops being one before others may take over (renew_deadline <
// lease_duration).
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "k8s/api.h"
#include "k8s/cancellation.h"
#include "k8s/client.h"
#include "k8s/core.h"

namespace godwit::k8s {

struct LeaderOptions {
  std::string name_space;
  std::string name;      // of the Lease
  std::string identity;  // unique among the replicas, e.g. pod name and a random suffix
  absl::Duration lease_duration = absl::Seconds(15);  // whole seconds
  absl::Duration renew_deadline = absl::Seconds(10);
  absl::Duration retry_period = absl::Seconds(2);
  Clock* clock = &Clock::Real();
};

// The protocol without threads: call Attempt again and again. Not thread-safe.
class LeaseElection {
 public:
  // InvalidArgument unless retry_period < renew_deadline < lease_duration and the names are there.
  static absl::Status Validate(const LeaderOptions& options);
  LeaseElection(Api api, LeaderOptions options) : api_(std::move(api)), options_(std::move(options)) {}

  // Tries once to take or renew the Lease: true when that succeeded, false when somebody else has it or was
  // faster, an error when the server did not answer. A leader stays one until leader_until(), whatever an
  // attempt says.
  absl::StatusOr<bool> Attempt();
  // Gives the Lease back so that another can take it at once. OK when we did not hold it.
  absl::Status Release();

  // As last seen in the Lease; "" when nobody.
  const std::string& holder() const { return observed_.spec.holder_identity; }
  // Until when we may act as leader, by the clock's Monotonic(): the beginning of the last successful renewal
  // plus renew_deadline.
  absl::Duration leader_until() const { return leader_until_; }

 private:
  Client<Lease> Limited() const;
  void Observe(const Lease& lease);
  LeaseSpec OurSpec(const LeaseSpec& before) const;
  absl::StatusOr<bool> Create();
  absl::StatusOr<bool> Take(const Lease& seen);
  absl::StatusOr<bool> Taken(absl::Duration begin, const absl::StatusOr<Lease>& answer);

  const Api api_;
  const LeaderOptions options_;
  Lease observed_;
  absl::Duration observed_at_ = -absl::InfiniteDuration();
  absl::Duration leader_until_ = -absl::InfiniteDuration();
};

// The protocol on a thread of its own. Callbacks come from that thread, one at a time.
class LeaderElector {
 public:
  struct Callbacks {
    std::function<void()> on_started;  // we lead now; must return soon
    std::function<void()>
        on_stopped;  // we lead no longer (lost or stopped); whatever leads must have ended on return
    std::function<void(const std::string& holder)> on_new_leader;  // may be empty
  };
  LeaderElector(Api api, LeaderOptions options, Callbacks callbacks);
  ~LeaderElector() { Stop(); }
  LeaderElector(const LeaderElector&) = delete;
  LeaderElector& operator=(const LeaderElector&) = delete;

  // InvalidArgument when the options make no sense (LeaseElection::Validate).
  absl::Status Start();
  // Stops leading (on_stopped), then gives the Lease back, then returns.
  void Stop();

  // By the clock: false from the renew deadline on, even while a renewal is under way and on_stopped has not
  // come yet.
  bool IsLeader() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::string holder() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run();
  void Publish(bool leading, const LeaseElection& election);

  const LeaderOptions options_;
  const Callbacks callbacks_;
  Cancellation stop_;
  const Api api_;
  mutable absl::Mutex mutex_;
  bool leading_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration until_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
  std::string holder_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace godwit::k8s
