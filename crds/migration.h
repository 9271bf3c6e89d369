// SPDX-License-Identifier: Apache-2.0
// Migration: moves a running pod to another node.
#pragma once

#include <optional>

#include "crds/common.h"

namespace godwit::crds {

enum class Strategy { kAuto, kPreCopy, kStopAndCopy, kPostCopy };
constexpr std::array<std::pair<Strategy, absl::string_view>, 4> JsonNames(Strategy) {
  return {{{Strategy::kAuto, "Auto"},
           {Strategy::kPreCopy, "PreCopy"},
           {Strategy::kStopAndCopy, "StopAndCopy"},
           {Strategy::kPostCopy, "PostCopy"}}};
}

enum class WhenNotConverging { kFreeze, kFail, kPostCopy };
constexpr std::array<std::pair<WhenNotConverging, absl::string_view>, 3> JsonNames(WhenNotConverging) {
  return {{{WhenNotConverging::kFreeze, "Freeze"},
           {WhenNotConverging::kFail, "Fail"},
           {WhenNotConverging::kPostCopy, "PostCopy"}}};
}

// A person's word where nobody can know which of the two copies runs.
enum class ResolveUncertain { kKeepSource, kAbandonSource };
constexpr std::array<std::pair<ResolveUncertain, absl::string_view>, 2> JsonNames(ResolveUncertain) {
  return {
      {{ResolveUncertain::kKeepSource, "KeepSource"}, {ResolveUncertain::kAbandonSource, "AbandonSource"}}};
}

struct MigrationSpec {
  NameReference pod_ref;
  Target target;
  Strategy strategy = Strategy::kAuto;
  absl::Duration timeout = absl::Minutes(10);
  // Of a pre-copy; the only fields beside timeout that may change while it runs.
  absl::Duration freeze_budget = absl::Milliseconds(100);
  absl::Duration pre_copy_timeout = absl::Minutes(5);
  WhenNotConverging when_not_converging = WhenNotConverging::kFreeze;
  std::string bandwidth_limit;  // a quantity: bytes per second; empty: none
  bool dry_run = false;         // look and predict only
  bool cancel = false;          // once true, for good
  std::optional<ResolveUncertain> resolve_uncertain;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("podRef", self.pod_ref);
    field.Required("target", self.target);
    field.Required("strategy", self.strategy);
    field("timeout", self.timeout);
    field("freezeBudget", self.freeze_budget);
    field("preCopyTimeout", self.pre_copy_timeout);
    field("whenNotConverging", self.when_not_converging);
    field("bandwidthLimit", self.bandwidth_limit);
    field("dryRun", self.dry_run);
    field("cancel", self.cancel);
    field("resolveUncertain", self.resolve_uncertain);
  }
  bool operator==(const MigrationSpec&) const = default;
};

// Copying is pre-copy before the target pod is started; StopAndCopy has none. Switching is the time from the
// order to freeze to the decision; after it there is no way back. A dry run goes from Preflight to Rehearsing
// and from there to its end.
enum class MigrationPhase {
  kPending,
  kPreflight,
  kRehearsing,
  kCopying,
  kPreparing,
  kSwitching,
  kFinishing,
  kSucceeded,
  kFailed
};
constexpr std::array<std::pair<MigrationPhase, absl::string_view>, 9> JsonNames(MigrationPhase) {
  return {{{MigrationPhase::kPending, "Pending"},
           {MigrationPhase::kPreflight, "Preflight"},
           {MigrationPhase::kRehearsing, "Rehearsing"},
           {MigrationPhase::kCopying, "Copying"},
           {MigrationPhase::kPreparing, "Preparing"},
           {MigrationPhase::kSwitching, "Switching"},
           {MigrationPhase::kFinishing, "Finishing"},
           {MigrationPhase::kSucceeded, "Succeeded"},
           {MigrationPhase::kFailed, "Failed"}}};
}

