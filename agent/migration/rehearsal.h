// SPDX-License-Identifier: Apache-2.0
// A migration's copying, rehearsed: the pod's memory is tracked for a second or two and let go, and a sample
// of it goes to the target's agent, over a connection like a migration's, and is dropped there. Touches
// nothing else: no journal, no file, no permit, no freeze; trackers and connection end with their holder,
// whatever becomes of it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "agent/migration/forecast.h"
#include "agent/migration/pod_on_node.h"
#include "agent/migration/pre_copy.h"
#include "agent/transfer/stream.h"

namespace godwit::migration {

// What a rehearsal needs of its node; as SourceNode. Seams for tests.
struct RehearsalNode {
  std::string node;
  std::function<absl::StatusOr<PodOnNode>(const agent_api::RehearsalRequest&)> find_pod;
  MemoryNode memory;
  std::function<bool(const std::vector<std::string>& container_ids)> filling;
  std::function<absl::StatusOr<std::unique_ptr<transfer::Stream>>(
      const std::string& address, const std::string& node, absl::Time deadline)>
      connect;
  std::function<std::string(const std::string& cgroup)> cgroup_here;
};

// How long it takes, and how much it sends. With these some three seconds, of which the pod's memory is
// watched for two.
struct RehearsalPace {
  // Between looks. The short ones tell what is written between the last look and a freeze.
  std::vector<absl::Duration> pauses = {absl::Milliseconds(20), absl::Milliseconds(20),
                                        absl::Milliseconds(60), absl::Milliseconds(200),
                                        absl::Milliseconds(1000)};
  int64_t sample_bytes = int64_t{32} << 20;   // of the pod's memory
  int64_t filler_bytes = int64_t{8} << 20;    // of noise, where the pod's memory tells too little of the link
  absl::Duration sending = absl::Seconds(2);  // no more is begun after
};

// FailedPrecondition: the pod is not here as it was named, or its memory is still being filled after its last
// move. What is wrong with the link is a finding.
absl::StatusOr<agent_api::RehearsalReport> Rehearse(const agent_api::RehearsalRequest& request,
                                                    const RehearsalNode& node,
                                                    const RehearsalPace& pace = {});

// Of `pages` what is at the beginning of every `every` bytes: about kSamplePiece of each. `every` is a
// multiple of the page size.
inline constexpr uint64_t kSamplePiece = uint64_t{64} << 10;
memory::Ranges Evenly(const memory::Ranges& pages, uint64_t every);

}  // namespace godwit::migration
