// SPDX-License-Identifier: Apache-2.0
#include "k8s/cancellation.h"

#include <utility>

namespace godwit::k8s {

void Cancellation::Cancel() {
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return;
  cancelled_ = true;
  for (auto& [id, wake] : wakes_) wake();
}

bool Cancellation::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

bool Cancellation::WaitFor(absl::Duration duration) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), duration);
}

Cancellation::Registration::Registration(Cancellation* cancellation, std::function<void()> wake)
    : cancellation_(cancellation) {
  if (cancellation_ == nullptr) return;
  absl::MutexLock lock(&cancellation_->mutex_);
  if (cancellation_->cancelled_) wake();
  id_ = cancellation_->next_id_++;
  cancellation_->wakes_.emplace(id_, std::move(wake));
}

Cancellation::Registration::~Registration() {
  if (cancellation_ == nullptr) return;
  absl::MutexLock lock(&cancellation_->mutex_);
  cancellation_->wakes_.erase(id_);
}

}  // namespace godwit::k8s
