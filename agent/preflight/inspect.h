// SPDX-License-Identifier: Apache-2.0
// What stands in the way of a dump, found before anything is touched: by reading /proc and the container
// runtime's files, with a finding for each thing that CRIU cannot take along and what a person can do about
// it. Nothing is changed, and the pod does not notice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/api/messages.h"
#include "agent/runtime/containers.h"
#include "agent/runtime/weight.h"

namespace godwit::preflight {

// What the findings depend on beside the pod.
struct NodeFacts {
  agent_api::NodeInfo node;  // architecture, kernel, criu_version, storage_available
  uint64_t hwcap = 0;        // getauxval(AT_HWCAP)
  // Longest for what the processes are and hold; what is beyond is TooManyObjects.
  absl::Duration look_limit = absl::Seconds(5);
  // Longest from the beginning until all files are measured; what is beyond is told as "at least".
  absl::Duration limit = absl::Seconds(10);
};

// Looks at the pod that the request names. NotFound, FailedPrecondition: one of its containers is not here,
// does not run or is another pod's.
absl::StatusOr<agent_api::PreflightReport> Inspect(const runtime::HostView& host,
                                                   const agent_api::PreflightRequest& request,
                                                   const NodeFacts& facts);

// The parts of Inspect, each for one container.
// Its configuration: terminal, devices, mounts, namespaces shared with the host or the pod.
std::vector<agent_api::Finding> InspectConfiguration(const runtime::HostView& host,
                                                     const runtime::Container& container);
// What its processes are and hold open. Ends when the deadline is over, whatever is left.
struct Look {
  std::vector<pid_t> processes;
  agent_api::Weight weight;                      // runtime::Weigh of them
  runtime::Held held;                            // runtime::HeldBytes of them
  absl::Time deadline = absl::InfiniteFuture();  // SteadyNow
};
std::vector<agent_api::Finding> InspectProcesses(const runtime::HostView& host,
                                                 const runtime::Container& container, const Look& look);
// The node itself: CRIU's version with this kernel and CPU, its privileges, room for the images.
// `other_users`: the pod has processes that are not root's.
std::vector<agent_api::Finding> InspectNode(const NodeFacts& facts, int64_t memory_bytes, bool other_users);

// What is in a folder, not crossing into other mounts.
struct Measured {
  int64_t bytes = 0;       // about what its tar will have: content, and a header or more for each name
  int64_t names = 0;       // of what is packed; more than files::kMaxEntries are not
  int64_t path_bytes = 0;  // of them and of what they point to; more than files::kMaxPathBytes are not packed
  std::string device_file;  // the first device file, below the folder; empty: none
  std::string huge_file;    // the first file larger than any that is packed (files::kMostFileBytes)
  bool whole = true;        // false: the limit came first
};
// `overlay`: the folder is an overlay's upper one.
Measured MeasureFolder(const std::string& folder, absl::Duration limit, bool overlay);

}  // namespace godwit::preflight
