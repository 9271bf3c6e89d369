// SPDX-License-Identifier: Apache-2.0
// Work that gives way to everybody else's.
#pragma once

namespace godwit {

// While it lives the calling thread, and what threads it starts, have a weaker claim to the processors:
// others that want them too are served sooner and get nine times as much, and where nobody does nothing
// changes. Without the right to take that back (CAP_SYS_NICE) it does nothing. Made and destroyed by one
// thread.
class ScopedNice {
 public:
  ScopedNice();
  ~ScopedNice();
  ScopedNice(const ScopedNice&) = delete;
  ScopedNice& operator=(const ScopedNice&) = delete;

 private:
  int before_ = 0;  // nice value, see sched(7)
  bool lowered_ = false;
};

}  // namespace godwit
