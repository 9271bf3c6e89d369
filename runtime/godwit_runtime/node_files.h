// SPDX-License-Identifier: Apache-2.0
// What runc hides from a container by mounting /dev/null over it (linux.maskedPaths) is, in a container that
// it creates, the container's own /dev/null, and in one that it restores the node's: root of the container
// could take it from the node's other users.
#pragma once

#include <sys/types.h>

#include "absl/status/status.h"

namespace godwit::godwit_runtime {

// Makes the mounts of the node's /dev/null that a restored process sees read-only: what is read and written
// through it stays as it was, its owner and rights are nobody's to change. The process stands still; this one
// must have one thread.
absl::Status KeepNodesNull(pid_t restored);

}  // namespace godwit::godwit_runtime
