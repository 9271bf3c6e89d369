// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/gate.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::criu {
namespace {

using ::testing::HasSubstr;

class GateTest : public testing::Test {
 protected:
  GateTest() : path_(absl::StrCat(testing::TempDir(), "/gate-", getpid())) {
    signal(SIGPIPE, SIG_IGN);
    EXPECT_TRUE(MakeGate(path_).ok());
  }
  ~GateTest() override { unlink(path_.c_str()); }
  UniqueFd Come() const { return UniqueFd(open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)); }

  std::string path_;
  char word_ = 0;
};

TEST_F(GateTest, WhoWaitsGetsAByte) {
  const UniqueFd waiting = Come();
  ASSERT_TRUE(OpenGate(path_, absl::Seconds(5)).ok());
  EXPECT_EQ(read(waiting.get(), &word_, 1), 1);
}

TEST_F(GateTest, AGateThatIsLeftUnopenedIsARefusal) {
  const UniqueFd waiting = Come();
  {
    ASSERT_TRUE(ReachGate(path_, absl::ZeroDuration()).ok());
  }
  EXPECT_EQ(read(waiting.get(), &word_, 1), 0);
}

TEST_F(GateTest, SomebodyWhoComesLaterIsWaitedFor) {
  absl::Status opened;
  std::thread opener([&] { opened = OpenGate(path_, absl::Seconds(20)); });
  const UniqueFd waiting(open(path_.c_str(), O_RDONLY | O_CLOEXEC));  // returns when the opener is there
  EXPECT_EQ(read(waiting.get(), &word_, 1), 1);
  opener.join();
  EXPECT_TRUE(opened.ok()) << opened;
}

TEST_F(GateTest, NobodyComes) {
  const absl::Status late = OpenGate(path_, absl::Milliseconds(1));
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr(path_));
}

TEST_F(GateTest, WhoHasGoneMeanwhileIsNoticed) {
  absl::StatusOr<UniqueFd> gate;
  {
    const UniqueFd waiting = Come();
    gate = ReachGate(path_, absl::ZeroDuration());
    ASSERT_TRUE(gate.ok()) << gate.status();
  }
  EXPECT_EQ(OpenGate(*gate).code(), absl::StatusCode::kUnavailable);
}

TEST_F(GateTest, AMissingGateIsNamedAtOnce) {
  unlink(path_.c_str());
  EXPECT_EQ(ReachGate(path_, absl::Seconds(60)).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GateTest, MakingItReplacesWhatIsThere) {
  unlink(path_.c_str());
  std::ofstream(path_) << "x";
  ASSERT_TRUE(MakeGate(path_).ok());
  struct stat status{};
  ASSERT_EQ(lstat(path_.c_str(), &status), 0);
  EXPECT_TRUE(S_ISFIFO(status.st_mode));
}

}  // namespace
}  // namespace godwit::criu
