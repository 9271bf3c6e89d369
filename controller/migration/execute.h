// SPDX-License-Identifier: Apache-2.0
// Does one step of a Migration: one write, to the API server or to an agent.
#pragma once

#include "absl/status/status.h"
#include "controller/migration/decision.h"
#include "controller/runtime/cluster.h"

namespace godwit::controller {

// An object that is there already, or gone already, as the step wants it, is success.
absl::Status Execute(const Cluster& cluster, const MigrationSettings& settings, const MigrationObserved& seen,
                     const MigrationDecision& decision);

}  // namespace godwit::controller
