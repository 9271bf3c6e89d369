// SPDX-License-Identifier: Apache-2.0
// Every metric of Godwit: name, help, labels and buckets, here and nowhere else. docs/metrics.md is printed
// from these tables; the dashboard and the alert rules may use only what stands here (both are tested).
//
// A name says its unit (Prometheus' base units: seconds, bytes) and ends in _total when it is a counter.
// Label values come from small closed sets of our own: kinds, phases, CamelCase reasons, routes; a node's
// name where a series for each node is the point. Never a pod, a namespace, an object's name or UID: those
// belong into events and logs.
//
//   metrics::Registry registry;
//   metrics::AgentMetrics metrics(registry);
//   metrics.freezes.Observe(frozen_for, "migration", "committed");
//   metrics.finished.With("checkpoint", "succeeded").Increment();
//   server.Get("/metrics", [&](auto&, auto& answer) { answer.set_content(registry.Exposition(),
//   metrics::kContentType); });
#pragma once

#include "metrics/registry.h"

namespace godwit::metrics {

// Upper bounds in seconds. Freezes are told apart where people can feel the difference, and below a tenth of
// a second, where pre-copy's are, more finely; their steps down to what a system call takes. Requests are
// Kubernetes' own; whole operations end with the controller's default timeout.
inline const std::vector<double> kFreezeSeconds = {0.01, 0.025, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.35,
                                                   0.5,  0.75,  1,    2,    4,    8,    15,  30,   60};
inline const std::vector<double> kStepSeconds = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05,
                                                 0.1,    0.25,  0.5,    1,     2.5,  5,     10,    30};
inline const std::vector<double> kRequestSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                    0.25,  0.5,    1,     2.5,  5,     10,   30};
inline const std::vector<double> kOperationSeconds = {0.5, 1,  2,  3,  5,   7.5, 10,
                                                      15,  20, 30, 60, 120, 300, 600};
// From slow disks and links to what 100 Gbit/s carries.
inline const std::vector<double> kBytesPerSecond = {
    1 << 20, 4 << 20, 16 << 20, 64 << 20, 128 << 20, 256 << 20, 1e9, 2e9, 4e9, 8e9, 16e9};

// Of controller and agents alike: what each can see of the hand-over's promises (docs/security.md).
inline constexpr char kInvariantViolations[] = "godwit_invariant_violations_total";

// The controller's, on port 9554.
struct ControllerMetrics {
  explicit ControllerMetrics(Registry& owner);
  Registry& registry;

  Gauge<1> build_info{registry,
                      "godwit_controller_build_info",
                      "Always 1; the label tells the version that runs.",
                      {"version"}};
  Gauge<0> leader{registry, "godwit_controller_leader",
                  "1 when this replica holds the Lease and reconciles, else 0."};

  // Objects. kind: Migration, Checkpoint, Restore, and, but for the first, DryRun: a Migration that moves
  // nothing.
  Gauge<2> objects{registry,
                   "godwit_controller_objects",
                   "Custom resources in the cluster now, by kind and status.phase.",
                   {"kind", "phase"}};
  // outcome: Succeeded, Failed, Cancelled by spec.cancel or deletion, which is no failure (a Checkpoint that
  // becomes Ready has Succeeded).
  Counter<2> finished{
      registry,
      "godwit_controller_finished_total",
      "Migrations, dry runs of them, Checkpoints and Restores that came to their end, by outcome.",
      {"kind", "outcome"}};
  Counter<2> failures{
      registry,
      "godwit_controller_failures_total",
      "Migrations, dry runs of them, Checkpoints and Restores that failed, by the reason in their condition.",
      {"kind", "reason"}};
  Histogram<2> duration{registry,
                        "godwit_controller_duration_seconds",
                        "From the creation of a Migration, Checkpoint or Restore to its end.",
                        {"kind", "outcome"},
                        kOperationSeconds};
  Histogram<2> phase_duration{registry,
                              "godwit_controller_phase_duration_seconds",
                              "How long objects stayed in a phase before they left it.",
                              {"kind", "phase"},
                              kOperationSeconds};

