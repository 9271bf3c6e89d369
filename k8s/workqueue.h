// SPDX-License-Identifier: Apache-2.0
// What a reconciler works through: keys, each at most once in the queue and at most once in work. A key added
// while it is in work comes again when that is done. Failures come again later and later (AddRateLimited)
// until Forget.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace godwit::k8s {

// Thread-safe.
class WorkQueue {
 public:
  struct Options {
    absl::Duration base_delay = absl::Milliseconds(5);  // a key's first failure; doubles with each
    absl::Duration max_delay = absl::Seconds(1000);
    double per_second = 10;  // all rate-limited adds together, after a burst
    int burst = 100;
    Clock* clock = &Clock::Real();  // with a FakeClock: TryGet, or Wake() after each Advance
  };
  explicit WorkQueue(Options options);
  WorkQueue() : WorkQueue(Options()) {}

  void Add(absl::string_view key) ABSL_LOCKS_EXCLUDED(mutex_);
  // When the key waits already, the earlier of the two times counts.
  void AddAfter(absl::string_view key, absl::Duration delay) ABSL_LOCKS_EXCLUDED(mutex_);
  // After the pause that the key's failures so far and the overall rate ask for.
  void AddRateLimited(absl::string_view key) ABSL_LOCKS_EXCLUDED(mutex_);
  // The key succeeded: its next failure counts as the first.
  void Forget(absl::string_view key) ABSL_LOCKS_EXCLUDED(mutex_);
  int Failures(absl::string_view key) const ABSL_LOCKS_EXCLUDED(mutex_);

  // The next key, waiting for one; nullopt when the queue is shut down and what was ready is worked off. Each
  // key got must be given back by Done.
  std::optional<std::string> Get() ABSL_LOCKS_EXCLUDED(mutex_);
  // The same without waiting: nullopt when nothing is ready.
  std::optional<std::string> TryGet() ABSL_LOCKS_EXCLUDED(mutex_);
  void Done(absl::string_view key) ABSL_LOCKS_EXCLUDED(mutex_);

  // No key is accepted any more; delayed ones are dropped; Get returns nullopt when the rest is worked off.
  void ShutDown() ABSL_LOCKS_EXCLUDED(mutex_);
  bool shutting_down() const ABSL_LOCKS_EXCLUDED(mutex_);

  size_t depth() const ABSL_LOCKS_EXCLUDED(mutex_);  // ready to be got
  size_t delayed() const ABSL_LOCKS_EXCLUDED(mutex_);
  size_t in_work() const ABSL_LOCKS_EXCLUDED(mutex_);
  // How long the key at the front has been ready; zero when the queue is empty.
  absl::Duration oldest() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Makes Get look at the clock again.
  void Wake() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void AddLocked(absl::string_view key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddAfterLocked(absl::string_view key, absl::Duration delay) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MoveDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<std::string> TakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration TakeToken() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  struct Ready {
    std::string key;
    absl::Duration since;  // monotonic
  };

  const Options options_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<Ready> ready_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> waiting_
      ABSL_GUARDED_BY(mutex_);  // in ready_, or added again while in work
  absl::flat_hash_set<std::string> in_work_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, absl::Duration> due_ ABSL_GUARDED_BY(mutex_);
  absl::btree_multimap<absl::Duration, std::string> by_time_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int> failures_ ABSL_GUARDED_BY(mutex_);
  double tokens_ ABSL_GUARDED_BY(mutex_);
  absl::Duration tokens_at_ ABSL_GUARDED_BY(mutex_);
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace godwit::k8s