// Condition types of a Migration, beside those of common.h.
inline constexpr char kPreflightPassed[] = "PreflightPassed";
// Exists from Copying on. True: the predicted freeze came within the budget. False: it did not, or nothing is
// pre-copied, and the pod is frozen nevertheless.
inline constexpr char kConverged[] = "Converged";
inline constexpr char kTargetReady[] = "TargetReady";  // the target pod waits for the state
// The processes run on the target. Unknown, OutcomeUncertain: nobody who could say whether they do answers.
inline constexpr char kSwitched[] = "Switched";
inline constexpr char kOutcomeUncertain[] = "OutcomeUncertain";
// Of a Migration with spec.cancel. True: it has ended so. False, TooLate: the decision had fallen before.
inline constexpr char kCancelled[] = "Cancelled";  // also the reason of Complete
// True: what it waits for, which the reason names, has not changed for long.
inline constexpr char kStuck[] = "Stuck";
// Of a post-copy, from Finishing on. True: all of the memory is on the target. False, Pulling: some of it is
// still on the source alone. False, Lost: it never came, and what ran without it was killed.
inline constexpr char kMemoryArrived[] = "MemoryArrived";
inline constexpr char kPulling[] = "Pulling";
inline constexpr char kLost[] = "Lost";
inline constexpr char kHandedOver[] = "HandedOver";        // labels and owner are the target's
inline constexpr char kSourceRemoved[] = "SourceRemoved";  // the source pod is gone

struct PreflightSummary {
  int64_t memory_bytes = 0;
  int64_t file_bytes = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("memoryBytes", self.memory_bytes);
    field("fileBytes", self.file_bytes);
  }
  bool operator==(const PreflightSummary&) const = default;
};

// What a dry run has found a migration would come to.
enum class Verdict { kWouldSucceed, kWouldExceedBudget, kWouldFail };
constexpr std::array<std::pair<Verdict, absl::string_view>, 3> JsonNames(Verdict) {
  return {{{Verdict::kWouldSucceed, "WouldSucceed"},
           {Verdict::kWouldExceedBudget, "WouldExceedBudget"},
           {Verdict::kWouldFail, "WouldFail"}}};
}
struct DryRun {
  std::optional<Verdict> verdict;
  bool converges = false;
  absl::Duration predicted_freeze;
  absl::Duration least_freeze;  // within it: what no round makes shorter
  absl::Duration predicted_duration;
  int64_t transfer_bytes = 0;
  int64_t rounds = 0;
  int64_t sampled_bytes = 0;
  absl::Duration sampled_time;
  absl::Duration round_trip;
  int64_t processes = 0;
  int64_t threads = 0;
  int64_t descriptors = 0;
  int64_t mappings = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("verdict", self.verdict);
    field("converges", self.converges);
    field("predictedFreeze", self.predicted_freeze);
    field("leastFreeze", self.least_freeze);
    field("predictedDuration", self.predicted_duration);
    field("transferBytes", self.transfer_bytes);
    field("rounds", self.rounds);
    field("sampledBytes", self.sampled_bytes);
    field("sampledTime", self.sampled_time);
    field("roundTrip", self.round_trip);
    field("processes", self.processes);
    field("threads", self.threads);
    field("descriptors", self.descriptors);
    field("mappings", self.mappings);
  }
  bool operator==(const DryRun&) const = default;
};

