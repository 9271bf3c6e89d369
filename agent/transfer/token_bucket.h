// SPDX-License-Identifier: Apache-2.0
// How fast bytes may go out: spec.bandwidthLimit.
#pragma once

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace godwit::transfer {

// Thread-safe. A limit of 0 is none. Whoever takes goes into debt, and the next waits until it is paid: no
// burst beyond one Take, whatever the pause before it, and a Take may be larger than a second's bytes.
class TokenBucket {
 public:
  explicit TokenBucket(int64_t bytes_per_second);
  // Takes effect at once, also for who waits.
  void SetLimit(int64_t bytes_per_second) ABSL_LOCKS_EXCLUDED(mutex_);
  int64_t limit() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until `bytes` may go, but never beyond `deadline`.
  void Take(int64_t bytes, absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  // How long the next Take would wait, if nobody else takes and the limit stays.
  absl::Duration UntilPaid() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Pays off what the time since the last call allows.
  void Settle(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration Due() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  absl::CondVar changed_;  // the limit
  double limit_ ABSL_GUARDED_BY(mutex_);
  double debt_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes
  absl::Time settled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::transfer
