// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/source_hold.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/journal/journal.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::permits {
namespace {

using agent_api::SourceState;
using ::testing::HasSubstr;

constexpr char kPod[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

class SourceHoldTest : public ::testing::Test {
 protected:
  SourceHoldTest() {
    EXPECT_TRUE(RemoveTree(folder_).ok());
    EXPECT_TRUE(MakeFolders(folder_, 0700).ok());
  }

  // A hold whose journal says these, one after the other.
  void Hold(const std::vector<SourceState>& states) {
    auto journal = journal::SourceJournal::Open(journal_);
    ASSERT_TRUE(journal.ok()) << journal.status();
    for (const SourceState state : states) ASSERT_TRUE(journal->Append({.state = state}).ok());
    ASSERT_TRUE(WriteSourceHold(holds_, kPod, {"m", "node-b", journal_}).ok());
  }
  bool Held() const {
    const auto held = WhyHeld(holds_, kPod);
    EXPECT_TRUE(held.ok()) << held.status();
    return held.ok() && !held->empty();
  }

  const std::string folder_ = absl::StrCat(::testing::TempDir(), "/hold-",
                                           ::testing::UnitTest::GetInstance()->current_test_info()->name());
  const std::string holds_ = folder_ + "/sources";
  const std::string journal_ = folder_ + "/journal";
};

TEST_F(SourceHoldTest, NobodyIsHeldWhereNothingWasWritten) { EXPECT_FALSE(Held()); }

TEST_F(SourceHoldTest, TheJournalDecides) {
  using enum SourceState;
  Hold({kOpen});
  EXPECT_FALSE(Held());
  Hold({kFrozen});
  EXPECT_TRUE(Held());
  Hold({kCeded});
  EXPECT_THAT(*WhyHeld(holds_, kPod), HasSubstr("node-b"));
  Hold({kAborted});
  EXPECT_FALSE(Held()) << "it goes on here";
}

TEST_F(SourceHoldTest, WhatWasHandedOverStaysSo) {
  using enum SourceState;
  Hold({kOpen, kFrozen, kCeded, kDone});
  EXPECT_TRUE(Held());
}

TEST_F(SourceHoldTest, WhatCannotBeReadForbids) {
  using enum SourceState;
  Hold({kOpen});
  ASSERT_TRUE(WriteFileDurably(absl::StrCat(holds_, "/", kPod), "{", 0600).ok());
  EXPECT_FALSE(WhyHeld(holds_, kPod).ok());
  EXPECT_FALSE(WhyHeld(holds_, "../journal").ok());
}

TEST_F(SourceHoldTest, AForgottenMigrationHoldsNobody) {
  using enum SourceState;
  Hold({kOpen, kFrozen, kCeded});
  ASSERT_TRUE(RemoveTree(journal_).ok());
  EXPECT_FALSE(Held());
}

TEST_F(SourceHoldTest, ALaterMigrationDoesNotTakeItsPlaceBeforeItHasEnded) {
  using enum SourceState;
  Hold({kOpen, kFrozen, kCeded});
  const SourceHold later = {"later", "node-c", folder_ + "/later"};
  EXPECT_EQ(WriteSourceHold(holds_, kPod, later).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(WriteSourceHold(holds_, kPod, {"m", "node-b", journal_}).ok()) << "but its own guard's again";
  EXPECT_TRUE(Held());
  ASSERT_TRUE(RemoveTree(journal_).ok());
  EXPECT_TRUE(WriteSourceHold(holds_, kPod, later).ok());
}

TEST_F(SourceHoldTest, OnlyItsOwnMigrationRemovesIt) {
  using enum SourceState;
  Hold({kOpen, kFrozen, kCeded});
  ASSERT_TRUE(RemoveSourceHold(holds_, kPod, "an earlier one").ok());
  EXPECT_TRUE(Held());
  ASSERT_TRUE(RemoveSourceHold(holds_, kPod, "m").ok());
  EXPECT_FALSE(FileExists(absl::StrCat(holds_, "/", kPod)));
  EXPECT_TRUE(RemoveSourceHold(holds_, kPod, "m").ok());
}

}  // namespace
}  // namespace godwit::permits