// How far a pre-copy is, as its source said at `observed_time`. Sizes are bytes, rates bytes per second.
struct PreCopy {
  int64_t rounds = 0;
  int64_t memory_bytes = 0;     // that the pod's processes have and that is pre-copied
  int64_t dirty_bytes = 0;      // found written in the last round
  int64_t dirty_rate = 0;       // how fast the pod writes
  int64_t throughput = 0;       // how fast pages went over in the last rounds
  int64_t sent_bytes = 0;       // in all rounds
  int64_t zero_bytes = 0;       // known to be zeros: not sent
  int64_t unchanged_bytes = 0;  // written, but with what was there: not sent
  absl::Duration predicted_freeze;
  absl::Time observed_time;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("rounds", self.rounds);
    field("memoryBytes", self.memory_bytes);
    field("dirtyBytes", self.dirty_bytes);
    field("dirtyRate", self.dirty_rate);
    field("throughput", self.throughput);
    field("sentBytes", self.sent_bytes);
    field("zeroBytes", self.zero_bytes);
    field("unchangedBytes", self.unchanged_bytes);
    field("predictedFreeze", self.predicted_freeze);
    field("observedTime", self.observed_time);
  }
  bool operator==(const PreCopy&) const = default;
};

// How far the pulling of memory is after a post-copy, as its agents said at `observed_time`.
struct PostCopy {
  int64_t total_bytes = 0;    // were missing when the processes began to run on the target
  int64_t missing_bytes = 0;  // are still
  int64_t faults = 0;         // missing pages that they waited for
  absl::Duration fault_p50;   // for so long
  absl::Duration fault_p99;
  absl::Time observed_time;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("totalBytes", self.total_bytes);
    field("missingBytes", self.missing_bytes);
    field("faults", self.faults);
    field("faultP50", self.fault_p50);
    field("faultP99", self.fault_p99);
    field("observedTime", self.observed_time);
  }
  bool operator==(const PostCopy&) const = default;
};

struct Transfer {
  int64_t memory_bytes = 0;
  int64_t file_bytes = 0;
  int64_t wire_bytes = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("memoryBytes", self.memory_bytes);
    field("fileBytes", self.file_bytes);
    field("wireBytes", self.wire_bytes);
  }
  bool operator==(const Transfer&) const = default;
};

struct MigrationStatus {
  int64_t observed_generation = 0;
  MigrationPhase phase = MigrationPhase::kPending;
  std::vector<k8s::Condition> conditions;
  std::optional<Strategy> strategy;  // the one in use, never Auto; from the end of Preflight on
  std::string source_node;
  std::string target_node;
  std::string source_pod_uid;
  std::string target_pod_name;
  std::string target_pod_uid;
  absl::Time start_time;
  absl::Time waiting_since;  // Complete has had its reason since then
  absl::Time completion_time;
  absl::Duration total_duration;
  PreflightSummary preflight;
  DryRun dry_run;
  PreCopy pre_copy;
  PostCopy post_copy;
  Freeze freeze;
  Transfer transfer;
  std::vector<Finding> findings;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("observedGeneration", self.observed_generation);
    field.Required("phase", self.phase);
    field("conditions", self.conditions);
    field("strategy", self.strategy);
    field("sourceNode", self.source_node);
    field("targetNode", self.target_node);
    field("sourcePodUID", self.source_pod_uid);
    field("targetPodName", self.target_pod_name);
    field("targetPodUID", self.target_pod_uid);
    field("startTime", self.start_time);
    field("waitingSince", self.waiting_since);
    field("completionTime", self.completion_time);
    field("totalDuration", self.total_duration);
    field("preflight", self.preflight);
    field("dryRun", self.dry_run);
    field("preCopy", self.pre_copy);
    field("postCopy", self.post_copy);
    field("freeze", self.freeze);
    field("transfer", self.transfer);
    field("findings", self.findings);
  }
  bool operator==(const MigrationStatus&) const = default;
};

struct Migration {
  static constexpr k8s::Resource kResource{kGroup, kVersion, "migrations", "Migration", true};
  static constexpr char kFinalizer[] = "godwit.io/migration";
  k8s::ObjectMeta metadata;
  MigrationSpec spec;
  MigrationStatus status;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field.Required("spec", self.spec);
    field("status", self.status);
  }
  bool operator==(const Migration&) const = default;
};

inline bool Ended(MigrationPhase phase) {
  return phase == MigrationPhase::kSucceeded || phase == MigrationPhase::kFailed;
}

}  // namespace godwit::crds
