// SPDX-License-Identifier: Apache-2.0
// Holding a restored container at the last moment before its tasks run code of their own.
#pragma once

#include "runtime/preload/settings.h"

namespace godwit::preload {

// Moves this process out of the container's cgroup, where runc has put it: a process cannot freeze the cgroup
// it is in and go on. False: it is still there, and why is in the messages file.
bool LeaveContainer(const Settings& settings);

// Freezes the container's cgroup, which this process has left, and returns when it is frozen. Where that
// fails the container is killed and CRIU ends, and why is in the messages file. False: it could not be
// killed.
bool HoldContainer(const Settings& settings);

// Tells who waits for the end of the dump, if somebody does.
void TellDone(const Settings& settings);

// Waits at the gate, if there is one. False: it was closed without a word, nobody came in ten minutes, or
// runc has ended.
bool PassGate(const Settings& settings);

}  // namespace godwit::preload
