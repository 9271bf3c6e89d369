// SPDX-License-Identifier: Apache-2.0
// The end of a dry run: what preflight has let pass is rehearsed, and that is told. Nothing is made, and so
// there is nothing to remove.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "controller/migration/draft.h"
#include "controller/pods/eligibility.h"
#include "controller/pods/findings.h"

namespace godwit::controller {
namespace {

constexpr absl::Duration kDryRunPoll = absl::Seconds(2);

using crds::Finding;
using crds::Severity;
using crds::Strategy;
using crds::Verdict;

// Measured in moves of small pods (README.md): from the order to make the target pod, its image there, until
// its `create` waits; and from the thaw to the end.
constexpr absl::Duration kPreparing = absl::Milliseconds(1500);
constexpr absl::Duration kFinishing = absl::Milliseconds(1600);

std::string Told(absl::Duration duration) { return absl::FormatDuration(crds::Readable(duration)); }

// Memory cannot be copied while the pod runs.
void RecordFallback(Draft& draft, std::vector<Finding>& findings) {
  const std::string& why = draft.seen.rehearsal->fallback;
  if (why.empty()) return;
  if (draft.seen.migration.spec.strategy == Strategy::kAuto) return draft.FallBack({"PodCannotPreCopy", why});
  findings.push_back(Found("PodCannotPreCopy", "the pod's memory cannot be copied while it runs", why));
}

void RecordFigures(Draft& draft) {
  const agent_api::RehearsalReport& report = *draft.seen.rehearsal;
  const absl::Duration duration = std::max(absl::ZeroDuration(), draft.now - draft.status.start_time) +
                                  report.copying + kPreparing + report.freeze + report.pulling + kFinishing;
  draft.status.dry_run = {.converges = report.converges,
                          .predicted_freeze = crds::Readable(report.freeze),
                          .least_freeze = crds::Readable(report.fixed),
                          .predicted_duration = crds::Readable(duration),
                          .transfer_bytes = report.transfer_bytes,
                          .rounds = report.rounds,
                          .sampled_bytes = report.sampled_bytes,
                          .sampled_time = crds::Readable(report.sampled),
                          .round_trip = crds::Readable(report.round_trip),
                          .processes = report.weight.processes,
                          .threads = report.weight.threads,
                          .descriptors = report.weight.descriptors,
                          .mappings = report.weight.mappings};
  draft.status.pre_copy = {.memory_bytes = report.memory_bytes,
                           .dirty_bytes = report.dirty_bytes,
                           .dirty_rate = report.dirty_rate,
                           .throughput = report.throughput,
                           .predicted_freeze = crds::Readable(report.freeze),
                           .observed_time = draft.now};
}

Finding NotConverging(const Draft& draft) {
  const crds::MigrationSpec& spec = draft.seen.migration.spec;
  const agent_api::RehearsalReport& report = *draft.seen.rehearsal;
  const std::string freeze = Told(report.freeze);
  Finding finding = Found(
      "NotConverging",
      absl::StrCat("the pod writes ", report.dirty_rate >> 20, " MiB/s, and ", report.throughput >> 20,
                   " MiB/s go over, with what CRIU copies itself (locked memory, memfds): pre-copy would "
                   "not come within a budget of ",
                   Told(spec.freeze_budget), "; "),
      absl::StrCat(report.dirty_bytes, " bytes written in the longest of the looks of ",
                   Told(report.sampled)));
  finding.remedy = absl::StrCat("Raise freezeBudget above ", freeze,
                                ", lift bandwidthLimit, or use whenNotConverging: PostCopy.");
  switch (spec.when_not_converging) {
    case crds::WhenNotConverging::kFail:
      finding.severity = Severity::kBlocking;
      absl::StrAppend(&finding.message, "the Migration would fail then");
      break;
    case crds::WhenNotConverging::kFreeze:
      finding.severity = Severity::kWarning;
      absl::StrAppend(&finding.message, "the pod would stand still for ", freeze);
      break;
    case crds::WhenNotConverging::kPostCopy:
      finding.severity = Severity::kInfo;
      absl::StrAppend(&finding.message, "what is left would be pulled after a freeze of ", freeze);
      break;
  }
  return finding;
}

// What the prediction means for what was asked for.
void Judge(const Draft& draft, std::vector<Finding>& findings) {
  const crds::MigrationSpec& spec = draft.seen.migration.spec;
  const agent_api::RehearsalReport& report = *draft.seen.rehearsal;
  const std::string freeze = Told(report.freeze);
  const absl::StatusOr<absl::Duration> limit =
      FreezeLimit(draft.seen.source->view, draft.settings.freeze_cap);
  if (limit.ok() && report.freeze > *limit) {
    findings.push_back(Found("FreezeLimit", absl::StrCat("the pod would stand still for ", freeze,
                                                         " and may for ", Told(*limit))));
  }
  if (!report.converges) findings.push_back(NotConverging(draft));
  const absl::Duration until_switch = report.copying + kPreparing + report.freeze;
  if (until_switch > spec.timeout) {
    findings.push_back(Found("Timeout", absl::StrCat("the target would take over after ", Told(until_switch),
                                                     ", and spec.timeout is ", Told(spec.timeout))));
  }
}

std::string Summary(const Draft& draft) {
  const crds::DryRun& dry_run = draft.status.dry_run;
  return absl::StrCat(
      "pod ", draft.seen.migration.spec.pod_ref.name, " would move to node ", draft.status.target_node,
      " with strategy ", json::Name(*draft.status.strategy), ", stand still for about ",
      absl::FormatDuration(dry_run.predicted_freeze),
      dry_run.verdict == Verdict::kWouldExceedBudget ? ", which is more than freezeBudget," : "",
      " and be there in ", absl::FormatDuration(dry_run.predicted_duration), "; ",
      dry_run.transfer_bytes >> 20, " MiB would go over. Nothing was moved");
}

}  // namespace

MigrationDecision DecideRehearsing(Draft& draft) {
  const MigrationObserved& seen = draft.seen;
  if (auto why = draft.WhyUnwanted()) return draft.Fail(*why);
  if (auto lost = WhySourceLost(draft)) return draft.Fail(*lost);
  if (!seen.rival.empty()) return draft.Fail(RivalFailure(draft));
  if (draft.now > draft.deadline())
    return draft.Fail(Expired(draft, "before the pod's memory was looked at"));
  if (seen.rehearsal_waits)
    return draft.Wait("WaitingForDryRuns", "other dry runs have their turn first", kDryRunPoll);
  if (!seen.rehearsal.ok()) {
    const absl::Status& error = seen.rehearsal.status();
    if (!IsRefusal(error)) return AwaitAgent(draft, AgentFailure(seen.source_node.name, error));
    return draft.Fail({"RehearsalFailed", absl::StrCat("node ", seen.source_node.name,
                                                       " could not rehearse the move: ", error.message())});
  }
  draft.AgentsAnswer();
  std::vector<Finding> fresh;
  for (const agent_api::Finding& finding : seen.rehearsal->findings) fresh.push_back(FromAgent(finding));
  RecordFallback(draft, fresh);
  RecordFigures(draft);
  if (!FirstBlocking(fresh)) Judge(draft, fresh);
  draft.SayFindings(fresh);
  std::vector<Finding> findings = draft.status.findings;
  findings.insert(findings.end(), fresh.begin(), fresh.end());
  if (FirstBlocking(findings)) return FailForFindings(draft, std::move(findings));
  draft.status.findings = std::move(findings);
  const bool within = seen.rehearsal->freeze <= seen.migration.spec.freeze_budget;
  draft.status.dry_run.verdict = within ? Verdict::kWouldSucceed : Verdict::kWouldExceedBudget;
  return draft.PassDryRun(Summary(draft));
}

}  // namespace godwit::controller
