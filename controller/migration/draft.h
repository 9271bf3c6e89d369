// SPDX-License-Identifier: Apache-2.0
// A decision in the making: the Migration's status with the words that its phases share. Used by decide*.cc
// only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "controller/migration/decision.h"
#include "controller/pods/progress.h"

namespace godwit::controller {

class Draft {
 public:
  Draft(const MigrationObserved& seen, const MigrationSettings& settings, absl::Time now);

  const MigrationObserved& seen;
  const MigrationSettings& settings;
  const absl::Time now;
  crds::MigrationStatus status;

  bool terminating() const { return seen.migration.metadata.terminating(); }
  bool dry_run() const { return seen.migration.spec.dry_run; }
  // Somebody has cancelled or deleted the Migration.
  std::optional<Failure> WhyUnwanted() const;
  // It is known that the Migration fails; what it made is being removed.
  bool failing() const;
  absl::Time deadline() const;
  // Nobody but the pod of that name and UID is the source.
  bool SourceThere() const;
  // And nobody has deleted it.
  bool SourceStays() const;
  // Its agent answers, and says so.
  bool TargetRuns() const;

  // True when the status changed. Transition times follow the API conventions.
  bool Condition(absl::string_view type, absl::string_view status, absl::string_view reason,
                 absl::string_view message);

  // The decisions.
  MigrationDecision Nothing() { return End(MigrationStep::kNothing, absl::InfiniteDuration()); }
  // `again`: how soon after it the next look is.
  MigrationDecision Do(MigrationStep step, absl::Duration again = absl::ZeroDuration()) {
    return End(step, again);
  }
  MigrationDecision Abort(MigrationStep step, const Failure& why,
                          absl::Duration again = absl::ZeroDuration());
  // kFinishSource or kAbandonSource. Where the source has not heard that the target runs, and perhaps cannot,
  // it takes our word for it: we have heard it, or a person gives the source up all the same.
  MigrationDecision Finish(MigrationStep step, absl::Duration again);
  // `reason` and `message` go to the Complete condition: what is waited for.
  MigrationDecision Wait(absl::string_view reason, absl::string_view message, absl::Duration again);
  MigrationDecision Enter(crds::MigrationPhase phase, absl::string_view message);
  // From here the Migration fails for this reason. Only where it is certain that the target never runs.
  MigrationDecision Fail(const Failure& why);
  // Everything is removed (or `left_behind` says what is not).
  MigrationDecision FinishFailing(const std::optional<Failure>& left_behind);
  MigrationDecision Succeed(const std::optional<Failure>& left_behind);
  // A dry run that has found no obstacle.
  MigrationDecision PassDryRun(absl::string_view summary);
  // The pod has moved, but not all of its memory came after it.
  MigrationDecision EndLost(const std::optional<Failure>& left_behind);

  // How the switch went, or will go, is uncertain, and a person may decide: told once. The condition keeps
  // the generation of spec that it was told at.
  void TellUncertain(const std::string& message);
  // A person's word, given after `message` was told, and for that: the same word means another risk when
  // something else is uncertain.
  bool Said(const std::string& message, crds::ResolveUncertain word) const;
  // Who alone can know how the switch went answers again.
  void NoLongerUncertain();
  // The pod is handed over, or about to be: a wish to cancel came too late. Told once.
  void TellTooLate();
  // An Event, once the status is written; phases and ends have theirs anyway. A dry run's say that it is one.
  void Say(bool warning, absl::string_view reason, absl::string_view message);
  // An Event for each finding but the first that blocks, which is why the Migration ends.
  void SayFindings(const std::vector<crds::Finding>& findings);
  // Memory is copied while the pod stands still, for this reason: condition, and an Event the first time.
  void FallBack(const Failure& why);

  // An agent did not answer: told in a condition. Whether that has gone on for longer than agent_patience.
  bool AgentSilent(const Failure& why);
  void AgentsAnswer();

