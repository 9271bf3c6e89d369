// SPDX-License-Identifier: Apache-2.0
// The freezer against folders that look like cgroups. A kernel stands in: a thread that answers cgroup.freeze
// with events.
#include "agent/runtime/freezer.h"

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

using ::testing::HasSubstr;

// Cgroups whose events follow what is written to them; a stuck one never freezes.
class FakeKernel {
 public:
  explicit FakeKernel(std::string root) : root_(std::move(root)), thread_([this] { Run(); }) {}
  ~FakeKernel() {
    stop_ = true;
    thread_.join();
    std::filesystem::remove_all(root_);
  }
  std::string Add(const std::string& name) {
    const std::string folder = absl::StrCat(root_, "/", name);
    std::filesystem::create_directories(folder);
    for (const char* file : {"/cgroup.freeze", "/cgroup.kill", "/cgroup.procs"})
      std::ofstream(folder + file) << "0\n";
    Replace(folder + "/cgroup.events", "populated 1\nfrozen 0\n");
    return folder;
  }
  static std::string Freeze(const std::string& folder) {
    return std::string(absl::StripAsciiWhitespace(*ReadFile(folder + "/cgroup.freeze")));
  }
  std::atomic<bool> stuck = false;

 private:
  static void Replace(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
  void Run() {
    while (!stop_) {
      std::error_code error;
      for (const auto& entry : std::filesystem::directory_iterator(root_, error)) {
        const std::string folder = entry.path();
        const absl::StatusOr<std::string> freeze = ReadFile(folder + "/cgroup.freeze"),
                                          kill = ReadFile(folder + "/cgroup.kill");
        if (!freeze.ok() || !kill.ok()) continue;
        const bool frozen = (*freeze)[0] == '1' && !stuck, dead = (*kill)[0] == '1';
        Replace(folder + "/cgroup.events",
                absl::StrCat("populated ", dead ? 0 : 1, "\nfrozen ", frozen ? 1 : 0, "\n"));
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  std::string root_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

std::string Folder() {
  const std::string folder =
      absl::StrCat(testing::TempDir(), "/freezer-",
                   testing::UnitTest::GetInstance()->current_test_info()->name(), getpid());
  std::filesystem::create_directories(folder);
  return folder;
}

TEST(Freezer, ThawsWhenTheGuardGoes) {
  FakeKernel kernel(Folder());
  const std::string a = kernel.Add("a"), b = kernel.Add("b");
  {
    const auto frozen = FreezeCgroups({a, b}, absl::Seconds(5));
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    EXPECT_EQ(FakeKernel::Freeze(a), "1");
    EXPECT_EQ(FakeKernel::Freeze(b), "1");
  }
  EXPECT_EQ(FakeKernel::Freeze(a), "0");
  EXPECT_EQ(FakeKernel::Freeze(b), "0");
}

TEST(Freezer, StaysFrozenWhenReleasedAndCanBeTakenOver) {
  FakeKernel kernel(Folder());
  const std::string a = kernel.Add("a");
  {
    auto frozen = FreezeCgroups({a}, absl::Seconds(5));
    ASSERT_TRUE(frozen.ok());
    frozen->Release();
  }
  EXPECT_EQ(FakeKernel::Freeze(a), "1");
  EXPECT_TRUE(WaitFrozen({a}, absl::Seconds(5)).ok());
  EXPECT_TRUE(AdoptFrozen({a}).Thaw().ok());
  EXPECT_EQ(FakeKernel::Freeze(a), "0");
}

TEST(Freezer, AllAreThawedWhenOneDoesNotStandStill) {
  FakeKernel kernel(Folder());
  kernel.stuck = true;
  const std::string a = kernel.Add("a"), b = kernel.Add("b");
  const auto frozen = FreezeCgroups({a, b}, absl::Milliseconds(100));
  EXPECT_TRUE(absl::IsDeadlineExceeded(frozen.status())) << frozen.status();
  EXPECT_THAT(std::string(frozen.status().message()), HasSubstr(a));
  EXPECT_EQ(FakeKernel::Freeze(a), "0");
  EXPECT_EQ(FakeKernel::Freeze(b), "0");
}

TEST(Freezer, AllAreThawedWhenOneIsGone) {
  FakeKernel kernel(Folder());
  const std::string a = kernel.Add("a");
  const auto frozen = FreezeCgroups({a, a + "/gone"}, absl::Seconds(1));
  EXPECT_TRUE(absl::IsNotFound(frozen.status())) << frozen.status();
  EXPECT_EQ(FakeKernel::Freeze(a), "0");
}

TEST(Freezer, ACgroupThatIsGoneNeedsNoThawing) {
  EXPECT_TRUE(AdoptFrozen({"/nonexistent/cgroup"}).Thaw().ok());
}

TEST(Freezer, KillsAndWaitsUntilNothingIsLeft) {
  FakeKernel kernel(Folder());
  const std::string a = kernel.Add("a");
  EXPECT_TRUE(KillCgroup(a, absl::Seconds(5)).ok());
  EXPECT_TRUE(KillCgroup(a + "/gone", absl::Seconds(5)).ok());
}

// As when CRIU lets go of what it has restored: told to be frozen, and counted as running until each task has
// come to its place.
TEST(FreezerTest, WhatATracerLetsGoOfIsWaitedFor) {
  FakeKernel kernel(absl::StrCat(::testing::TempDir(), "/let-go-", getpid()));
  kernel.stuck = true;
  const std::string folder = kernel.Add("a");
  std::ofstream(folder + "/cgroup.freeze") << "1\n";
  std::thread later([&] {
    absl::SleepFor(absl::Milliseconds(30));
    kernel.stuck = false;
  });
  EXPECT_TRUE(CheckStandsStill(folder).ok());
  later.join();
  std::ofstream(folder + "/cgroup.freeze") << "0\n";
  EXPECT_THAT(CheckStandsStill(folder).message(), HasSubstr("is not frozen any more"));
}

}  // namespace
}  // namespace godwit::runtime
