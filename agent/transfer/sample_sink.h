// SPDX-License-Identifier: Apache-2.0
// The target's end of a rehearsal: takes pages as a migration's target does, and drops them. Nothing is
// written; no permit is needed, and none is looked at.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/stream.h"

namespace godwit::transfer {

// A rehearsal sends no more pages than this, bytes, and is over by then.
inline constexpr int64_t kMaxSampleBytes = int64_t{64} << 20;
inline constexpr absl::Duration kMaxRehearsal = absl::Seconds(60);

// Answers a HELLO of role kRehearsal and every ROUND_END with a ROUND_OK, until the peer hangs up, which is
// OK. InvalidArgument, DataLoss: what it sent are no pages. ResourceExhausted: too many.
absl::Status TakeSample(Stream& stream, const Hello& hello);

}  // namespace godwit::transfer