  // invariant: I1 (source and target of a migration both run), I3 (the source was killed and its target does
  // not run).
  Counter<1> invariant_violations{
      registry,
      kInvariantViolations,
      "Migrations in which a promise of the hand-over was broken, as the controller sees it; must stay 0.",
      {"invariant"}};

  // The reconcile loop.
  Histogram<1> reconcile_duration{registry,
                                  "godwit_controller_reconcile_duration_seconds",
                                  "One pass of the reconcile loop over one object.",
                                  {"kind"},
                                  kRequestSeconds};
  Counter<1> reconcile_errors{registry,
                              "godwit_controller_reconcile_errors_total",
                              "Passes of the reconcile loop that ended with an error and are tried again.",
                              {"kind"}};
  Gauge<1> queue_depth{
      registry, "godwit_controller_queue_depth", "Objects that wait for the reconcile loop.", {"kind"}};
  Histogram<1> queue_wait{registry,
                          "godwit_controller_queue_wait_seconds",
                          "How long objects waited in the queue before the reconcile loop took them.",
                          {"kind"},
                          kRequestSeconds};

  // Requests to the Kubernetes API server. code: the HTTP status, or "error" when there was no answer.
  Counter<3> kubernetes_requests{registry,
                                 "godwit_controller_kubernetes_requests_total",
                                 "Requests to the Kubernetes API server, by verb, resource and HTTP status.",
                                 {"verb", "resource", "code"}};
  Histogram<2> kubernetes_request_duration{
      registry,
      "godwit_controller_kubernetes_request_duration_seconds",
      "Requests to the Kubernetes API server until the answer was read; watches are left out.",
      {"verb", "resource"},
      kRequestSeconds};

  // Requests to agents. route: node, preflight, rehearsal, target, source, limits, switch, finish, abort,
  // checkpoint, manifest, restore.
  Counter<3> agent_requests{registry,
                            "godwit_controller_agent_requests_total",
                            "Requests to agents, by method, route and HTTP status (error: no answer).",
                            {"method", "route", "code"}};
  Histogram<1> agent_request_duration{registry,
                                      "godwit_controller_agent_request_duration_seconds",
                                      "Requests to agents until the answer was read.",
                                      {"route"},
                                      kRequestSeconds};
  Gauge<1> agent_up{registry,
                    "godwit_controller_agent_up",
                    "1 when the node's agent answered the controller's last look, else 0.",
                    {"node"}};
  Gauge<1> agent_runtime_ready{
      registry,
      "godwit_controller_agent_runtime_ready",
      "1 when the node's container runtime knows the handler godwit, so that pods can move there.",
      {"node"}};

  // Certificates. certificate: ca, server.
  Gauge<1> certificate_expiry{registry,
                              "godwit_controller_certificate_expiry_timestamp_seconds",
                              "When the controller's certificates end, in seconds since 1970.",
                              {"certificate"}};
  Counter<1> certificates_signed{registry,
                                 "godwit_controller_certificate_requests_total",
                                 "Agents' requests for a certificate, by outcome (signed, refused, failed).",
                                 {"outcome"}};
};

// An agent's, on port 9553.
struct AgentMetrics {
  explicit AgentMetrics(Registry& owner);
  Registry& registry;

  Gauge<1> build_info{
      registry, "godwit_agent_build_info", "Always 1; the label tells the version that runs.", {"version"}};
  Gauge<4> node_info{registry,
                     "godwit_agent_node_info",
                     "Always 1; the labels tell what the node migrates with.",
                     {"architecture", "kernel", "criu", "runc"}};
  Gauge<0> runtime_ready{registry, "godwit_agent_runtime_ready",
                         "1 when the node's container runtime knows the handler godwit, else 0."};

