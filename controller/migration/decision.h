// SPDX-License-Identifier: Apache-2.0
// What is to be done next for a Migration: at most one write, then another look.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/migration/observed.h"
#include "controller/runtime/tell.h"
#include "crds/migration.h"

namespace godwit::controller {

// Each can be done again without harm: the controller may die right before or after it.
enum class MigrationStep {
  kNothing,
  kAddFinalizer,
  kRemoveFinalizer,
  kCreateTargetPod,  // deterministic name, behind a scheduling gate
  kPermit,           // PUT target
  kOpenGate,         // the scheduling gate goes: from now on kubelet may start the target
  kStartSource,      // PUT source: copies in rounds, or freezes, dumps, sends, decides at once
  kSetLimits,        // POST source/limits: those of spec have changed
  kSwitchSource,     // POST source/switch: the order to freeze for a source that copies
  kAbortSource,
  kAbortTarget,
  kMarkCommitted,      // the target's readiness gate
  kLowerDeletionCost,  // the ReplicaSet would choose the source
  kHandOver,           // labels and owner, one patch
  kRetireSourcePod,    // deleted, but not to be killed: its memory is still pulled
  kDeleteSourcePod,
  kRemoveTargetPod,  // the object alone, at once: its node is given up
  kRemoveSourcePod,
  kReclaimSource,  // what it has ceded goes on there, without the target's word
  kTakeOver,       // the prepared copy runs, without the source's
  kFinishSource,   // kill the frozen source
  kAbandonSource,  // the same, though pages of it are missing on the target: nobody needs them
  kDeleteTargetPod,
  kForgetSource,
  kForgetTarget,
};
absl::string_view StepName(MigrationStep step);

// The reason with which a source is reclaimed, because the target is given up, and with which it says so.
inline constexpr char kTargetLost[] = "TargetLost";
// The reason in Switched while nobody has said that the target runs, and a person has given the source up.
inline constexpr char kSourceAbandoned[] = "SourceAbandoned";
bool IsAbandoned(const std::vector<k8s::Condition>& conditions);
// The reason in HandedOver when the target went away after the decision.
inline constexpr char kTargetPodGone[] = "TargetPodGone";
// The reason in Complete while the source has ceded, and the target has not said yet that it runs.
inline constexpr char kCommitted[] = "Committed";

// When `status` differs from the Migration's, that is the write, and the step waits for the next look; else
// the step is.
struct MigrationDecision {
  crds::MigrationStatus status;
  std::vector<Tell> tells;  // once the status is written
  MigrationStep step = MigrationStep::kNothing;
  agent_api::AbortRequest why;                      // of kAbortSource and kAbortTarget
  bool unconfirmed = false;                         // of kFinishSource and kAbandonSource
  absl::Duration again = absl::InfiniteDuration();  // look again then, even if nothing is heard
};

// Pure: what was seen and the time decide.
MigrationDecision Decide(const MigrationObserved& seen, const MigrationSettings& settings, absl::Time now);

// What to do when a step's write was refused with `error`: a decision with a status to write where trying
// again cannot help, or where it must be told that it is being tried again; else the status as it is and
// kNothing.
MigrationDecision OnRefused(const MigrationObserved& seen, const MigrationSettings& settings,
                            MigrationStep step, const absl::Status& error, absl::Time now);

}  // namespace godwit::controller
