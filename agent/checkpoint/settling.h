// SPDX-License-Identifier: Apache-2.0
// Whether another round of copying makes a checkpoint's freeze shorter. From the figures of the rounds alone:
// no I/O, no clock. There is no budget to keep, as a migration's (migration/convergence.h): what is written
// after the last round's look is copied in the freeze, to memory, whatever it is.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace godwit::checkpoint {

class Settling {
 public:
  // A round has found so many bytes written.
  void Add(int64_t dirty_bytes);

  // Freeze now. `copying`: since the first round.
  bool Settled(absl::Duration copying) const;

  int rounds() const { return rounds_; }

 private:
  int rounds_ = 0;
  int64_t last_ = 0, before_ = 0;
};

}  // namespace godwit::checkpoint
