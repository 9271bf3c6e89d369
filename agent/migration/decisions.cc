// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/decisions.h"

namespace godwit::migration {

using agent_api::SourceState;
using agent_api::TargetState;

// --- the source
// ------------------------------------------------------------------------------------------------------------

SourceStage RecoveredStage(SourceState journal, bool ceded, bool thawed) {
  switch (journal) {
    case SourceState::kNone:
    case SourceState::kOpen: return SourceStage::kAborting;
    case SourceState::kFrozen: return SourceStage::kAskingGuard;  // it may be about to cede
    case SourceState::kCeded: return SourceStage::kAskingTarget;
    case SourceState::kDone: return SourceStage::kDone;
    case SourceState::kAborted: return ceded && !thawed ? SourceStage::kTakingBack : SourceStage::kAborted;
  }
  return SourceStage::kAborting;
}

AbortAnswer AbortIn(SourceStage stage) {
  switch (stage) {
    case SourceStage::kConnecting:
    case SourceStage::kCopying:
    case SourceStage::kFreezing:
    case SourceStage::kSending:
    case SourceStage::kAwaitingPrepared: return AbortAnswer::kNoted;
    case SourceStage::kAborting:
    case SourceStage::kAborted: return AbortAnswer::kAlready;
    case SourceStage::kCeding:
    case SourceStage::kAskingGuard:
    case SourceStage::kCommitting:
    case SourceStage::kAskingTarget:
    case SourceStage::kTakingBack:
    case SourceStage::kServingPages:
    case SourceStage::kTargetRuns:
    case SourceStage::kKilling:
    case SourceStage::kDone: return AbortAnswer::kTooLate;
  }
  return AbortAnswer::kTooLate;
}

bool MayBeKilled(SourceStage stage, bool target_running, bool serves_pages, bool abandon) {
  if (stage == SourceStage::kTargetRuns || stage == SourceStage::kKilling) return true;
  return target_running && StateOf(stage) == SourceState::kCeded && (!serves_pages || abandon);
}

bool MayBeReclaimed(SourceStage stage, bool target_running) {
  return (stage == SourceStage::kCommitting || stage == SourceStage::kAskingTarget) && !target_running;
}

SourceEvent Failure(const SourceHears& hears) {
  return hears.target_aborted ? SourceEvent::kTargetAborted : SourceEvent::kFailed;
}

std::optional<SourceEvent> WhilePreparing(const SourceHears& hears, bool over) {
  if (hears.abort_wanted || hears.target_aborted) return Failure(hears);
  if (hears.prepared) return SourceEvent::kDone;
  if (hears.lost || over) return Failure(hears);
  return std::nullopt;
}

std::optional<SourceEvent> BeforeCeding(const SourceHears& hears) {
  if (hears.abort_wanted) return SourceEvent::kFailed;
  return std::nullopt;
}

SourceEvent AfterCeding(const std::optional<GuardWord>& word, const SourceHears& hears) {
  if (!word.has_value()) return SourceEvent::kUnknown;
  if (word->state != SourceState::kCeded) return Failure(hears);
  return word->ok ? SourceEvent::kDone : SourceEvent::kUnknown;  // it does not know what is on its disk
}

SourceEvent AfterAskingGuard(const std::optional<GuardWord>& word, SourceState journal,
                             const SourceHears& hears) {
  const bool not_ceded =
      word.has_value() && word->state != SourceState::kCeded && word->state != SourceState::kDone;
  if (not_ceded) return Failure(hears);
  switch (journal) {
    case SourceState::kCeded:
    case SourceState::kDone: return SourceEvent::kDone;
    case SourceState::kAborted: return Failure(hears);
    case SourceState::kNone:
    case SourceState::kOpen:
    case SourceState::kFrozen: return SourceEvent::kUnknown;
  }
  return SourceEvent::kUnknown;
}

std::optional<SourceEvent> WhileCommitting(const SourceHears& hears, bool late) {
  if (hears.target_aborted) return SourceEvent::kTargetAborted;
  if (hears.running) return SourceEvent::kDone;
  if (hears.lost || late) return SourceEvent::kUnknown;
  return std::nullopt;
}

SourceEvent AfterAskingTarget(std::optional<TargetState> answer, bool reclaimed) {
  if (!answer.has_value() && reclaimed) return SourceEvent::kTargetAborted;
  switch (answer.value_or(TargetState::kNone)) {
    case TargetState::kPrepared:
    case TargetState::kRunning: return SourceEvent::kDone;  // COMMIT again: the target may hear it twice
    case TargetState::kAborted: return SourceEvent::kTargetAborted;
    case TargetState::kNone:
    case TargetState::kOpen: break;  // it is about to abort, or has forgotten: not for the source to guess
  }
  return SourceEvent::kUnknown;
}

SourceEvent AfterTakingBack(const std::optional<GuardWord>& word) {
  const bool thawed = word.has_value() && word->ok && word->state == SourceState::kAborted;
  return thawed ? SourceEvent::kDone : SourceEvent::kUnknown;
}

SourceEvent AfterKilling(const std::optional<GuardWord>& word, SourceState journal) {
  const bool told = word.has_value() && word->ok;
  return told || journal == SourceState::kDone ? SourceEvent::kDone : SourceEvent::kUnknown;
}

ThawStep NextThawStep(SourceState journal) {
  switch (journal) {
    case SourceState::kNone:
    case SourceState::kOpen: return ThawStep::kWriteAborted;
    case SourceState::kFrozen:
    case SourceState::kCeded: return ThawStep::kLookAgain;
    case SourceState::kDone:
    case SourceState::kAborted: return ThawStep::kDone;
  }
  return ThawStep::kLookAgain;
}

bool TellsAbort(TargetState answer) {
  return answer == TargetState::kOpen || answer == TargetState::kPrepared;
}

// --- the target
// ------------------------------------------------------------------------------------------------------------

TargetStage RecoveredStage(TargetState journal, bool thawed) {
  switch (journal) {
    case TargetState::kNone:
    case TargetState::kOpen: return TargetStage::kAborting;
    case TargetState::kPrepared: return TargetStage::kPrepared;
    case TargetState::kRunning: return thawed ? TargetStage::kPulling : TargetStage::kCommitting;
    case TargetState::kAborted: return TargetStage::kAborted;
  }
  return TargetStage::kAborting;
}

AbortAnswer AbortIn(TargetStage stage) {
  switch (stage) {
    case TargetStage::kRestoring:
    case TargetStage::kPreparing:
    case TargetStage::kPrepared: return AbortAnswer::kNoted;
    case TargetStage::kAborting:
    case TargetStage::kAborted: return AbortAnswer::kAlready;
    case TargetStage::kCommitting:
    case TargetStage::kPulling:
    case TargetStage::kRunning: return AbortAnswer::kTooLate;
  }
  return AbortAnswer::kTooLate;
}

bool TakesStream(bool ask, bool resume, Bringing bringing, TargetStage stage, bool abort_wanted) {
  if (ask) return true;
  const Bringing expected = resume ? Bringing::kCut : Bringing::kNotBegun;
  return bringing == expected && stage == TargetStage::kRestoring && !abort_wanted;
}

bool MayResume(bool armed, bool in_rounds, bool abort_wanted) { return !armed && in_rounds && !abort_wanted; }

bool LossAborts(TargetStage stage, bool abort_wanted) {
  return stage == TargetStage::kRestoring && !abort_wanted;
}

std::optional<TargetEvent> WhilePrepared(bool abort_wanted, bool copies_stand, bool commit) {
  if (abort_wanted || !copies_stand) return TargetEvent::kFailed;
  if (commit) return TargetEvent::kCommit;
  return std::nullopt;
}

bool MayTakeOver(TargetStage stage) { return stage == TargetStage::kPrepared; }

bool RunsAlready(TargetStage stage, bool thawed) { return thawed || StateOf(stage) == TargetState::kRunning; }

}  // namespace godwit::migration
