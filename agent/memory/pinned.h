// SPDX-License-Identifier: Apache-2.0
// Ways in which a process lets its memory be written past its page tables, as far as /proc tells.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "agent/memory/tracker.h"

namespace godwit::memory {

// Nothing when the process is gone.
std::vector<Pinned> FindPinnedOf(const std::string& proc, pid_t pid);

}  // namespace godwit::memory
