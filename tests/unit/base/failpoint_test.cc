// SPDX-License-Identifier: Apache-2.0
#include "base/failpoint.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"

namespace godwit::failpoint {
namespace {

class FailpointTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(MakeFolders(absl::StrCat(folder_, "/uid"), 0700).ok()); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Order(const std::string& point, const std::string& what) {
    ASSERT_TRUE(WriteFileDurably(absl::StrCat(folder_, "/uid/", point), what).ok());
  }
  bool There(const std::string& point) const { return FileExists(absl::StrCat(folder_, "/uid/", point)); }

  const std::string folder_ = absl::StrCat(testing::TempDir(), "failpoint-", getpid());
};

TEST_F(FailpointTest, NothingHappensWhereNothingIsOrdered) {
  Reach("source.ceding", "uid", folder_);
  Reach("source.ceding", "another", folder_);
  EXPECT_FALSE(Corrupts("source.ceding", "uid", folder_));
  EXPECT_FALSE(Mutated("thaws-before-running", folder_));
}

TEST_F(FailpointTest, AProcessWaitsUntilTheTestLetsItGoOn) {
  Order("source.ceding", "wait");
  std::atomic<bool> went_on = false;
  std::thread process([&] {
    Reach("source.ceding", "uid", folder_);
    went_on = true;
  });
  while (!There("source.ceding.reached")) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(There("source.ceding"));
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_FALSE(went_on);
  std::filesystem::remove(absl::StrCat(folder_, "/uid/source.ceding.reached"));
  process.join();
  EXPECT_TRUE(went_on);
}

TEST_F(FailpointTest, AnOrderHoldsOnce) {
  Order("stream.pages", "corrupt");
  EXPECT_TRUE(Corrupts("stream.pages", "uid", folder_));
  EXPECT_FALSE(Corrupts("stream.pages", "uid", folder_));
}

TEST_F(FailpointTest, AProcessDiesAsByKill) {
  Order("guard.frozen", "die\n");
  const pid_t pid = fork();
  if (pid == 0) {
    Reach("guard.frozen", "uid", folder_);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST_F(FailpointTest, APointIsNamedAsItsStageIs) {
  EXPECT_EQ(FileName("source.waiting for the source's end"), "source.waiting-for-the-sources-end");
  EXPECT_EQ(FileName("source.../../thawing, because"), "source.....thawing-because");
}

TEST_F(FailpointTest, OneDeliberateErrorIsSwitchedOn) {
  ASSERT_TRUE(WriteFileDurably(absl::StrCat(folder_, "/mutation"), "thaws-before-running\n").ok());
  EXPECT_TRUE(Mutated("thaws-before-running", folder_));
  EXPECT_FALSE(Mutated("runs-without-commit", folder_));
}

// Their arguments are not even evaluated where the option is off.
TEST_F(FailpointTest, TheMacrosAreNothingInOrdinaryBuilds) {
#ifndef GODWIT_CHAOS
  [[maybe_unused]] int evaluated = 0;
  GODWIT_FAILPOINT(absl::StrCat(++evaluated), "uid");
  EXPECT_FALSE(GODWIT_CORRUPTS(absl::StrCat(++evaluated), "uid"));
  EXPECT_FALSE(GODWIT_MUTATED(absl::StrCat(++evaluated)));
  EXPECT_EQ(evaluated, 0);
#endif
}

}  // namespace
}  // namespace godwit::failpoint
