// SPDX-License-Identifier: Apache-2.0
// Series that must be there at zero before anything happened: a rate() sees the first event only of a series
// that was there before it, and an alert on a series that does not exist never fires.
#include "metrics/metrics.h"

namespace godwit::metrics {

ControllerMetrics::ControllerMetrics(Registry& owner) : registry(owner) {
  build_info.With(GODWIT_VERSION).Set(1);
  leader.With().Set(0);
  for (const char* kind : {"Migration", "Checkpoint", "Restore"}) {
    const absl::string_view good_end = absl::string_view(kind) == "Checkpoint" ? "Ready" : "Succeeded";
    objects.With(kind, "Pending").Set(0);
    objects.With(kind, good_end).Set(0);
    objects.With(kind, "Failed").Set(0);
    for (const char* outcome : {"Succeeded", "Failed", "Cancelled"}) {
      finished.With(kind, outcome);
      duration.With(kind, outcome);
    }
    reconcile_duration.With(kind);
    reconcile_errors.With(kind);
    queue_depth.With(kind).Set(0);
    queue_wait.With(kind);
  }
  for (const char* outcome : {"signed", "refused", "failed"}) certificates_signed.With(outcome);
  for (const char* invariant : {"I1", "I3"}) invariant_violations.With(invariant);
}

AgentMetrics::AgentMetrics(Registry& owner) : registry(owner) {
  build_info.With(GODWIT_VERSION).Set(1);
  runtime_ready.With().Set(0);
  for (const char* operation : {"migration-source", "migration-target", "checkpoint", "restore"}) {
    operations.With(operation).Set(0);
    for (const char* outcome : {"succeeded", "failed", "cancelled"}) finished.With(operation, outcome);
  }
  for (const char* operation : {"migration", "checkpoint"}) {
    for (const char* outcome : {"committed", "aborted"}) freezes.With(operation, outcome);
  }
  frozen_pods.With().Set(0);
  create_wait.With();
  for (const char* content : {"memory", "images", "files"}) {
    sent.With(content);
    received.With(content);
  }
  sent_pages.With();
  for (const char* direction : {"sent", "received"}) stream_bytes.With(direction);
  transfer_rate.With();
  for (const char* reason : {"Checksum", "Protocol", "Connection", "Peer", "Storage"})
    stream_errors.With(reason);
  for (const char* outcome : {"converged", "gave_up", "fell_back", "aborted"}) pre_copies.With(outcome);
  for (const char* outcome : {"arrived", "lost"}) post_copies.With(outcome);
  pulled_bytes.With();
  pulled_faults.With();
  lost_memory.With();
  pre_copy_rounds.With();
  pre_copy_dirty.With();
  for (const char* why : {"zero", "unchanged"}) pre_copy_saved.With(why);
  for (auto* gauge : {&pre_copy_dirty_rate, &pre_copy_predicted_freeze, &pager_backlog, &pager_fault_p99,
                      &missing_bytes, &pull_fault_p99, &images_bytes, &archives, &archives_bytes,
                      &storage_available, &memory_available, &certificate_expiry}) {
    gauge->With().Set(0);
  }
  for (const char* outcome : {"succeeded", "failed"}) certificate_renewals.With(outcome);
  for (const char* invariant : {"I2", "I5", "I6", "I7"}) invariant_violations.With(invariant);
}

}  // namespace godwit::metrics
