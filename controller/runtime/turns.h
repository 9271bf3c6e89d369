// SPDX-License-Identifier: Apache-2.0
// Who may do now what keeps a worker for seconds. The others come back later: their workers are free for what
// cannot wait.
//
//   const std::optional<Turns::Turn> turn = turns.Take("n1");
//   if (!turn) return Later();
#pragma once

#include <cstddef>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace godwit::controller {

// Whoever waits for the turn of something that is usually done in an instant comes back after this.
inline constexpr absl::Duration kTurnPoll = absl::Milliseconds(500);

// Thread-safe. Outlives its turns.
class Turns {
 public:
  // At most so many at a time, and so many for each key.
  explicit Turns(size_t most, size_t each = 1) : most_(most), each_(each) {}

  // Ends when it goes.
  class Turn {
   public:
    Turn(Turn&& other) noexcept : turns_(std::exchange(other.turns_, nullptr)), key_(std::move(other.key_)) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (turns_ != nullptr) turns_->End(key_);
    }

   private:
    friend class Turns;
    Turn(Turns* turns, std::string key) : turns_(turns), key_(std::move(key)) {}
    Turns* turns_;
    std::string key_;
  };

  // nullopt: others have theirs.
  std::optional<Turn> Take(const std::string& key) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (taken_.size() >= most_ || taken_.count(key) >= each_) return std::nullopt;
    taken_.insert(key);
    return Turn(this, key);
  }

 private:
  void End(const std::string& key) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    taken_.erase(taken_.find(key));
  }

  const size_t most_;
  const size_t each_;
  absl::Mutex mutex_;
  std::multiset<std::string> taken_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::controller
