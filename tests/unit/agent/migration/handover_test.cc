// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/handover.h"

#include <set>
#include <vector>

#include "agent/journal/journal.h"
#include "gtest/gtest.h"

namespace godwit::migration {
namespace {

using agent_api::SourceState;
using agent_api::TargetState;

std::vector<SourceStage> SourceStages() {
  std::vector<SourceStage> stages;
  for (int i = 0; i <= static_cast<int>(SourceStage::kAborted); ++i)
    stages.push_back(static_cast<SourceStage>(i));
  return stages;
}
constexpr SourceEvent kSourceEvents[] = {SourceEvent::kDone, SourceEvent::kFailed, SourceEvent::kUnknown,
                                         SourceEvent::kTargetAborted};

std::vector<TargetStage> TargetStages() {
  std::vector<TargetStage> stages;
  for (int i = 0; i <= static_cast<int>(TargetStage::kAborted); ++i)
    stages.push_back(static_cast<TargetStage>(i));
  return stages;
}
constexpr TargetEvent kTargetEvents[] = {TargetEvent::kDone, TargetEvent::kFailed, TargetEvent::kCommit};

bool MayHaveCeded(SourceStage stage) {
  return stage == SourceStage::kAskingGuard || StateOf(stage) == SourceState::kCeded ||
         StateOf(stage) == SourceState::kDone;
}

TEST(SourceTableTest, WhatIsCededIsThawedOnlyByTheTargetsAborted) {
  for (SourceStage stage : SourceStages()) {
    if (StateOf(stage) != SourceState::kCeded) continue;
    for (SourceEvent event : kSourceEvents) {
      const auto next = Next(stage, event);
      if (!next.has_value() || StateOf(*next) == SourceState::kCeded || StateOf(*next) == SourceState::kDone)
        continue;
      EXPECT_EQ(*next, SourceStage::kAborted);
      EXPECT_EQ(stage, SourceStage::kTakingBack) << NameOf(stage);
    }
  }
  for (SourceStage stage : SourceStages()) {
    for (SourceEvent event : kSourceEvents) {
      if (Next(stage, event) != SourceStage::kTakingBack || stage == SourceStage::kTakingBack) continue;
      EXPECT_EQ(event, SourceEvent::kTargetAborted) << NameOf(stage);
    }
  }
}

TEST(SourceTableTest, TheSourceIsKilledOnlyAfterTheTargetRuns) {
  for (SourceStage stage : SourceStages()) {
    for (SourceEvent event : kSourceEvents) {
      const auto next = Next(stage, event);
      if (next == SourceStage::kKilling) {
        EXPECT_EQ(stage, SourceStage::kTargetRuns);
      }
      if (next == SourceStage::kTargetRuns && stage != SourceStage::kKilling) {
        EXPECT_EQ(stage, SourceStage::kServingPages) << "none is missing: the target has said so";
        EXPECT_EQ(event, SourceEvent::kDone);
      }
      if (next == SourceStage::kServingPages) {
        EXPECT_EQ(stage, SourceStage::kCommitting);
        EXPECT_EQ(event, SourceEvent::kDone);
      }
      if (next == SourceStage::kDone) {
        EXPECT_EQ(stage, SourceStage::kKilling);
      }
    }
  }
}

TEST(SourceTableTest, EveryFailureBeforeTheDecisionThaws) {
  for (SourceStage stage : SourceStages()) {
    if (MayHaveCeded(stage) || IsFinal(stage) || stage == SourceStage::kAborting) continue;
    EXPECT_EQ(Next(stage, SourceEvent::kFailed), SourceStage::kAborting) << NameOf(stage);
  }
}

TEST(SourceTableTest, EveryStageButTheLastLeadsOnAndTheLastNowhere) {
  for (SourceStage stage : SourceStages()) {
    EXPECT_EQ(Next(stage, SourceEvent::kDone).has_value(), !IsFinal(stage)) << NameOf(stage);
    EXPECT_FALSE(NameOf(stage).empty());
    if (!IsFinal(stage)) continue;
    for (SourceEvent event : kSourceEvents) EXPECT_FALSE(Next(stage, event).has_value());
  }
}

TEST(SourceTableTest, StatesFollowAsTheJournalAllows) {
  for (SourceStage stage : SourceStages()) {
    for (SourceEvent event : kSourceEvents) {
      const auto next = Next(stage, event);
      if (!next.has_value() || StateOf(*next) == StateOf(stage)) continue;
      const bool never_frozen =
          StateOf(stage) == SourceState::kOpen && *next == SourceStage::kAborting;  // Frozen stands for both
      EXPECT_TRUE(never_frozen || journal::MayFollow(StateOf(stage), StateOf(*next)))
          << NameOf(stage) << " to " << NameOf(*next);
    }
  }
}

TEST(TargetTableTest, RunsOnlyAfterTheCommitAndNeverAfterItStopsHalfway) {
  for (TargetStage stage : TargetStages()) {
    for (TargetEvent event : kTargetEvents) {
      const auto next = Next(stage, event);
      if (next == TargetStage::kCommitting) {
        EXPECT_EQ(stage, TargetStage::kPrepared);
        EXPECT_EQ(event, TargetEvent::kCommit);
      }
      if (next == TargetStage::kPulling) {
        EXPECT_EQ(stage, TargetStage::kCommitting);
      }
      if (next == TargetStage::kRunning) {
        EXPECT_EQ(stage, TargetStage::kPulling);
      }
      if (next == TargetStage::kAborted) {
        EXPECT_EQ(stage, TargetStage::kAborting);
      }
    }
  }
  EXPECT_FALSE(Next(TargetStage::kCommitting, TargetEvent::kFailed).has_value());
}

TEST(TargetTableTest, AnAbortedTargetTakesNoCommit) {
  for (TargetStage stage : {TargetStage::kAborting, TargetStage::kAborted}) {
    EXPECT_FALSE(Next(stage, TargetEvent::kCommit).has_value());
  }
}

TEST(TargetTableTest, StatesFollowAsTheJournalAllows) {
  for (TargetStage stage : TargetStages()) {
    for (TargetEvent event : kTargetEvents) {
      const auto next = Next(stage, event);
      // kAborting shows as Open until ABORTED is written; the journal itself goes from Prepared to Aborted.
      if (!next.has_value() || StateOf(*next) == StateOf(stage) || *next == TargetStage::kAborting) continue;
      EXPECT_TRUE(journal::MayFollow(StateOf(stage), StateOf(*next)))
          << NameOf(stage) << " to " << NameOf(*next);
    }
  }
}

// Walks both tables together, every order of events, with what each side may see of the other: never two
// copies that may run, and when neither is destroyed one of them can always still be reached.
struct Both {
  SourceStage source;
  TargetStage target;
  auto operator<=>(const Both&) const = default;
};

bool SourceRuns(SourceStage stage) {
  // While aborting it may have been thawed already.
  return stage == SourceStage::kConnecting || stage == SourceStage::kFreezing ||
         stage == SourceStage::kAborting || stage == SourceStage::kAborted;
}
bool TargetRuns(TargetStage stage) {
  return stage == TargetStage::kCommitting || stage == TargetStage::kPulling ||
         stage == TargetStage::kRunning;
}

// May this event happen, given what the other side is?
bool Possible(const Both& both, SourceEvent event) {
  switch (both.source) {
    case SourceStage::kAwaitingPrepared:  // PREPARED was heard
      if (event == SourceEvent::kDone)
        return both.target == TargetStage::kPrepared || both.target == TargetStage::kAborting ||
               both.target == TargetStage::kAborted;
      break;
    case SourceStage::kCommitting:
      if (event == SourceEvent::kDone) return StateOf(both.target) == TargetState::kRunning;
      break;
    case SourceStage::kAskingTarget:
      if (event == SourceEvent::kDone)
        return both.target == TargetStage::kPrepared || StateOf(both.target) == TargetState::kRunning;
      break;
    case SourceStage::kServingPages:  // that none is missing
      if (event == SourceEvent::kDone) return both.target == TargetStage::kRunning;
      break;
    default: break;
  }
  return event != SourceEvent::kTargetAborted || both.target == TargetStage::kAborted;
}
bool Possible(const Both& both, TargetEvent event) {
  if (event != TargetEvent::kCommit) return true;
  return StateOf(both.source) == SourceState::kCeded &&
         both.source != SourceStage::kTakingBack;  // COMMIT is sent in these alone
}

TEST(BothTablesTest, NeverTwoRunWhateverHappensInWhateverOrder) {
  std::set<Both> seen;
  std::vector<Both> left = {{SourceStage::kConnecting, TargetStage::kRestoring}};
  while (!left.empty()) {
    const Both both = left.back();
    left.pop_back();
    if (!seen.insert(both).second) continue;
    EXPECT_FALSE(SourceRuns(both.source) && TargetRuns(both.target))
        << NameOf(both.source) << " / " << NameOf(both.target);
    for (SourceEvent event : kSourceEvents) {
      const auto next = Next(both.source, event);
      if (next.has_value() && Possible(both, event)) left.push_back({*next, both.target});
    }
    for (TargetEvent event : kTargetEvents) {
      const auto next = Next(both.target, event);
      if (next.has_value() && Possible(both, event)) left.push_back({both.source, *next});
    }
  }
  EXPECT_TRUE(seen.contains({SourceStage::kDone, TargetStage::kRunning}));
  EXPECT_TRUE(seen.contains({SourceStage::kAborted, TargetStage::kAborted}));
  EXPECT_FALSE(seen.contains({SourceStage::kDone, TargetStage::kAborted}))
      << "the source killed, the target never ran";
  EXPECT_TRUE(seen.contains({SourceStage::kServingPages, TargetStage::kPulling}));
  EXPECT_FALSE(seen.contains({SourceStage::kKilling, TargetStage::kPulling}))
      << "the source killed, the target needs its pages";
  EXPECT_GT(seen.size(), 40u);
}

}  // namespace
}  // namespace godwit::migration
