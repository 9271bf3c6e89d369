// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/pinned.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PinnedTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(MakeFolders(folder_ + "/fd").ok());
    ASSERT_TRUE(MakeFolders(folder_ + "/fdinfo").ok());
    ASSERT_TRUE(WriteFileDurably(folder_ + "/status", "Name:\tpostgres\nVmSize:\t1 kB\n").ok());
    ASSERT_TRUE(WriteFileDurably(folder_ + "/maps", "").ok());
  }
  void TearDown() override { ASSERT_TRUE(RemoveTree(proc_).ok()); }

  void AddDescriptor(const std::string& target, int flags) {
    const std::string fd = absl::StrCat(next_++);
    ASSERT_EQ(symlink(target.c_str(), absl::StrCat(folder_, "/fd/", fd).c_str()), 0);
    char text[64];
    snprintf(text, sizeof(text), "pos:\t0\nflags:\t0%o\nmnt_id:\t15\n", static_cast<unsigned>(flags));
    ASSERT_TRUE(WriteFileDurably(absl::StrCat(folder_, "/fdinfo/", fd), text).ok());
  }
  std::vector<std::string> Found() const {
    std::vector<std::string> found;
    for (const Pinned& pinned : FindPinnedOf(proc_, 12)) found.push_back(pinned.what);
    return found;
  }

  const std::string proc_ = absl::StrCat(testing::TempDir(), "/pinned-", getpid());
  const std::string folder_ = proc_ + "/12";
  int next_ = 0;
};

TEST_F(PinnedTest, AnOrdinaryProcessHasNone) {
  AddDescriptor("/dev/null", O_RDWR);
  AddDescriptor("/data/file", O_RDWR | O_CLOEXEC);
  AddDescriptor("socket:[4711]", O_RDWR);
  AddDescriptor("anon_inode:[eventpoll]", O_RDWR);
  EXPECT_THAT(Found(), IsEmpty());
}

TEST_F(PinnedTest, FilesOpenWithODirectAreCounted) {
  for (int i = 0; i < 3; ++i) AddDescriptor("/data/base", O_RDWR | O_DIRECT);
  EXPECT_THAT(Found(), ElementsAre("process 12 (postgres) has 3 files open with O_DIRECT"));
}

TEST_F(PinnedTest, APipeOfPacketsIsNoDirectInput) {
  AddDescriptor("pipe:[99]", O_WRONLY | O_DIRECT);
  EXPECT_THAT(Found(), IsEmpty());
}

TEST_F(PinnedTest, EachKindIsNamed) {
  AddDescriptor("/data/base", O_RDONLY | O_DIRECT);
  AddDescriptor("anon_inode:[io_uring]", O_RDWR);
  AddDescriptor("/dev/infiniband/uverbs0", O_RDWR);
  AddDescriptor("/dev/vfio/12", O_RDWR);
  ASSERT_TRUE(WriteFileDurably(folder_ + "/maps",
                               "7f0000000000-7f0000003000 rw-s 00000000 00:10 5    /[aio] (deleted)\n")
                  .ok());
  EXPECT_THAT(Found(), ElementsAre("process 12 (postgres) has a file open with O_DIRECT",
                                   "process 12 (postgres) uses io_uring",
                                   "process 12 (postgres) has an RDMA device open",
                                   "process 12 (postgres) has a VFIO device open",
                                   "process 12 (postgres) uses asynchronous I/O (io_setup)"));
}

TEST_F(PinnedTest, NothingIsFoundOfAProcessThatIsGone) { EXPECT_THAT(FindPinnedOf(proc_, 13), IsEmpty()); }

}  // namespace
}  // namespace godwit::memory
