// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/quick_breakpoints.h"

#include <fcntl.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

TEST(QuickBreakpointsTest, HoldsAnEventWhileItLives) {
  const int next = open("/dev/null", O_RDONLY | O_CLOEXEC);  // the number that a new descriptor gets
  close(next);
  {
    const QuickBreakpoints breakpoints;
    if (!breakpoints.held()) GTEST_SKIP() << "the kernel lets this user have no performance event";
    EXPECT_EQ(fcntl(next, F_GETFD), FD_CLOEXEC);
  }
  EXPECT_EQ(fcntl(next, F_GETFD), -1);
}

}  // namespace
}  // namespace godwit::runtime
