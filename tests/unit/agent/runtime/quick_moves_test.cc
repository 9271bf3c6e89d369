// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/quick_moves.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

TEST(QuickMovesTest, WritesAllTheTimeUntilItGoes) {
  char path[] = "/tmp/godwit-procs-XXXXXX";
  const UniqueFd file(mkstemp(path));
  ASSERT_TRUE(file.ok());
  const auto written = [&] { return ReadFile(path).value_or("").size(); };
  {
    const QuickMoves moves(path);
    while (written() < 5) absl::SleepFor(absl::Milliseconds(1));
  }
  const size_t size = written();
  absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(written(), size);
  EXPECT_EQ(ReadFile(path)->find_first_not_of('0'), std::string::npos);
  unlink(path);
}

TEST(QuickMovesTest, IsOfNoHarmWhereItCannotWrite) {
  const QuickMoves missing("/nonexistent/cgroup.procs"), full("/dev/full");
}

}  // namespace
}  // namespace godwit::runtime
