// SPDX-License-Identifier: Apache-2.0
// The watcher with ordinary processes in place of runc and CRIU. Every process writes its pid to a file, so
// that the test can tell whether it lives.
#include "runtime/godwit_runtime/watcher.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace godwit::godwit_runtime {
namespace {

class WatcherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(::testing::TempDir(), "/watcher-XXXXXX");
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
  }
  // A shell in place of `runc restore`; $0 is the folder. The cgroup does not exist: only processes are
  // looked after.
  Watcher::Task Task(const std::string& script) {
    return {.argv = {"/bin/sh", "-c", script, folder_},
            .env = {"PATH=/usr/bin:/bin"},
            .delete_argv = {"/bin/sh", "-c", "touch \"$0/deleted\"", folder_},
            .cgroup_root = folder_,
            .cgroup = "/no/cgroup"};
  }
  template <class Condition>
  static bool Soon(Condition condition) {
    for (const absl::Time deadline = absl::Now() + absl::Seconds(20); absl::Now() < deadline;) {
      if (condition()) return true;
      poll(nullptr, 0, 2);
    }
    return false;
  }
  // The pid in a file that a process has written.
  pid_t Pid(const std::string& name) {
    int pid = 0;
    EXPECT_TRUE(Soon([&] {
      auto text = ReadFile(absl::StrCat(folder_, "/", name));
      return text.ok() && absl::EndsWith(*text, "\n") && absl::SimpleAtoi(*text, &pid);
    })) << name;
    return pid;
  }
  static bool Lives(pid_t pid) {
    auto status = ReadFile(absl::StrCat("/proc/", pid, "/status"));
    return status.ok() && !absl::StrContains(*status, "State:\tZ");
  }
  bool Deleted() const { return FileExists(folder_ + "/deleted"); }

  std::string folder_;
};

// Leaves a daemon behind, as `runc restore --detach` leaves the container's init.
constexpr char kRestores[] = "sleep 600 & echo $! >$0/init; exit 0";
constexpr char kHangs[] = "(setsid sleep 600 & echo $! >$0/criu; wait) & echo $$ >$0/runc; wait";

TEST_F(WatcherTest, WhatWasReleasedLivesOnBelowTheSubreaper) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  auto watcher = Watcher::Start(Task(kRestores));
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  EXPECT_TRUE(watcher->Ended().ok());
  const pid_t init = Pid("init");
  auto status = ReadFile(absl::StrCat("/proc/", init, "/status"));
  ASSERT_TRUE(status.ok());
  EXPECT_TRUE(absl::StrContains(*status, absl::StrCat("PPid:\t", watcher->pid(), "\n")));
  EXPECT_TRUE(watcher->Release().ok());
  EXPECT_TRUE(Lives(init));
  status = ReadFile(absl::StrCat("/proc/", init, "/status"));
  EXPECT_TRUE(absl::StrContains(*status, absl::StrCat("PPid:\t", getpid(), "\n")));
  EXPECT_FALSE(Deleted());
  kill(init, SIGKILL);
  EXPECT_EQ(waitpid(init, nullptr, 0), init);
}

TEST_F(WatcherTest, DestroyAfterTheRestoreLeavesNothing) {
  auto watcher = Watcher::Start(Task(kRestores));
  ASSERT_TRUE(watcher.ok());
  EXPECT_TRUE(watcher->Ended().ok());
  const pid_t init = Pid("init");
  EXPECT_TRUE(watcher->Destroy().ok());
  EXPECT_FALSE(Lives(init));
  EXPECT_TRUE(Deleted());
}

TEST_F(WatcherTest, DestroyDuringTheRestoreKillsAllBelowIt) {
  auto watcher = Watcher::Start(Task(kHangs));
  ASSERT_TRUE(watcher.ok());
  const pid_t runc = Pid("runc");
  const pid_t criu = Pid("criu");
  EXPECT_TRUE(watcher->Destroy().ok());
  EXPECT_FALSE(Lives(runc));
  EXPECT_FALSE(Lives(criu));
  EXPECT_TRUE(Deleted());
}

TEST_F(WatcherTest, AFailureOfTheRestoreIsTold) {
  auto watcher = Watcher::Start(Task("exit 3"));
  ASSERT_TRUE(watcher.ok());
  EXPECT_FALSE(watcher->Ended().ok());
  EXPECT_TRUE(watcher->Destroy().ok());
}

TEST_F(WatcherTest, AProgramThatIsNotThereIsAFailure) {
  Watcher::Task task = Task("");
  task.argv = {"/no/such/runc"};
  auto watcher = Watcher::Start(task);
  ASSERT_TRUE(watcher.ok());
  EXPECT_FALSE(watcher->Ended().ok());
}

// What the shim does at kubelet's deadline, in both stages.
TEST_F(WatcherTest, WhenGodwitRuntimeIsKilledNothingOfTheRestoreStaysAndItsConnectionsClose) {
  for (const char* script : {kHangs, kRestores}) {
    SCOPED_TRACE(script);
    RemoveTree(folder_ + "/deleted").IgnoreError();
    int connection[2];
    ASSERT_EQ(pipe2(connection, O_CLOEXEC), 0);
    const bool hangs = script == kHangs;
    const pid_t runtime = fork();
    if (runtime == 0) {
      close(connection[0]);
      auto watcher = Watcher::Start(Task(script));
      if (!watcher.ok()) _exit(1);
      pause();
      _exit(0);
    }
    close(connection[1]);
    const pid_t left = Pid(hangs ? "criu" : "init");
    ASSERT_TRUE(Lives(left));
    ASSERT_EQ(kill(runtime, SIGKILL), 0);
    ASSERT_EQ(waitpid(runtime, nullptr, 0), runtime);
    char byte = 0;
    pollfd source = {connection[0], POLLIN, 0};
    ASSERT_EQ(poll(&source, 1, 20'000), 1) << "the watcher does not end";
    EXPECT_EQ(read(connection[0], &byte, 1), 0);
    EXPECT_FALSE(Lives(left)) << "the connection closed before all was gone";
    EXPECT_TRUE(Deleted());
    close(connection[0]);
  }
}

}  // namespace
}  // namespace godwit::godwit_runtime
