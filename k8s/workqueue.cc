// SPDX-License-Identifier: Apache-2.0
#include "k8s/workqueue.h"

#include <algorithm>
#include <utility>

namespace godwit::k8s {
namespace {

constexpr int kMaxDoublings = 40;  // beyond it the delay is max_delay anyway

}  // namespace

WorkQueue::WorkQueue(Options options)
    : options_(std::move(options)), tokens_(options_.burst), tokens_at_(options_.clock->Monotonic()) {}

void WorkQueue::Add(absl::string_view key) {
  absl::MutexLock lock(&mutex_);
  AddLocked(key);
}

void WorkQueue::AddLocked(absl::string_view key) {
  if (shut_down_ || !waiting_.insert(std::string(key)).second) return;
  if (in_work_.contains(key)) return;  // Done puts it into the queue
  ready_.push_back({std::string(key), options_.clock->Monotonic()});
  changed_.Signal();
}

void WorkQueue::AddAfter(absl::string_view key, absl::Duration delay) {
  absl::MutexLock lock(&mutex_);
  AddAfterLocked(key, delay);
}

void WorkQueue::AddAfterLocked(absl::string_view key, absl::Duration delay) {
  if (shut_down_) return;
  if (delay <= absl::ZeroDuration()) return AddLocked(key);
  const absl::Duration due = options_.clock->Monotonic() + delay;
  auto [known, added] = due_.try_emplace(std::string(key), due);
  if (!added) {
    if (known->second <= due) return;
    auto [first, last] = by_time_.equal_range(known->second);
    by_time_.erase(std::find_if(first, last, [key](const auto& entry) { return entry.second == key; }));
    known->second = due;
  }
  by_time_.emplace(due, key);
  changed_.Signal();
}

void WorkQueue::AddRateLimited(absl::string_view key) {
  absl::MutexLock lock(&mutex_);
  const int failures = failures_[key]++;
  absl::Duration delay = options_.base_delay;
  for (int i = 0; i < std::min(failures, kMaxDoublings) && delay < options_.max_delay; ++i) delay *= 2;
  delay = std::min(delay, options_.max_delay);
  AddAfterLocked(key, std::max(delay, TakeToken()));
}

// A bucket that may go below zero: its debt is how long the caller has to wait.
absl::Duration WorkQueue::TakeToken() {
  const absl::Duration now = options_.clock->Monotonic();
  const double earned = absl::ToDoubleSeconds(now - tokens_at_) * options_.per_second;
  tokens_ = std::min<double>(options_.burst, tokens_ + earned) - 1;
  tokens_at_ = now;
  return tokens_ >= 0 ? absl::ZeroDuration() : absl::Seconds(-tokens_ / options_.per_second);
}

void WorkQueue::Forget(absl::string_view key) {
  absl::MutexLock lock(&mutex_);
  failures_.erase(key);
}

int WorkQueue::Failures(absl::string_view key) const {
  absl::MutexLock lock(&mutex_);
  auto found = failures_.find(key);
  return found == failures_.end() ? 0 : found->second;
}

void WorkQueue::MoveDue() {
  const absl::Duration now = options_.clock->Monotonic();
  while (!by_time_.empty() && by_time_.begin()->first <= now) {
    const std::string key = std::move(by_time_.begin()->second);
    by_time_.erase(by_time_.begin());
    due_.erase(key);
    AddLocked(key);
  }
}

std::optional<std::string> WorkQueue::TakeLocked() {
  if (ready_.empty()) return std::nullopt;
  std::string key = std::move(ready_.front().key);
  ready_.pop_front();
  waiting_.erase(key);
  in_work_.insert(key);
  return key;
}

std::optional<std::string> WorkQueue::Get() {
  absl::MutexLock lock(&mutex_);
  for (;;) {
    MoveDue();
    if (std::optional<std::string> key = TakeLocked(); key.has_value()) {
      if (!ready_.empty()) changed_.Signal();
      return key;
    }
    if (shut_down_) return std::nullopt;
    const absl::Duration until =
        by_time_.empty() ? absl::InfiniteDuration() : by_time_.begin()->first - options_.clock->Monotonic();
    changed_.WaitWithTimeout(&mutex_, until);
  }
}

std::optional<std::string> WorkQueue::TryGet() {
  absl::MutexLock lock(&mutex_);
  MoveDue();
  return TakeLocked();
}

void WorkQueue::Done(absl::string_view key) {
  absl::MutexLock lock(&mutex_);
  in_work_.erase(key);
  if (!waiting_.contains(key)) return;
  ready_.push_back({std::string(key), options_.clock->Monotonic()});
  changed_.Signal();
}

void WorkQueue::ShutDown() {
  absl::MutexLock lock(&mutex_);
  shut_down_ = true;
  by_time_.clear();
  due_.clear();
  changed_.SignalAll();
}

bool WorkQueue::shutting_down() const {
  absl::MutexLock lock(&mutex_);
  return shut_down_;
}

size_t WorkQueue::depth() const {
  absl::MutexLock lock(&mutex_);
  return ready_.size();
}

size_t WorkQueue::delayed() const {
  absl::MutexLock lock(&mutex_);
  return due_.size();
}

size_t WorkQueue::in_work() const {
  absl::MutexLock lock(&mutex_);
  return in_work_.size();
}

absl::Duration WorkQueue::oldest() const {
  absl::MutexLock lock(&mutex_);
  return ready_.empty() ? absl::ZeroDuration() : options_.clock->Monotonic() - ready_.front().since;
}

void WorkQueue::Wake() {
  absl::MutexLock lock(&mutex_);
  changed_.SignalAll();
}

}  // namespace godwit::k8s
