// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/copy_on_write.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

class CopyOnWriteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/godwit-cow-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  void Write(const std::string& name, const std::string& text) {
    const std::string path = absl::StrCat(folder_, "/", name);
    ASSERT_TRUE(MakeFolders(path.substr(0, path.rfind('/'))).ok());
    ASSERT_TRUE(WriteFileDurably(path, text).ok());
  }
  // A process that maps `anonymous` KiB, its share of which is `share`.
  void Process(pid_t pid, int anonymous, int share) {
    Write(absl::StrCat("proc/", pid, "/smaps_rollup"),
          absl::StrCat("5578 ---p 00000000 00:00 0 [rollup]\nRss: 999999 kB\nPss: 500000 kB\nPss_Anon: ",
                       share, " kB\nAnonymous: ", anonymous, " kB\n"));
  }
  void Cgroup(const std::string& pids, const std::string& limit, int64_t anon, int64_t shmem) {
    Write("cgroup/cgroup.procs", pids);
    Write("cgroup/memory.max", limit);
    Write("cgroup/memory.stat", absl::StrCat("anon ", anon, "\nfile 77777777777\nshmem ", shmem, "\n"));
  }
  absl::Status Fits() const { return FitsUnshared(folder_ + "/proc", folder_ + "/cgroup"); }
  std::string folder_;
};

TEST_F(CopyOnWriteTest, WhatForkedProcessesShareMustFitTheLimitAsOftenAsTheyMapIt) {
  // 300 MiB, mapped by three.
  for (const pid_t pid : {10, 11, 12}) Process(pid, 300 << 10, 100 << 10);
  Cgroup("10\n11\n12\n", absl::StrCat(1000 * kMiB, "\n"), 300 * kMiB, 50 * kMiB);
  EXPECT_EQ(SharedByFork(folder_ + "/proc", {10, 11, 12}), 600 * kMiB);
  EXPECT_EQ(Fits(), absl::OkStatus());
  Cgroup("10\n11\n12\n", absl::StrCat(900 * kMiB, "\n"), 300 * kMiB, 50 * kMiB);
  EXPECT_TRUE(absl::IsFailedPrecondition(Fits()));
  EXPECT_THAT(std::string(Fits().message()),
              AllOf(HasSubstr("share 600 MiB"), HasSubstr("950 MiB"), HasSubstr("limit of 900 MiB")));
}

TEST_F(CopyOnWriteTest, WithoutALimitOrWithOneProcessNothingIsInTheWay) {
  Process(10, 300 << 10, 1);
  Process(11, 300 << 10, 1);
  EXPECT_EQ(Fits(), absl::OkStatus()) << "no memory controller";
  Cgroup("10\n11\n", "max\n", 300 * kMiB, 0);
  EXPECT_EQ(Fits(), absl::OkStatus());
  Cgroup("10\n", absl::StrCat(kMiB, "\n"), 300 * kMiB, 0);
  EXPECT_EQ(Fits(), absl::OkStatus()) << "it shares with nobody in there";
  Cgroup("10\n99\n", absl::StrCat(600 * kMiB, "\n"), 300 * kMiB, 0);
  EXPECT_EQ(Fits(), absl::OkStatus()) << "one has ended";
}

TEST_F(CopyOnWriteTest, AForkOfThisProcessSharesWhatItHasNotWritten) {
  const size_t size = 64 * kMiB;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  memset(memory, 1, size);
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  const int64_t shared = SharedByFork("/proc", {getpid(), child});
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  munmap(memory, size);
  EXPECT_GE(shared, static_cast<int64_t>(size));
}

}  // namespace
}  // namespace godwit::memory