  // Work. operation: migration-source, migration-target, checkpoint, restore.
  Gauge<1> operations{registry,
                      "godwit_agent_operations",
                      "Migrations, checkpoints and restores this node works on now.",
                      {"operation"}};
  Counter<2> finished{
      registry,
      "godwit_agent_operations_finished_total",
      "Operations that came to their end on this node, by outcome (succeeded, failed, cancelled).",
      {"operation", "outcome"}};
  Counter<2> failures{registry,
                      "godwit_agent_operation_failures_total",
                      "Operations that failed on this node, by reason.",
                      {"operation", "reason"}};
  Counter<2> preflight_findings{
      registry,
      "godwit_agent_preflight_findings_total",
      "What preflight found in pods, by finding and severity (Info, Warning, Blocking).",
      {"finding", "severity"}};

  // Freezes. operation: migration, checkpoint. outcome: committed (the target, or after a checkpoint the pod
  // itself, goes on as meant) or aborted (thawed where it was).
  Histogram<2> freezes{registry,
                       "godwit_agent_freeze_duration_seconds",
                       "How long a pod's processes stood still.",
                       {"operation", "outcome"},
                       kFreezeSeconds};
  Histogram<1> freeze_steps{registry,
                            "godwit_agent_freeze_step_duration_seconds",
                            "The steps of which freezes are made up.",
                            {"step"},
                            kStepSeconds};
  Gauge<0> frozen_pods{registry, "godwit_agent_frozen_pods",
                       "Pods of this node that stand still now for Godwit."};
  Histogram<0> create_wait{registry,
                           "godwit_agent_create_wait_seconds",
                           "How long the creation of a container waited for the state it goes on from.",
                           {},
                           kOperationSeconds};

  // What moved. content: memory (page images), images (CRIU's other files), files (writable layers and
  // emptyDirs).
  Counter<1> sent{
      registry, "godwit_agent_sent_bytes_total", "Content sent to other agents, by kind.", {"content"}};
  Counter<1> received{registry,
                      "godwit_agent_received_bytes_total",
                      "Content received from other agents and verified, by kind.",
                      {"content"}};
  Counter<0> sent_pages{registry, "godwit_agent_sent_pages_total", "Memory pages sent to other agents."};
  Counter<1> stream_bytes{
      registry,
      "godwit_agent_stream_bytes_total",
      "Bytes of the streams between agents, frames included, by direction (sent, received).",
      {"direction"}};
  Histogram<0> transfer_rate{
      registry,
      "godwit_agent_transfer_rate_bytes_per_second",
      "How fast one migration's content was sent: bytes by the time from the first to the last.",
      {},
      kBytesPerSecond};
  Counter<1> stream_errors{
      registry,
      "godwit_agent_stream_errors_total",
      "Streams between agents that ended early, by reason (Checksum, Protocol, Connection, Peer, Storage).",
      {"reason"}};

  // Pre-copy, of the pods that this node sends. outcome: converged (frozen within the budget), gave_up (it
  // did not converge, and was frozen or left as asked for), fell_back (the pod does not allow it), aborted.
  // why: zero (known to be zeros), unchanged (written with what was there).
  Counter<1> pre_copies{registry,
                        "godwit_agent_pre_copies_total",
                        "Pre-copies that came to their end, by outcome.",
                        {"outcome"}};
  Counter<0> pre_copy_rounds{registry, "godwit_agent_pre_copy_rounds_total",
                             "Rounds in which memory was copied while its pod ran."};
  Counter<0> pre_copy_dirty{registry, "godwit_agent_pre_copy_dirty_bytes_total",
                            "Memory that rounds of pre-copy found written since the round before."};
  Counter<1> pre_copy_saved{registry,
                            "godwit_agent_pre_copy_saved_bytes_total",
                            "Memory that pre-copy went through and did not have to send, by why.",
                            {"why"}};
  Gauge<0> pre_copy_dirty_rate{registry, "godwit_agent_pre_copy_dirty_rate_bytes_per_second",
                               "How fast the pods that are pre-copied now write memory, all together."};
  Gauge<0> pre_copy_predicted_freeze{
      registry, "godwit_agent_pre_copy_predicted_freeze_seconds",
      "The longest of the freezes predicted for the pods that are pre-copied now; 0 without one."};

