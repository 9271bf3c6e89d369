// SPDX-License-Identifier: Apache-2.0
#include "base/nice.h"

#include <sys/resource.h>

#include <thread>

#include "gtest/gtest.h"

namespace godwit {
namespace {

int Nice() { return getpriority(PRIO_PROCESS, 0); }

// Whether a thread of this process may take back what it gave.
bool MayReturn() {
  bool may = false;
  std::thread([&may] {
    const int before = Nice();
    may = setpriority(PRIO_PROCESS, 0, before - 1) == 0 && setpriority(PRIO_PROCESS, 0, before) == 0;
  }).join();
  return may;
}

TEST(ScopedNiceTest, GivesWayOfOneThreadForAWhile) {
  if (!MayReturn()) GTEST_SKIP() << "needs CAP_SYS_NICE";
  const int before = Nice();
  std::thread([before] {
    {
      const ScopedNice nice;
      EXPECT_GT(Nice(), before);
      int of_another = before;
      std::thread([&of_another] { of_another = Nice(); }).join();
      EXPECT_GT(of_another, before) << "what it starts gives way as it does";
    }
    EXPECT_EQ(Nice(), before);
    const ScopedNice nice;
    EXPECT_GT(Nice(), before);
  }).join();
  EXPECT_EQ(Nice(), before);
}

TEST(ScopedNiceTest, NestedOnesComeBackStepByStep) {
  if (!MayReturn()) GTEST_SKIP() << "needs CAP_SYS_NICE";
  const int before = Nice();
  {
    const ScopedNice outer;
    const int lower = Nice();
    {
      const ScopedNice inner;
    }
    EXPECT_EQ(Nice(), lower);
  }
  EXPECT_EQ(Nice(), before);
}

}  // namespace
}  // namespace godwit
