// SPDX-License-Identifier: Apache-2.0
// What a migration would come to, from a sample of some seconds: no I/O, no clock. The rounds are gone
// through as a source would (convergence.h decides), with what the pod would have written meanwhile taken
// from the sample.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "agent/migration/convergence.h"

namespace godwit::migration {

// A pod's memory and the link, as they were measured. All bytes are of pages unless they say otherwise.
struct Sample {
  // So much was written within so long. A pod that writes to the same pages over and over has written hardly
  // more in a second than in a tenth of one, so that no single rate would do.
  struct Written {
    absl::Duration within;
    int64_t bytes = 0;         // of tasks and of shared memory
    int64_t shared_bytes = 0;  // of these, in shared memory
  };
  std::vector<Written> written;  // the longer `within`, the later

  int64_t memory_bytes = 0;   // mapped and carried by the page engine
  int64_t content_bytes = 0;  // of these, what has content
  int64_t shared_bytes = 0;   // of these, in shared memory
  int64_t criu_bytes = 0;     // that the engine does not carry: CRIU copies it in the freeze
  absl::Duration look;        // one look at all of it
  absl::Duration comparing;   // the shared memory once with what was sent

  double page_rate = 0;   // bytes of pages a second, those of zeros included; 0: as throughput
  double throughput = 0;  // bytes of content a second
  double wire_share = 1;  // bytes on the network for each byte of a page
};

struct Forecast {
  bool converges = false;
  int64_t rounds = 0;
  absl::Duration copying;
  absl::Duration freeze;
  absl::Duration pulling;
  int64_t transfer_bytes = 0;
};

// For a source of this mode. `memory_bytes` is what a stop-and-copy sends, where nothing is pre-copied.
Forecast ForecastCopy(const Sample& sample, const FixedPart& fixed, agent_api::CopyMode mode,
                      const agent_api::PreCopyLimits& limits, int64_t file_bytes);
Forecast ForecastStopAndCopy(const Sample& sample, const FixedPart& fixed, int64_t memory_bytes,
                             int64_t file_bytes, bool files_before);

}  // namespace godwit::migration
