// SPDX-License-Identifier: Apache-2.0
// Stops something that waits, from another thread: a request under way, a watch, a pause between two tries.
#pragma once

#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace godwit::k8s {

// Thread-safe. Must outlive what was given a pointer to it. Once cancelled it stays cancelled.
class Cancellation {
 public:
  Cancellation() = default;
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);
  bool cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Pauses for `duration` or until cancelled; true when cancelled.
  bool WaitFor(absl::Duration duration) const ABSL_LOCKS_EXCLUDED(mutex_);

  // While it lives, `wake` is called on Cancel() (at once when already cancelled), from the cancelling thread
  // and under a lock: it must be short and must not call back. After the destructor has returned `wake` is
  // not running and will not run again.
  class Registration {
   public:
    Registration(Cancellation* cancellation, std::function<void()> wake);
    ~Registration();
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;

   private:
    Cancellation* const cancellation_;  // may be null
    int id_ = 0;
  };

 private:
  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  int next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<int, std::function<void()>> wakes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::k8s
