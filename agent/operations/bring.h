// SPDX-License-Identifier: Apache-2.0
// A restore's state from the archives of its checkpoint: fetched when they are elsewhere, verified, unpacked.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "agent/migration/target.h"
#include "agent/operations/operations.h"

namespace godwit::operations {

// The state of every container of the restore, under `folder` (exists). Where an archive lies on this node is
// `find`'s to say, not the spec's. DataLoss: an archive is not what was recorded; NotFound: it is not here;
// ResourceExhausted: no room.
absl::StatusOr<std::map<std::string, migration::ContainerState>> Bring(
    const agent_api::RestoreSpec& spec, const std::string& node, const Fetch& fetch, const FindArchive& find,
    const std::string& folder, absl::Time deadline);

}  // namespace godwit::operations
