// SPDX-License-Identifier: Apache-2.0
// Reads what a decision about a Migration needs, and no more: which that is follows from its phase.
#pragma once

#include "absl/status/statusor.h"
#include "controller/migration/observed.h"
#include "controller/runtime/cluster.h"
#include "crds/migration.h"

namespace godwit::controller {

// `migration` was just read from the API server. An error when that does not answer; agents that do not are
// part of what is observed.
absl::StatusOr<MigrationObserved> Observe(Cluster& cluster, const MigrationSettings& settings,
                                          const crds::Migration& migration, absl::Time now);

}  // namespace godwit::controller
