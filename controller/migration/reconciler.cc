// SPDX-License-Identifier: Apache-2.0
#include "controller/migration/reconciler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "controller/migration/execute.h"
#include "controller/migration/invariants.h"
#include "controller/migration/observe.h"
#include "k8s/error.h"

namespace godwit::controller {
namespace {

// A write to the API server is seen by our copies a moment later; looking at once would only repeat it.
constexpr absl::Duration kAfterWrite = absl::Milliseconds(30);

}  // namespace

absl::StatusOr<absl::Duration> MigrationReconciler::Reconcile(const k8s::ObjectName& name) {
  auto migration = k8s::Client<crds::Migration>(cluster_->api()).Get(name.name_space, name.name);
  if (!migration.ok() && k8s::IsNotFound(migration.status())) return absl::InfiniteDuration();
  if (!migration.ok()) return migration.status();
  GODWIT_ASSIGN_OR_RETURN(const MigrationObserved seen,
                          Observe(*cluster_, settings_, *migration, clock_->Now()));
  for (const BrokenInvariant& broken : BrokenInvariants(seen)) {
    if (!telemetry_->Broken(seen.migration.metadata.uid, broken.invariant)) continue;
    LOG(ERROR) << Log("a promise of the hand-over is broken")
                      .With("migration", seen.migration.metadata.uid)
                      .With("invariant", broken.invariant)
                      .With("what", broken.message);
  }
  const MigrationDecision decision = Decide(seen, settings_, clock_->Now());
  if (decision.status != seen.migration.status) {
    GODWIT_RETURN_IF_ERROR(WriteStatus(seen, decision));
    return decision.step == MigrationStep::kNothing ? decision.again : absl::ZeroDuration();
  }
  if (decision.step == MigrationStep::kNothing) return decision.again;
  LOG(INFO) << Log("step")
                   .With("migration", seen.migration.metadata.uid)
                   .With("object", name.ToString())
                   .With("step", StepName(decision.step))
                   .With("phase", json::Name(seen.migration.status.phase));
  const absl::Status done = Execute(*cluster_, settings_, seen, decision);
  if (done.ok()) return std::max(decision.again, kAfterWrite);
  const MigrationDecision refused = OnRefused(seen, settings_, decision.step, done, clock_->Now());
  if (refused.status != seen.migration.status) GODWIT_RETURN_IF_ERROR(WriteStatus(seen, refused));
  if (refused.again != absl::InfiniteDuration()) return refused.again;
  return Annotate(done, StepName(decision.step));
}

absl::Status MigrationReconciler::WriteStatus(const MigrationObserved& seen,
                                              const MigrationDecision& decision) {
  crds::Migration after = seen.migration;
  after.status = decision.status;
  const absl::Status written =
      k8s::Client<crds::Migration>(cluster_->api()).PatchStatus(seen.migration, after).status();
  if (k8s::IsNotFound(written)) return absl::OkStatus();  // it is gone for good
  GODWIT_RETURN_IF_ERROR(written);
  if (after.status.phase != seen.migration.status.phase) {
    LOG(INFO) << Log("phase")
                     .With("migration", after.metadata.uid)
                     .With("object", after.metadata.object_name().ToString())
                     .With("phase", json::Name(after.status.phase));
  }
  Tell(seen, decision);
  telemetry_->Changed(after.metadata,
                      {.kind = after.spec.dry_run ? "DryRun" : crds::Migration::kResource.kind,
                       .from = json::Name(seen.migration.status.phase),
                       .to = json::Name(after.status.phase),
                       .ended = crds::Ended(after.status.phase),
                       .succeeded = after.status.phase == crds::MigrationPhase::kSucceeded,
                       .reason = CompleteReason(after.status.conditions)},
                      clock_->Now());
  return absl::OkStatus();
}

void MigrationReconciler::Tell(const MigrationObserved& seen, const MigrationDecision& decision) const {
  for (const auto& tell : decision.tells) {
    const absl::string_view type = tell.warning ? k8s::kEventWarning : k8s::kEventNormal;
    events_->Record(seen.migration, type, tell.reason, tell.message);
    if (seen.migration.spec.dry_run) continue;  // no matter of the pod's
    const std::string of = absl::StrCat("Migration ", seen.migration.metadata.name, ": ", tell.message);
    if (seen.source) events_->Record(seen.source->view, type, tell.reason, of);
    if (seen.target) events_->Record(*seen.target, type, tell.reason, of);
  }
}

}  // namespace godwit::controller