  // The pagers of the pods that came to this node. how: fault (a process waited for the page), background.
  Gauge<0> pager_backlog{registry, "godwit_agent_pager_backlog_bytes",
                         "Memory of restored pods that is not in its place yet and lies in the page store."};
  Gauge<0> pager_fault_p99{
      registry, "godwit_agent_pager_slow_fault_seconds",
      "The time within which 99 % of the pages that processes waited for were in their place; of "
      "the slowest pager at work."};

  Counter<0> lost_memory{registry, "godwit_agent_lost_memory_total",
                         "Containers that were killed here after a move, because what was to fill their "
                         "memory had died or could not; kubelet starts them afresh."};

  // Post-copy, of the pods that came to this node. outcome: arrived (all pages), lost (not all: the
  // containers concerned were killed, and started afresh).
  Counter<1> post_copies{registry,
                         "godwit_agent_post_copies_total",
                         "Pods that ran here before all of their memory had come, by how that ended.",
                         {"outcome"}};
  Counter<0> pulled_bytes{registry, "godwit_agent_pulled_bytes_total",
                          "Memory that pods which ran here already pulled from their sources."};
  Counter<0> pulled_faults{registry, "godwit_agent_pulled_faults_total",
                           "Pages that processes waited for until they had come from another node."};
  Gauge<0> missing_bytes{registry, "godwit_agent_missing_bytes",
                         "Memory of pods that run here which is still on the nodes that they came from."};
  Gauge<0> pull_fault_p99{
      registry, "godwit_agent_pull_slow_fault_seconds",
      "The time within which 99 % of the pages that processes waited for had come from another "
      "node; of the slowest pod that pulls now."};

  // What lies on the node's disk.
  Gauge<0> images_bytes{registry, "godwit_agent_images_bytes",
                        "Disk space that images of migrations and restores take."};
  Gauge<0> archives{registry, "godwit_agent_archives", "Checkpoint archives on this node."};
  Gauge<0> archives_bytes{registry, "godwit_agent_archives_bytes",
                          "Disk space that checkpoint archives take."};
  Gauge<0> storage_available{registry, "godwit_agent_storage_available_bytes",
                             "Free disk space where images and archives go."};
  Gauge<0> memory_available{registry, "godwit_agent_memory_available_bytes",
                            "Memory the node has available for processes."};

  // The API that the controller calls. route as in godwit_controller_agent_requests_total.
  Counter<3> api_requests{registry,
                          "godwit_agent_api_requests_total",
                          "Requests to this agent's API, by method, route and HTTP status.",
                          {"method", "route", "code"}};
  Histogram<1> api_request_duration{registry,
                                    "godwit_agent_api_request_duration_seconds",
                                    "Requests to this agent's API until they were answered.",
                                    {"route"},
                                    kRequestSeconds};

  // invariant: I2 (a pod stood still for longer than its freeze limit), I5 (something of an operation that
  // has ended was left behind), I6 (a pod that was not handed over stands still and has no guard), I7 (a
  // state came to another pod than the one it was for).
  Counter<1> invariant_violations{
      registry,
      kInvariantViolations,
      "Operations in which a promise of the hand-over was broken on this node; must stay 0.",
      {"invariant"}};

  Gauge<0> certificate_expiry{
      registry, "godwit_agent_certificate_expiry_timestamp_seconds",
      "When the agent's certificate ends, in seconds since 1970; 0 while it has none."};
  Counter<1> certificate_renewals{
      registry,
      "godwit_agent_certificate_renewals_total",
      "Attempts to get a certificate from the controller, by outcome (succeeded, failed).",
      {"outcome"}};
};

// Memory, CPU time, open files and start of this process, under the names that every Prometheus client
// library uses; set whenever `registry` is read. `proc` is where procfs is mounted.
void AddProcessMetrics(Registry& registry, const std::string& proc = "/proc");

}  // namespace godwit::metrics
