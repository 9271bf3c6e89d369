// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/turns.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace godwit::controller {
namespace {

const absl::Time kTime = absl::FromUnixSeconds(1'700'000'000);

TEST(TurnsTest, OneForEachKeyAndSoManyInAll) {
  Turns turns(2);
  std::optional<Turns::Turn> first = turns.Take("a", "n1", kTime);
  ASSERT_TRUE(first.has_value());
  EXPECT_FALSE(turns.Take("b", "n1", kTime).has_value()) << "it is taken";
  const std::optional<Turns::Turn> second = turns.Take("c", "n2", kTime);
  ASSERT_TRUE(second.has_value()) << "b cannot go anyway";
  EXPECT_FALSE(turns.Take("d", "n3", kTime).has_value()) << "two is the most";
  first.reset();
  EXPECT_FALSE(turns.Take("e", "n2", kTime).has_value());
  EXPECT_TRUE(turns.Take("b", "n1", kTime).has_value()) << "the one before has ended at once";
  EXPECT_TRUE(turns.Take("d", "n3", kTime).has_value());
}

TEST(TurnsTest, SeveralForAKeyLeaveTheOthersTheirs) {
  Turns turns(3, 2);
  std::optional<Turns::Turn> first = turns.Take("a", "flood", kTime);
  const std::optional<Turns::Turn> second = turns.Take("b", "flood", kTime);
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_FALSE(turns.Take("c", "flood", kTime).has_value());
  const std::optional<Turns::Turn> other = turns.Take("d", "other", kTime);
  EXPECT_TRUE(other.has_value());
  first.reset();
  EXPECT_TRUE(turns.Take("c", "flood", kTime).has_value()) << "one has ended, the other goes on";
}

TEST(TurnsTest, ATurnThatWasHandedOnEndsOnce) {
  Turns turns(1);
  {
    std::optional<Turns::Turn> turn = turns.Take("a", "n1", kTime);
    const Turns::Turn kept = std::move(*turn);
    turn.reset();
    EXPECT_FALSE(turns.Take("b", "n1", kTime).has_value());
  }
  EXPECT_TRUE(turns.Take("b", "n1", kTime).has_value());
}

TEST(TurnsTest, FirstComeFirstServed) {
  Turns turns(2, 2);
  std::optional<Turns::Turn> a = turns.Take("a", "n1", kTime);
  std::optional<Turns::Turn> b = turns.Take("b", "n2", kTime);
  for (const char* who : {"c", "d", "e"}) EXPECT_FALSE(turns.Take(who, who, kTime).has_value());
  a.reset();
  for (int i = 0; i < 5; ++i) {
    EXPECT_FALSE(turns.Take("d", "d", kTime).has_value()) << "that it asks more often does not help it";
  }
  b.reset();
  const std::optional<Turns::Turn> d = turns.Take("d", "d", kTime);
  EXPECT_TRUE(d.has_value()) << "of two free turns one is kept for c";
  EXPECT_FALSE(turns.Take("e", "e", kTime).has_value());
  EXPECT_TRUE(turns.Take("c", "c", kTime).has_value());
  EXPECT_TRUE(turns.Take("e", "e", kTime).has_value());
}

TEST(TurnsTest, AGroupThatHasItsTurnLetsOthersGoFirst) {
  Turns turns(3, 2);
  std::optional<Turns::Turn> first = turns.Take("flood-1", "flood", kTime);
  std::optional<Turns::Turn> second = turns.Take("flood-2", "flood", kTime);
  const std::optional<Turns::Turn> third = turns.Take("x", "other", kTime);
  for (int i = 3; i < 50; ++i)
    EXPECT_FALSE(turns.Take(absl::StrCat("flood-", i), "flood", kTime).has_value());
  EXPECT_FALSE(turns.Take("y", "late", kTime).has_value());
  first.reset();
  EXPECT_FALSE(turns.Take("flood-3", "flood", kTime).has_value()) << "its group has one still";
  const std::optional<Turns::Turn> late = turns.Take("y", "late", kTime);
  EXPECT_TRUE(late.has_value());
  second.reset();
  EXPECT_FALSE(turns.Take("flood-4", "flood", kTime).has_value()) << "each group has its order";
  EXPECT_TRUE(turns.Take("flood-3", "flood", kTime).has_value());
}

TEST(TurnsTest, WhoAsksNoMoreHoldsNobodyUp) {
  Turns turns(1);
  std::optional<Turns::Turn> turn = turns.Take("a", "n1", kTime);
  absl::Time now = kTime;
  EXPECT_FALSE(turns.Take("deleted", "n2", now).has_value());
  for (; now < kTime + 3 * kTurnPatience; now += absl::Seconds(1)) {
    EXPECT_FALSE(turns.Take("b", "n3", now).has_value());
    EXPECT_FALSE(turns.Take("c", "n4", now).has_value());
  }
  turn.reset();
  EXPECT_FALSE(turns.Take("deleted", "n2", now).has_value()) << "it has lost its place";
  EXPECT_FALSE(turns.Take("c", "n4", now).has_value()) << "b has kept its, for it has asked again and again";
  now += kTurnPatience;
  EXPECT_TRUE(turns.Take("c", "n4", now).has_value()) << "b has gone";
}

}  // namespace
}  // namespace godwit::controller
