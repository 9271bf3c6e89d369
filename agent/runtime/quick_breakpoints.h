// SPDX-License-Identifier: Apache-2.0
// Breakpoints that are set at once. CRIU stops a task at the end of its code in it by a hardware breakpoint,
// which is a performance event to the kernel; the first event of a task on the whole machine lets it wait for
// an RCU grace period, 7 ms (kernel/events/core.c, account_event). While another task has one, none waits: so
// this process has one that counts nothing.
#pragma once

#include "base/file.h"

namespace godwit::runtime {

class QuickBreakpoints {
 public:
  // Of the thread that makes it. Where the kernel refuses, breakpoints wait as ever: held() is false.
  QuickBreakpoints();
  bool held() const { return event_.ok(); }

 private:
  UniqueFd event_;
};

}  // namespace godwit::runtime
