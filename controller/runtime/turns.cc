// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/turns.h"

#include <algorithm>

namespace godwit::controller {

std::optional<Turns::Turn> Turns::Take(const std::string& who, const std::string& group, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Join(who, group, now);
  if (!IsNext(who)) return std::nullopt;
  std::erase_if(queue_, [&who](const Waiting& waiting) { return waiting.who == who; });
  taken_.insert(group);
  return Turn(this, group);
}

void Turns::Join(const std::string& who, const std::string& group, absl::Time now) {
  std::erase_if(queue_, [now](const Waiting& waiting) { return now - waiting.asked > kTurnPatience; });
  const auto found = std::find_if(queue_.begin(), queue_.end(),
                                  [&who](const Waiting& waiting) { return waiting.who == who; });
  if (found == queue_.end()) {
    queue_.push_back({.who = who, .group = group, .asked = now});
  } else {
    found->asked = now;
  }
}

// Each free turn is kept for the one it is due to, so that nobody who happens to ask sooner takes it: of
// those whose group has the fewest turns, the first. Gives all free ones out, in thought, until it is his.
bool Turns::IsNext(const std::string& who) const {
  std::multiset<std::string> taken = taken_;
  std::vector<const Waiting*> queue;
  queue.reserve(queue_.size());
  for (const Waiting& waiting : queue_) queue.push_back(&waiting);
  while (taken.size() < most_) {
    const Waiting* next = nullptr;
    size_t fewest = each_;
    for (const Waiting* waiting : queue) {
      const size_t has = taken.count(waiting->group);
      if (has >= fewest) continue;
      next = waiting;
      fewest = has;
    }
    if (next == nullptr) return false;
    if (next->who == who) return true;
    taken.insert(next->group);
    std::erase(queue, next);
  }
  return false;
}

void Turns::End(const std::string& group) {
  absl::MutexLock lock(&mutex_);
  taken_.erase(taken_.find(group));
}

}  // namespace godwit::controller
