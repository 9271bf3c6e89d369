// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/weight.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

class WeightTest : public testing::Test {
 protected:
  WeightTest() : proc_(absl::StrCat(testing::TempDir(), "/weight-", getpid())) {}
  ~WeightTest() override { std::filesystem::remove_all(proc_); }
  void AddProcess(int pid, int threads, int descriptors, const std::string& maps) {
    const std::string folder = absl::StrCat(proc_, "/", pid);
    for (int i = 0; i < threads; ++i)
      std::filesystem::create_directories(absl::StrCat(folder, "/task/", pid + i));
    std::filesystem::create_directories(folder + "/fd");
    for (int i = 0; i < descriptors; ++i)
      std::filesystem::create_symlink("/dev/null", absl::StrCat(folder, "/fd/", i));
    std::ofstream(folder + "/maps") << maps;
  }
  const std::string proc_;
};

TEST_F(WeightTest, AddsUpWhatProcessesHave) {
  AddProcess(7, 3, 5, "1-2 r--p 0 00:00 0\n2-3 r--p 0 00:00 0 /name\\012of two lines\n");
  AddProcess(20, 1, 0, "1-2 r--p 0 00:00 0\n");
  EXPECT_EQ(Weigh(proc_, {7, 20}), (agent_api::Weight{2, 4, 5, 3}));
}

TEST_F(WeightTest, AProcessThatHasEndedWeighsNothing) {
  AddProcess(7, 1, 1, "");
  EXPECT_EQ(Weigh(proc_, {7, 8}), (agent_api::Weight{1, 1, 1, 0}));
  EXPECT_EQ(WeighCgroup(proc_, proc_ + "/none"), agent_api::Weight{});
}

TEST_F(WeightTest, ThisProcessHasSomeOfEach) {
  const agent_api::Weight weight = Weigh("/proc", {getpid()});
  EXPECT_EQ(weight.processes, 1);
  EXPECT_GE(weight.threads, 1);
  EXPECT_GE(weight.descriptors, 3);
  EXPECT_GT(weight.mappings, 10);
}

// Of this very process: only the kernel tells of files without a name.
TEST(HeldBytesTest, DeletedFilesAndMemfdsCountOnce) {
  const std::string path = absl::StrCat(testing::TempDir(), "/held-", getpid());
  const int file = open(path.c_str(), O_RDWR | O_CREAT, 0600);
  const int again = open(path.c_str(), O_RDONLY), memory = memfd_create("frames", 0);
  const std::string content(1 << 20, 'x');
  ASSERT_EQ(write(file, content.data(), content.size()), static_cast<ssize_t>(content.size()));
  ASSERT_EQ(fsync(file), 0);
  ASSERT_EQ(write(memory, content.data(), 65536), 65536);
  const Held named = HeldBytes("/proc", {getpid()});
  unlink(path.c_str());
  const Held held = HeldBytes("/proc", {getpid(), 1 << 30});
  EXPECT_GE(held.deleted - named.deleted, 1 << 20);
  EXPECT_LT(held.deleted - named.deleted, 2 << 20) << "two descriptors of one file";
  EXPECT_EQ(held.memfds, 65536);
  for (const int fd : {file, again, memory}) close(fd);
}

}  // namespace
}  // namespace godwit::runtime
