// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/turns.h"

#include "gtest/gtest.h"

namespace godwit::controller {
namespace {

TEST(TurnsTest, OneForEachKeyAndSoManyInAll) {
  Turns turns(2);
  std::optional<Turns::Turn> first = turns.Take("n1");
  ASSERT_TRUE(first.has_value());
  EXPECT_FALSE(turns.Take("n1").has_value()) << "it is taken";
  const std::optional<Turns::Turn> second = turns.Take("n2");
  ASSERT_TRUE(second.has_value());
  EXPECT_FALSE(turns.Take("n3").has_value()) << "two is the most";
  first.reset();
  EXPECT_FALSE(turns.Take("n2").has_value());
  EXPECT_TRUE(turns.Take("n3").has_value());
  EXPECT_TRUE(turns.Take("n1").has_value()) << "the one before has ended at once";
}

TEST(TurnsTest, SeveralForAKeyLeaveTheOthersTheirs) {
  Turns turns(3, 2);
  std::optional<Turns::Turn> first = turns.Take("flood");
  const std::optional<Turns::Turn> second = turns.Take("flood");
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_FALSE(turns.Take("flood").has_value());
  const std::optional<Turns::Turn> other = turns.Take("other");
  EXPECT_TRUE(other.has_value());
  first.reset();
  EXPECT_TRUE(turns.Take("flood").has_value()) << "one has ended, the other goes on";
}

TEST(TurnsTest, ATurnThatWasHandedOnEndsOnce) {
  Turns turns(1);
  {
    std::optional<Turns::Turn> turn = turns.Take("n1");
    const Turns::Turn kept = std::move(*turn);
    turn.reset();
    EXPECT_FALSE(turns.Take("n1").has_value());
  }
  EXPECT_TRUE(turns.Take("n1").has_value());
}

}  // namespace
}  // namespace godwit::controller
