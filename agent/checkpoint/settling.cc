// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/settling.h"

namespace godwit::checkpoint {
namespace {

// Copied in less time than CRIU's own dump takes, which goes on beside it: less would make nothing shorter.
constexpr int64_t kLittle = int64_t{8} << 20;
// A round that finds more than this part of what the one before found: the next would find as much.
constexpr double kShrinks = 0.75;
// For what shrinks and grows in turn.
constexpr int kMostRounds = 12;
constexpr absl::Duration kLongest = absl::Minutes(5);

}  // namespace

void Settling::Add(int64_t dirty_bytes) {
  ++rounds_;
  before_ = last_;
  last_ = dirty_bytes;
}

bool Settling::Settled(absl::Duration copying) const {
  if (rounds_ == 0) return false;
  if (last_ <= kLittle || rounds_ >= kMostRounds || copying > kLongest) return true;
  // The first one finds all that there is.
  return rounds_ >= 2 && static_cast<double>(last_) > kShrinks * static_cast<double>(before_);
}

}  // namespace godwit::checkpoint
