// SPDX-License-Identifier: Apache-2.0
// Who may do now what keeps a worker for seconds: first come, first served. The others come back later: their
// workers are free for what cannot wait.
//
//   const std::optional<Turns::Turn> turn = turns.Take(uid, "n1", SteadyNow());
//   if (!turn) return Later();
#pragma once

#include <cstddef>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace godwit::controller {

// Whoever waits for the turn of something that is usually done in an instant comes back after this.
inline constexpr absl::Duration kTurnPoll = absl::Milliseconds(500);
// Who has not asked for so long has gone, and his place with him. No agent takes longer for an answer.
inline constexpr absl::Duration kTurnPatience = absl::Seconds(10);

// Thread-safe. Outlives its turns.
class Turns {
 public:
  // At most so many at a time, and so many of each group.
  explicit Turns(size_t most, size_t each = 1) : most_(most), each_(each) {}

  // Ends when it goes.
  class Turn {
   public:
    Turn(Turn&& other) noexcept
        : turns_(std::exchange(other.turns_, nullptr)), group_(std::move(other.group_)) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (turns_ != nullptr) turns_->End(group_);
    }

   private:
    friend class Turns;
    Turn(Turns* turns, std::string group) : turns_(turns), group_(std::move(group)) {}
    Turns* turns_;
    std::string group_;
  };

  // nullopt: others come first. `who` has his place in the queue since he first asked, as long as he asks
  // again within kTurnPatience. `now`: SteadyNow.
  std::optional<Turn> Take(const std::string& who, const std::string& group, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Waiting {
    std::string who;
    std::string group;
    absl::Time asked;  // last
  };

  void Join(const std::string& who, const std::string& group, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsNext(const std::string& who) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(const std::string& group) ABSL_LOCKS_EXCLUDED(mutex_);

  const size_t most_;
  const size_t each_;
  absl::Mutex mutex_;
  std::multiset<std::string> taken_ ABSL_GUARDED_BY(mutex_);  // groups
  std::vector<Waiting> queue_ ABSL_GUARDED_BY(mutex_);        // by arrival
};

}  // namespace godwit::controller
