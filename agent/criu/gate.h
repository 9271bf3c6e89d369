// SPDX-License-Identifier: Apache-2.0
// The other end of a gate (kGateVariable): a FIFO at which CRIU, started ahead of time, waits for a byte. Who
// has reached a gate holds CRIU's request in the hand: opening it lets the request go on, closing the
// descriptor refuses it, and so does the end of this process. SIGPIPE must be ignored.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/file.h"

namespace godwit::criu {

// Makes the FIFO, in place of what is there.
absl::Status MakeGate(const std::string& path);

// Returns when CRIU waits at the gate. DeadlineExceeded; with a limit of zero it looks once.
absl::StatusOr<UniqueFd> ReachGate(const std::string& path, absl::Duration limit);

// Lets CRIU go on. Unavailable: it waits no more.
absl::Status OpenGate(const UniqueFd& gate);

// The two in one, for a gate at which CRIU waits, or will in a moment.
absl::Status OpenGate(const std::string& path, absl::Duration limit);

}  // namespace godwit::criu
