// SPDX-License-Identifier: Apache-2.0
// What each stage concludes from what it sees: the events that the tables of handover.h are fed with, the
// stage after a restart, the answers to the other side and to whoever wants an end. No I/O, no clock:
// source.cc and target.cc gather what is seen and do what follows; tests/simulator gathers it from a world of
// its own, and decides by the same functions.
#pragma once

#include <array>
#include <optional>

#include "agent/api/messages.h"
#include "agent/migration/handover.h"

namespace godwit::migration {

// What an ABORT, or somebody's wish for one, means in a stage.
enum class AbortAnswer {
  kNoted,    // and will end what is under way
  kAlready,  // it is ending, or has ended, so
  kTooLate,  // it is decided
};

// --- the source

// What it has heard over the newest stream, and from its own node.
struct SourceHears {
  bool abort_wanted = false;
  bool prepared = false;
  bool running = false;
  bool target_aborted = false;
  bool lost = false;  // the stream has ended
};

// A guard's answer; none: the conversation ended, or it did not answer in time.
struct GuardWord {
  bool ok = false;
  agent_api::SourceState state = agent_api::SourceState::kNone;
};

// Where an agent begins that finds this journal. Of what was ceded and is Aborted: `thawed` when that was
// noted, for between its record and its thaw a guard may have died.
SourceStage RecoveredStage(agent_api::SourceState journal, bool ceded, bool thawed);
AbortAnswer AbortIn(SourceStage stage);
// May a source be killed on the word of the controller? `abandon`: pages that the target lacks are given up.
bool MayBeKilled(SourceStage stage, bool target_running, bool serves_pages, bool abandon);

// May a source that has ceded go on here without the target's word, when somebody vouches that the target's
// copy does not run and never will?
bool MayBeReclaimed(SourceStage stage, bool target_running);

// Something failed before the decision.
SourceEvent Failure(const SourceHears& hears);
// In kAwaitingPrepared. `over`: the guard has ended, or the freeze has reached its limit. nullopt: wait on.
std::optional<SourceEvent> WhilePreparing(const SourceHears& hears, bool over);
// In kCeding. nullopt: the guard is to be asked.
std::optional<SourceEvent> BeforeCeding(const SourceHears& hears);
SourceEvent AfterCeding(const std::optional<GuardWord>& word, const SourceHears& hears);
// In kAskingGuard, from the guard's own word, which came first, and its journal. One that has not ceded by
// its own word will not: nobody else asks it to.
SourceEvent AfterAskingGuard(const std::optional<GuardWord>& word, agent_api::SourceState journal,
                             const SourceHears& hears);
// In kCommitting, when COMMIT is sent. `late`: RUNNING was awaited long enough. nullopt: wait on.
std::optional<SourceEvent> WhileCommitting(const SourceHears& hears, bool late);
// In kAskingTarget. nullopt: it did not answer. `reclaimed`: somebody vouches that it never will; what it
// answers all the same counts more.
SourceEvent AfterAskingTarget(std::optional<agent_api::TargetState> answer, bool reclaimed);
// In kTakingBack: the record comes before the thaw, so only a guard can say that it has thawed.
SourceEvent AfterTakingBack(const std::optional<GuardWord>& word);
// In kKilling, from the guard's word or else its journal.
SourceEvent AfterKilling(const std::optional<GuardWord>& word, agent_api::SourceState journal);

// In kAborting, when the guard was told and left: what the journal asks for.
enum class ThawStep {
  kDone,
  kWriteAborted,  // never frozen: nobody else writes it down; then done, or where a guard holds it kLookAgain
  kLookAgain,     // the guard will thaw; one that died needs a successor
};
ThawStep NextThawStep(agent_api::SourceState journal);

// Whether a target that answers so is to be told that the source goes on.
bool TellsAbort(agent_api::TargetState answer);

// --- the target

// The streams that bring the state: one at a time; rounds of pages may be resumed over another.
enum class Bringing { kNotBegun, kServed, kCut };

// `thawed`: that the copies of a Running target were thawed is on the disk. They are not thawed again: the
// pod may have moved on since, and stand frozen here.
TargetStage RecoveredStage(agent_api::TargetState journal, bool thawed);
AbortAnswer AbortIn(TargetStage stage);

// Whether a source's HELLO is taken; one that only asks always is.
bool TakesStream(bool ask, bool resume, Bringing bringing, TargetStage stage, bool abort_wanted);
// The stream that brings the state has ended: may another go on where it was cut? Once a restore waits at its
// gate (`armed`) the source stands still, or is about to. `in_rounds`: files or memory have come as a source
// sends them while its pod runs; of one that has sent nothing, or an image first, none is awaited.
bool MayResume(bool armed, bool in_rounds, bool abort_wanted);
// A stream that listens for the verdict has ended: is that the end? Before PREPARED the source cannot have
// ceded.
bool LossAborts(TargetStage stage, bool abort_wanted);
// In kPrepared. nullopt: wait on.
std::optional<TargetEvent> WhilePrepared(bool abort_wanted, bool copies_stand, bool commit);
// May a copy run without the source's COMMIT, when somebody vouches that the source does not run and never
// will?
bool MayTakeOver(TargetStage stage);
// COMMIT came: is the answer RUNNING at once? Otherwise the commit itself says it.
bool RunsAlready(TargetStage stage, bool thawed);

// The acts of kCommitting and of kAborting, in this order, each repeated until it succeeds (of kAborting: all
// of them). RUNNING first: were the permits spent before it, a crash in between and the copy's death would
// start the pod afresh here while the source, told ABORTED, goes on there. On the disk the permits are spent
// when the pod runs: until then a `create` asks the agent, or waits for one that goes on here.
enum class CommitAct { kWriteRunning, kSpendPermits, kThaw, kTellRunning, kWriteSpent, kNoteThawed };
inline constexpr std::array kCommitActs = {CommitAct::kWriteRunning, CommitAct::kSpendPermits,
                                           CommitAct::kThaw,         CommitAct::kTellRunning,
                                           CommitAct::kWriteSpent,   CommitAct::kNoteThawed};
enum class EndAct { kEndPermitsAndCopies, kWriteAborted, kTellAbort };
inline constexpr std::array kEndActs = {EndAct::kEndPermitsAndCopies, EndAct::kWriteAborted,
                                        EndAct::kTellAbort};

}  // namespace godwit::migration
