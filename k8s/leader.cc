// SPDX-License-Identifier: Apache-2.0
#include "k8s/leader.h"

#include <algorithm>

#include "absl/log/log.h"
#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "k8s/error.h"

namespace godwit::k8s {

absl::Status LeaseElection::Validate(const LeaderOptions& options) {
  if (options.name_space.empty() || options.name.empty() || options.identity.empty()) {
    return absl::InvalidArgumentError(
        "leader election needs the Lease's namespace and name, and an identity");
  }
  if (options.retry_period <= absl::ZeroDuration() || options.retry_period >= options.renew_deadline ||
      options.renew_deadline >= options.lease_duration || options.lease_duration < absl::Seconds(1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "leader election needs retry period < renew deadline < lease duration (at least 1s), got ",
        absl::FormatDuration(options.retry_period), ", ", absl::FormatDuration(options.renew_deadline), ", ",
        absl::FormatDuration(options.lease_duration)));
  }
  return absl::OkStatus();
}

// One slow request must leave time for another, and a leader must not hang in one beyond its time.
Client<Lease> LeaseElection::Limited() const {
  absl::Duration limit = options_.renew_deadline / 2;
  const absl::Duration left = leader_until_ - options_.clock->Monotonic();
  if (left > absl::ZeroDuration()) limit = std::min(limit, left);
  return Client<Lease>(api_.With(limit));
}

void LeaseElection::Observe(const Lease& lease) {
  if (lease.metadata.uid == observed_.metadata.uid && lease.spec == observed_.spec) return;
  observed_ = lease;
  observed_at_ = options_.clock->Monotonic();
}

absl::StatusOr<bool> LeaseElection::Attempt() {
  absl::StatusOr<Lease> seen = Limited().Get(options_.name_space, options_.name);
  if (k8s::IsNotFound(seen.status())) return Create();
  if (!seen.ok()) return seen.status();
  Observe(*seen);
  if (holder() == options_.identity) return Take(*seen);
  leader_until_ = -absl::InfiniteDuration();
  const absl::Duration term = observed_.spec.lease_duration_seconds > 0
                                  ? absl::Seconds(observed_.spec.lease_duration_seconds)
                                  : options_.lease_duration;
  if (!holder().empty() && options_.clock->Monotonic() - observed_at_ < term) return false;
  return Take(*seen);
}

LeaseSpec LeaseElection::OurSpec(const LeaseSpec& before) const {
  const MicroTime now{options_.clock->Now()};
  LeaseSpec spec = before;
  spec.lease_duration_seconds = absl::ToInt64Seconds(options_.lease_duration);
  spec.renew_time = now;
  if (before.holder_identity != options_.identity) {
    spec.holder_identity = options_.identity;
    spec.acquire_time = now;
    spec.lease_transitions += before.acquire_time.has_value() ? 1 : 0;
  }
  return spec;
}

absl::StatusOr<bool> LeaseElection::Create() {
  const absl::Duration begin = options_.clock->Monotonic();
  Lease lease;
  lease.metadata.name_space = options_.name_space;
  lease.metadata.name = options_.name;
  lease.spec = OurSpec({});
  return Taken(begin, Limited().Create(lease));
}

// With the version that we saw as a precondition: of two that take it at once the server lets one pass.
absl::StatusOr<bool> LeaseElection::Take(const Lease& seen) {
  const absl::Duration begin = options_.clock->Monotonic();
  Lease wanted = seen;
  wanted.spec = OurSpec(seen.spec);
  return Taken(begin, Limited().PatchChanges(seen, wanted));
}

absl::StatusOr<bool> LeaseElection::Taken(absl::Duration begin, const absl::StatusOr<Lease>& answer) {
  if (IsConflict(answer.status()) || k8s::IsAlreadyExists(answer.status())) return false;
  if (!answer.ok()) return answer.status();
  Observe(*answer);
  leader_until_ = begin + options_.renew_deadline;
  return true;
}

absl::Status LeaseElection::Release() {
  if (holder() != options_.identity) return absl::OkStatus();
  leader_until_ = -absl::InfiniteDuration();
  Lease free = observed_;
  free.spec.holder_identity.clear();
  free.spec.lease_duration_seconds = 1;
  free.spec.renew_time = MicroTime{options_.clock->Now()};
  const Client<Lease> leases(
      api_.With(static_cast<Cancellation*>(nullptr)).With(options_.renew_deadline / 2));
  absl::StatusOr<Lease> answer = leases.PatchChanges(observed_, free);
  if (answer.ok()) Observe(*answer);
  return IsConflict(answer.status()) || k8s::IsNotFound(answer.status()) ? absl::OkStatus() : answer.status();
}

LeaderElector::LeaderElector(Api api, LeaderOptions options, Callbacks callbacks)
    : options_(std::move(options)), callbacks_(std::move(callbacks)), api_(api.With(&stop_)) {}

absl::Status LeaderElector::Start() {
  GODWIT_RETURN_IF_ERROR(LeaseElection::Validate(options_));
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void LeaderElector::Stop() {
  stop_.Cancel();
  if (thread_.joinable()) thread_.join();
}

bool LeaderElector::IsLeader() const {
  absl::MutexLock lock(&mutex_);
  return leading_ && options_.clock->Monotonic() < until_;
}

std::string LeaderElector::holder() const {
  absl::MutexLock lock(&mutex_);
  return holder_;
}

// Tells what has changed; the callbacks come without the lock.
void LeaderElector::Publish(bool leading, const LeaseElection& election) {
  bool started = false, stopped = false, other = false;
  {
    absl::MutexLock lock(&mutex_);
    started = leading && !leading_;
    stopped = !leading && leading_;
    other = election.holder() != holder_;
    leading_ = leading;
    until_ = election.leader_until();
    holder_ = election.holder();
  }
  if (other) {
    LOG(INFO) << Log("lease has a new holder").With("lease", options_.name).With("holder", election.holder());
    if (callbacks_.on_new_leader) callbacks_.on_new_leader(election.holder());
  }
  if (started) callbacks_.on_started();
  if (stopped) {
    LOG(WARNING) << Log("leads no longer").With("lease", options_.name).With("identity", options_.identity);
    callbacks_.on_stopped();
  }
}

void LeaderElector::Run() {
  absl::BitGen random;
  LeaseElection election(api_, options_);
  while (!stop_.cancelled()) {
    const absl::StatusOr<bool> held = election.Attempt();
    if (!held.ok() && !stop_.cancelled()) {
      LOG(WARNING) << Log("cannot take or renew the lease").With("lease", options_.name).With(held.status());
    }
    // leader_until decides: a renewal that failed leaves the rest of the time before it to the next.
    const absl::Duration left = election.leader_until() - options_.clock->Monotonic();
    const bool leading = left > absl::ZeroDuration();
    Publish(leading, election);
    const absl::Duration pause = options_.retry_period * absl::Uniform(random, 1.0, 1.2);
    if (stop_.WaitFor(leading ? std::min(pause, left) : pause)) break;
  }
  {
    absl::MutexLock lock(&mutex_);
    if (!leading_) return;
    leading_ = false;
  }
  callbacks_.on_stopped();
  if (const absl::Status status = election.Release(); !status.ok()) {
    LOG(WARNING)
        << Log("lease not given back, others wait until it ends").With("lease", options_.name).With(status);
  }
}

}  // namespace godwit::k8s