 private:
  // The condition that tells exactly this, or nullptr.
  static const k8s::Condition* ToldUncertain(const std::vector<k8s::Condition>& conditions,
                                             const std::string& message);
  MigrationDecision End(MigrationStep step, absl::Duration again);
  void Complete();
  void GoOn();
  bool TargetGone() const;  // after the decision
  void TellCleanedUp(const std::optional<Failure>& left_behind);

  std::vector<Tell> tells_;
};

// The parts of Decide, one for each stretch of the way.
MigrationDecision DecidePending(Draft& draft);
MigrationDecision DecidePreflight(Draft& draft);
MigrationDecision DecideRehearsing(Draft& draft);
MigrationDecision DecideCopying(Draft& draft);
MigrationDecision DecidePreparing(Draft& draft);
MigrationDecision DecideSwitching(Draft& draft);
// In Switching, when a side's agent does not answer.
MigrationDecision DecideWithoutTarget(Draft& draft, const agent_api::SourceStatus& source);  // it has ceded
MigrationDecision DecideWithoutSource(Draft& draft);
MigrationDecision DecideFinishing(Draft& draft);
MigrationDecision DecideFailing(Draft& draft);
MigrationDecision DecideEnded(Draft& draft);

// The step by which a side that has come to its end forgets the Migration. nullopt when both have, or when
// `in_the_way` says why one cannot.
std::optional<MigrationDecision> ForgetSides(Draft& draft, std::optional<Failure>& in_the_way);

// `findings` hold one that blocks: the Migration fails with the first one's reason and what all of them say.
MigrationDecision FailForFindings(Draft& draft, std::vector<crds::Finding> findings);
// Switching has ended with the target running; `source`: what its agent says, or null. `why`: as in the
// condition.
struct Why {
  absl::string_view reason;
  std::string message;
};
MigrationDecision EnterFinishing(Draft& draft, const agent_api::SourceStatus* source,
                                 const std::optional<Why>& why = std::nullopt);

// The source has ceded, and its copy is destroyed for certain: it is told, should it not be able to hear it
// from the target. nullopt: that is not so, or it knows.
std::optional<MigrationDecision> TakeBack(Draft& draft);

// kubelet counts failed probes against the frozen source and would kill and restart it; before that it must
// be deleted: now, or within `ahead`.
bool ProbesPress(const Draft& draft, absl::Duration ahead = absl::ZeroDuration());

// The end of a Migration that somebody asked for, and no failure to worry about.
bool Wished(absl::string_view reason);

// Failures that several phases know.
Failure RivalFailure(const Draft& draft);
Failure Expired(const Draft& draft, absl::string_view where);
Failure AbortedBy(const agent_api::SourceStatus& source);
Failure AbortedBy(const agent_api::TargetStatus& target);

// An agent that is needed does not answer or is not fit: it is given time, then given up. Only where nothing
// stands still.
MigrationDecision AwaitAgent(Draft& draft, const Failure& why);

// What the source says of its freeze. Since when, by our own clock, for which its length so far is enough;
// where that goes on no more, by its node's clock, as far as ours bears that out (probes are waited for
// neither too long nor not at all). Once told it stays, for a status that changes at every look is all that
// would be done.
absl::Time FrozenAt(const Draft& draft, const agent_api::SourceStatus& source);
crds::Freeze FreezeOf(const Draft& draft, const agent_api::SourceStatus& source);

// Takes over what the source says of its pre-copy: at most once a second, or, at its end, at once.
void RecordProgress(Draft& draft, const agent_api::SourceStatus& source, bool last);

// The same of what the target says of its pulling.
void RecordPull(Draft& draft, const agent_api::PullStatus& pull, bool last);

// Why the source can no longer be moved: gone, replaced, being deleted, not running.
std::optional<Failure> WhySourceLost(const Draft& draft);

}  // namespace godwit::controller
