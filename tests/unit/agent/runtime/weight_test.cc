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
  void SetStatus(int pid, const std::string& name, int anonymous, int shmem, int swap) {
    std::ofstream(absl::StrCat(proc_, "/", pid, "/status"))
        << "Name:\t" << name << "\nVmRSS:\t  999999 kB\nRssAnon:\t    " << anonymous
        << " kB\nRssFile:\t  5000 kB\nRssShmem:\t      " << shmem << " kB\nVmSwap:\t  " << swap << " kB\n";
  }
  // What a mapping is of, with so much content.
  void SetMapped(int pid, const std::string& range, size_t bytes) {
    const std::string folder = absl::StrCat(proc_, "/", pid, "/map_files");
    std::filesystem::create_directories(folder);
    const int file = open(absl::StrCat(folder, "/", range).c_str(), O_WRONLY | O_CREAT, 0600);
    const std::string content(bytes, 'x');
    EXPECT_EQ(write(file, content.data(), content.size()), static_cast<ssize_t>(content.size()));
    EXPECT_EQ(fsync(file), 0);
    close(file);
  }
  const std::string proc_;
};

TEST_F(WeightTest, PrivateContentsAreWhatIsThereAndNotWhatIsMapped) {
  AddProcess(7, 1, 0, "10000000-210000000 ---p 00000000 00:00 0\n");  // 8 GiB, reserved
  AddProcess(20, 1, 0, "");
  SetStatus(7, "java", 1000, 0, 24);
  SetStatus(20, "sh\x1b", 10, 0, 0);
  const Contents contents = ContentsOf(proc_, {7, 8, 20});
  ASSERT_EQ(contents.processes.size(), 2u) << "process 8 has ended";
  EXPECT_EQ(contents.processes.at(7).bytes, 1024 * 1024);
  EXPECT_EQ(contents.processes.at(20).bytes, 10 * 1024);
  EXPECT_EQ(contents.processes.at(20).command, "sh?");
  EXPECT_EQ(contents.files, 0);
  EXPECT_TRUE(contents.anonymous.empty());
  EXPECT_EQ(PrivateBytes(proc_, {7, 8}).at(7).bytes, 1024 * 1024);
  EXPECT_EQ(PrivateBytes(proc_, {7, 8}).size(), 1u);
}

TEST_F(WeightTest, SharedContentsCountOnceHoweverManyProcessesMapThem) {
  const std::string memfd = "00800000-40000000 rw-s 00000000 00:01 11       /memfd:heap (deleted)\n";
  AddProcess(7, 1, 0,
             memfd +
                 "7f0000000000-7f0000100000 rw-s 00000000 00:01 4302   /dev/zero (deleted)\n"
                 "7f0000100000-7f0000200000 r--s 00000000 fd:01 99     /usr/lib/cache\n"
                 "7f0000200000-7f0000300000 rw-p 00000000 00:01 12     /memfd:private (deleted)\n");
  AddProcess(20, 1, 0, memfd);
  SetStatus(7, "app", 0, 192, 0);
  SetStatus(20, "app", 0, 128, 0);
  SetMapped(7, "800000-40000000", 128 << 10);
  SetMapped(7, "7f0000000000-7f0000100000", 64 << 10);
  const Contents contents = ContentsOf(proc_, {7, 20});
  EXPECT_GE(contents.files, 128 << 10);
  EXPECT_LT(contents.files, 192 << 10);
  ASSERT_TRUE(contents.anonymous.contains(4302));
  EXPECT_EQ(contents.anonymous.size(), 1u);
  EXPECT_GE(contents.anonymous.at(4302), 64 << 10);
  EXPECT_LT(contents.anonymous.at(4302), 128 << 10);
}

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
  EXPECT_GE(ContentsOf("/proc", {getpid()}).files, held.deleted + held.memfds);
  EXPECT_GE(held.deleted - named.deleted, 1 << 20);
  EXPECT_LT(held.deleted - named.deleted, 2 << 20) << "two descriptors of one file";
  EXPECT_EQ(held.memfds, 65536);
  for (const int fd : {file, again, memory}) close(fd);
}

}  // namespace
}  // namespace godwit::runtime
