// SPDX-License-Identifier: Apache-2.0
// The containers of a checkpoint: where they and their files are, and what their archives say of them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/messages.h"
#include "agent/checkpoint/archive.h"
#include "agent/runtime/containers.h"

namespace godwit::checkpoint {

struct Source {
  runtime::Container container;
  std::string layer;   // the writable layer as seen from here
  std::string folder;  // of its own: images/, volumes/, and work/ for CRIU
  Parts parts;         // where they will lie
  Description description;
};

// Finds the containers of `spec` and makes for each a folder in `work`. FailedPrecondition: they are not the
// pod's, or do not run.
absl::StatusOr<std::vector<Source>> FindSources(const agent_api::CheckpointSpec& spec,
                                                const runtime::HostView& host, const std::string& work);

// Packs writable layers and emptyDirs to where the sources' parts say, while nothing writes to them.
absl::Status PackFiles(const agent_api::CheckpointSpec& spec, const runtime::HostView& host,
                       std::vector<Source>& sources);

}  // namespace godwit::checkpoint
