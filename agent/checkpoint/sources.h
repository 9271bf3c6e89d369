// SPDX-License-Identifier: Apache-2.0
// The containers of a checkpoint: where they and their files are, and what their archives say of them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/messages.h"
#include "agent/checkpoint/archive.h"
#include "agent/checkpoint/file_copy.h"
#include "agent/runtime/containers.h"

namespace godwit::checkpoint {

struct Source {
  runtime::Container container;
  std::string layer;   // the writable layer, host path
  std::string folder;  // of its own: images/, files/, and work/ for CRIU
  Parts parts;         // where they will lie
  Description description;
};

// Finds the containers of `spec` and makes for each a folder in `work`. FailedPrecondition: they are not the
// pod's, or do not run.
absl::StatusOr<std::vector<Source>> FindSources(const agent_api::CheckpointSpec& spec,
                                                const runtime::HostView& host, const std::string& work);

// One of the pod's trees of files, and the part of an archive that it becomes.
struct SourceTree {
  size_t source = 0;   // in whose archive
  std::string entry;   // name there
  std::string volume;  // the emptyDir's; empty for a writable layer
  FileCopy::Tree tree;
};
// The writable layers, and the emptyDirs that the containers mount: these come with the first.
std::vector<SourceTree> FindTrees(const agent_api::CheckpointSpec& spec, const std::vector<Source>& sources);

}  // namespace godwit::checkpoint
