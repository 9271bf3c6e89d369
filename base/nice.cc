// SPDX-License-Identifier: Apache-2.0
#include "base/nice.h"

#include <sys/resource.h>

namespace godwit {
namespace {

// The kernel gives each value's thread 1.25 times what the next higher one gets (sched_prio_to_weight).
constexpr int kWeaker = 10;

// Of the calling thread alone: Linux keeps a nice value for each.
bool SetNice(int value) { return setpriority(PRIO_PROCESS, 0, value) == 0; }

}  // namespace

ScopedNice::ScopedNice() : before_(getpriority(PRIO_PROCESS, 0)) {
  // Who may not claim more, and so could not come back, stays.
  lowered_ = SetNice(before_ - 1) && SetNice(before_ + kWeaker);
}

ScopedNice::~ScopedNice() {
  if (lowered_) SetNice(before_);
}

}  // namespace godwit
