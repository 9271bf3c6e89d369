// SPDX-License-Identifier: Apache-2.0
// What abseil makes of the order in which mutexes are locked.
#pragma once

#include "absl/synchronization/mutex.h"

namespace godwit {

// Once, at the beginning of main. Where abseil was compiled without NDEBUG, as Debian's is, it ends the
// process when locks were taken in two orders. It knows them by address, and code compiled with NDEBUG does
// not tell it that one was destroyed: what takes its place would inherit its history, and a healthy process
// end. So only builds without NDEBUG, the tests' among them, look for that.
inline void InitLockOrder() {
#ifdef NDEBUG
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
}

}  // namespace godwit
