// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/decisions.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace godwit::migration {
namespace {

using agent_api::SourceState;
using agent_api::TargetState;

constexpr SourceState kSourceStates[] = {SourceState::kNone,  SourceState::kOpen, SourceState::kFrozen,
                                         SourceState::kCeded, SourceState::kDone, SourceState::kAborted};
constexpr TargetState kTargetStates[] = {TargetState::kNone, TargetState::kOpen, TargetState::kPrepared,
                                         TargetState::kRunning, TargetState::kAborted};

TEST(SourceDecisionsTest, AnAbortIsHeardUntilTheSourceCedesAndNotAfter) {
  for (int i = 0; i <= static_cast<int>(SourceStage::kAborted); ++i) {
    const auto stage = static_cast<SourceStage>(i);
    if (AbortIn(stage) != AbortAnswer::kNoted) continue;
    EXPECT_TRUE(Next(stage, SourceEvent::kFailed) == SourceStage::kAborting) << NameOf(stage);
    EXPECT_NE(StateOf(stage), SourceState::kCeded) << NameOf(stage);
  }
  EXPECT_EQ(AbortIn(SourceStage::kAwaitingPrepared), AbortAnswer::kNoted);
  EXPECT_EQ(AbortIn(SourceStage::kCeding), AbortAnswer::kTooLate);
  EXPECT_EQ(AbortIn(SourceStage::kAskingGuard), AbortAnswer::kTooLate);
  EXPECT_EQ(AbortIn(SourceStage::kDone), AbortAnswer::kTooLate);
  EXPECT_EQ(AbortIn(SourceStage::kAborting), AbortAnswer::kAlready);
}

TEST(SourceDecisionsTest, PreparedCountsOnlyWhileNobodyWantsAnEnd) {
  EXPECT_EQ(WhilePreparing({.prepared = true}, false), SourceEvent::kDone);
  EXPECT_EQ(WhilePreparing({.prepared = true, .lost = true}, true), SourceEvent::kDone);
  EXPECT_EQ(WhilePreparing({.abort_wanted = true, .prepared = true}, false), SourceEvent::kFailed);
  EXPECT_EQ(WhilePreparing({.prepared = true, .target_aborted = true}, false), SourceEvent::kTargetAborted);
  EXPECT_EQ(WhilePreparing({.lost = true}, false), SourceEvent::kFailed);
  EXPECT_EQ(WhilePreparing({}, true), SourceEvent::kFailed);
  EXPECT_EQ(WhilePreparing({}, false), std::nullopt);
}

TEST(SourceDecisionsTest, OnlyTheGuardsWordOrItsJournalCedes) {
  for (const bool ok : {false, true}) {
    for (const SourceState state : kSourceStates) {
      const SourceEvent event = AfterCeding(GuardWord{ok, state}, {});
      EXPECT_EQ(event == SourceEvent::kDone, ok && state == SourceState::kCeded);
      EXPECT_EQ(event == SourceEvent::kUnknown, !ok && state == SourceState::kCeded)
          << "may or may not be written";
    }
  }
  EXPECT_EQ(AfterCeding(std::nullopt, {.target_aborted = true}), SourceEvent::kUnknown);
}

TEST(SourceDecisionsTest, AGuardThatHasNotCededByItsOwnWordNeverWill) {
  EXPECT_EQ(AfterAskingGuard(GuardWord{true, SourceState::kFrozen}, SourceState::kFrozen, {}),
            SourceEvent::kFailed);
  EXPECT_EQ(AfterAskingGuard(GuardWord{false, SourceState::kAborted}, SourceState::kFrozen, {}),
            SourceEvent::kFailed);
  EXPECT_EQ(AfterAskingGuard(GuardWord{true, SourceState::kCeded}, SourceState::kFrozen, {}),
            SourceEvent::kUnknown);
  EXPECT_EQ(AfterAskingGuard(GuardWord{true, SourceState::kCeded}, SourceState::kCeded, {}),
            SourceEvent::kDone);
  EXPECT_EQ(AfterAskingGuard(std::nullopt, SourceState::kFrozen, {}), SourceEvent::kUnknown);
  EXPECT_EQ(AfterAskingGuard(std::nullopt, SourceState::kAborted, {.target_aborted = true}),
            SourceEvent::kTargetAborted);
}

TEST(SourceDecisionsTest, ARestartAsksWhereverTheDecisionMayHaveBeenMade) {
  EXPECT_EQ(RecoveredStage(SourceState::kOpen, false, false), SourceStage::kAborting);
  EXPECT_EQ(RecoveredStage(SourceState::kFrozen, false, false), SourceStage::kAskingGuard);
  EXPECT_EQ(RecoveredStage(SourceState::kCeded, true, false), SourceStage::kAskingTarget);
  EXPECT_EQ(RecoveredStage(SourceState::kAborted, false, false), SourceStage::kAborted);
  EXPECT_EQ(RecoveredStage(SourceState::kAborted, true, false), SourceStage::kTakingBack)
      << "a guard may have died between the record and the thaw";
  EXPECT_EQ(RecoveredStage(SourceState::kAborted, true, true), SourceStage::kAborted);
}

TEST(SourceDecisionsTest, OnlyAGuardCanSayThatItHasThawed) {
  EXPECT_EQ(AfterTakingBack(GuardWord{true, SourceState::kAborted}), SourceEvent::kDone);
  EXPECT_EQ(AfterTakingBack(GuardWord{false, SourceState::kAborted}), SourceEvent::kUnknown);
  EXPECT_EQ(AfterTakingBack(std::nullopt), SourceEvent::kUnknown);
}

TEST(SourceDecisionsTest, OnlyADurableAbortedOfTheTargetTakesBack) {
  for (const TargetState state : kTargetStates) {
    for (const bool reclaimed : {false, true}) {
      EXPECT_EQ(AfterAskingTarget(state, reclaimed) == SourceEvent::kTargetAborted,
                state == TargetState::kAborted)
          << "what it answers counts more than what somebody vouches for";
      EXPECT_NE(AfterAskingTarget(state, reclaimed), SourceEvent::kFailed);
    }
  }
  EXPECT_EQ(AfterAskingTarget(std::nullopt, false), SourceEvent::kUnknown);
  EXPECT_EQ(AfterAskingTarget(std::nullopt, true), SourceEvent::kTargetAborted);
  EXPECT_EQ(WhileCommitting({.abort_wanted = true}, false), std::nullopt);
  EXPECT_EQ(WhileCommitting({.lost = true}, false), SourceEvent::kUnknown);
  EXPECT_EQ(WhileCommitting({.running = true, .lost = true}, false), SourceEvent::kDone);
}

TEST(SourceDecisionsTest, NothingIsKilledThatServesPagesUnlessTheyAreGivenUp) {
  for (int i = 0; i <= static_cast<int>(SourceStage::kAborted); ++i) {
    const auto stage = static_cast<SourceStage>(i);
    const bool waits = stage == SourceStage::kTargetRuns || stage == SourceStage::kKilling;
    EXPECT_EQ(MayBeKilled(stage, false, false, true), waits) << NameOf(stage);
    EXPECT_EQ(MayBeKilled(stage, true, true, false), waits) << NameOf(stage);
    EXPECT_EQ(MayBeKilled(stage, true, true, true), StateOf(stage) == SourceState::kCeded) << NameOf(stage);
  }
}

TEST(SourceDecisionsTest, OnlyASourceThatWaitsForItsTargetsWordIsReclaimed) {
  for (int i = 0; i <= static_cast<int>(SourceStage::kAborted); ++i) {
    const auto stage = static_cast<SourceStage>(i);
    const bool waits = stage == SourceStage::kCommitting || stage == SourceStage::kAskingTarget;
    EXPECT_EQ(MayBeReclaimed(stage, false), waits) << NameOf(stage);
    EXPECT_FALSE(MayBeReclaimed(stage, true)) << NameOf(stage) << ": it has run";
  }
}

TEST(TargetDecisionsTest, OnlyAPreparedCopyTakesOver) {
  for (int i = 0; i <= static_cast<int>(TargetStage::kAborted); ++i) {
    const auto stage = static_cast<TargetStage>(i);
    EXPECT_EQ(MayTakeOver(stage), stage == TargetStage::kPrepared) << NameOf(stage);
  }
}

TEST(TargetDecisionsTest, ARestartNeverRunsWhatWasNotCommitted) {
  for (const TargetState state : kTargetStates) {
    for (const bool thawed : {false, true}) {
      const TargetStage stage = RecoveredStage(state, thawed);
      EXPECT_EQ(StateOf(stage) == TargetState::kRunning || stage == TargetStage::kCommitting,
                state == TargetState::kRunning);
    }
  }
  EXPECT_EQ(RecoveredStage(TargetState::kOpen, false), TargetStage::kAborting);
  EXPECT_EQ(RecoveredStage(TargetState::kRunning, false), TargetStage::kCommitting);
  EXPECT_EQ(RecoveredStage(TargetState::kRunning, true), TargetStage::kPulling) << "thawed once, not again";
}

TEST(TargetDecisionsTest, ACommitCountsOnlyWhileAllCopiesStandAndNobodyAborts) {
  EXPECT_EQ(WhilePrepared(false, true, true), TargetEvent::kCommit);
  EXPECT_EQ(WhilePrepared(false, false, true), TargetEvent::kFailed);
  EXPECT_EQ(WhilePrepared(true, true, true), TargetEvent::kFailed);
  EXPECT_EQ(WhilePrepared(false, true, false), std::nullopt);
}

TEST(TargetDecisionsTest, StateIsTakenOnceAndResumedOnlyWhereItWasCut) {
  const auto takes = [](bool resume, Bringing bringing, TargetStage stage, bool abort) {
    return TakesStream(/*ask=*/false, resume, bringing, stage, abort);
  };
  EXPECT_TRUE(takes(false, Bringing::kNotBegun, TargetStage::kRestoring, false));
  EXPECT_FALSE(takes(false, Bringing::kCut, TargetStage::kRestoring, false));
  EXPECT_FALSE(takes(false, Bringing::kNotBegun, TargetStage::kAborting, false));
  EXPECT_FALSE(takes(false, Bringing::kNotBegun, TargetStage::kRestoring, true));
  EXPECT_TRUE(takes(true, Bringing::kCut, TargetStage::kRestoring, false));
  EXPECT_FALSE(takes(true, Bringing::kServed, TargetStage::kRestoring, false));
  EXPECT_TRUE(TakesStream(/*ask=*/true, false, Bringing::kServed, TargetStage::kAborted, true));
  EXPECT_TRUE(MayResume(false, true, false));
  EXPECT_FALSE(MayResume(true, true, false)) << "the source stands still";
  EXPECT_FALSE(MayResume(false, false, false)) << "nothing has come that is sent in rounds";
  EXPECT_FALSE(MayResume(false, true, true)) << "somebody wants an end";
}

TEST(TargetDecisionsTest, RunningIsWrittenBeforeAnythingOfTheCopyMayRun) {
  EXPECT_EQ(kCommitActs.front(), CommitAct::kWriteRunning);
  const auto at = [](CommitAct act) { return std::find(kCommitActs.begin(), kCommitActs.end(), act); };
  EXPECT_LT(at(CommitAct::kThaw), at(CommitAct::kTellRunning));
  EXPECT_LT(at(CommitAct::kSpendPermits), at(CommitAct::kThaw));
  EXPECT_EQ(kEndActs.front(), EndAct::kEndPermitsAndCopies);
  EXPECT_EQ(kEndActs.back(), EndAct::kTellAbort);
}

}  // namespace
}  // namespace godwit::migration
