// SPDX-License-Identifier: Apache-2.0
// The calls on a userfaultfd that put pages into a task's memory (Linux: ioctl_userfaultfd(2)).
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace godwit::pager {

enum class Outcome {
  kInstalled,
  kPresent,   // the next page is there already
  kUnmapped,  // no mapping of this userfaultfd holds all of what was left
  kChanging,  // the task changes its mappings: its messages must be read first
  kGone,      // the task's memory is no more
  kNoMemory,
};

// How far it came: `bytes` were installed, and whoever waited for them goes on. Then `outcome`; kInstalled
// may come with fewer bytes than asked for, the reason is told by the next call.
struct Installation {
  Outcome outcome = Outcome::kInstalled;
  uint64_t bytes = 0;
};

absl::StatusOr<Installation> CopyPages(int uffd, uint64_t address, const char* source, uint64_t bytes);
absl::StatusOr<Installation> ZeroPages(int uffd, uint64_t address, uint64_t bytes);

// Threads that wait for these pages look again.
void WakePages(int uffd, uint64_t address, uint64_t bytes);

}  // namespace godwit::pager
