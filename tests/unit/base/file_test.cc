// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/godwit-file-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  std::string Path(absl::string_view name) const { return absl::StrCat(folder_, "/", name); }

  std::string folder_;
};

TEST_F(FileTest, DescriptorIsClosedOnceAndMovesAlong) {
  auto opened = OpenFile("/dev/null", O_RDONLY);
  ASSERT_TRUE(opened.ok());
  UniqueFd first = *std::move(opened);
  const int raw = first.get();
  UniqueFd second = std::move(first);
  EXPECT_FALSE(first.ok());
  EXPECT_EQ(second.get(), raw);
  EXPECT_EQ(fcntl(raw, F_GETFD), FD_CLOEXEC);
  second.Reset();
  EXPECT_EQ(fcntl(raw, F_GETFD), -1);
}

TEST_F(FileTest, WrittenFileReadsBackWithItsModeAndNothingElseIsLeft) {
  ASSERT_TRUE(WriteFileDurably(Path("state"), "old", 0600).ok());
  ASSERT_TRUE(WriteFileDurably(Path("state"), "new", 0644).ok());
  EXPECT_EQ(*ReadFile(Path("state")), "new");
  struct stat info;
  ASSERT_EQ(stat(Path("state").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0644u);
  EXPECT_THAT(*ListFolder(folder_), ElementsAre("state"));
}

TEST_F(FileTest, FailedWriteLeavesTheFolderAsItWas) {
  ASSERT_EQ(mkdir(Path("taken").c_str(), 0700), 0);
  EXPECT_FALSE(WriteFileDurably(Path("taken"), "x").ok());
  EXPECT_THAT(*ListFolder(folder_), ElementsAre("taken"));
}

TEST_F(FileTest, ReadRefusesMoreThanItsLimit) {
  ASSERT_TRUE(WriteFileDurably(Path("big"), std::string(100'000, 'x')).ok());
  EXPECT_EQ(ReadFile(Path("big"), 100'000)->size(), 100'000u);
  const absl::Status status = ReadFile(Path("big"), 99'999).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("big")));
}

TEST_F(FileTest, ReadsFilesWithoutSizeAndTellsMissingOnesApart) {
  EXPECT_THAT(*ReadFile("/proc/self/stat"), HasSubstr(absl::StrCat(getpid())));
  EXPECT_EQ(ReadFile(Path("absent")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FileTest, KernelFileIsNotCreated) {
  EXPECT_EQ(WriteKernelFile(Path("absent"), "1").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(*ListFolder(folder_), IsEmpty());
}

TEST_F(FileTest, MakesMissingFoldersAndRefusesAFileInTheWay) {
  EXPECT_TRUE(MakeFolders(Path("a/b/c"), 0700).ok());
  EXPECT_TRUE(MakeFolders(Path("a/b/c"), 0700).ok());
  EXPECT_TRUE(MakeFolders(Path("a/d/"), 0700).ok());
  EXPECT_THAT(*ListFolder(Path("a")), ElementsAre("b", "d"));
  ASSERT_TRUE(WriteFileDurably(Path("file"), "").ok());
  EXPECT_FALSE(MakeFolders(Path("file"), 0700).ok());
  EXPECT_FALSE(MakeFolders(Path("file/below"), 0700).ok());
}

TEST_F(FileTest, RemovalDoesNotFollowLinks) {
  ASSERT_TRUE(MakeFolders(Path("kept")).ok());
  ASSERT_TRUE(WriteFileDurably(Path("kept/precious"), "x").ok());
  ASSERT_TRUE(MakeFolders(Path("gone/deep/deeper")).ok());
  ASSERT_TRUE(WriteFileDurably(Path("gone/deep/file"), "x").ok());
  ASSERT_EQ(symlink(Path("kept").c_str(), Path("gone/deep/link").c_str()), 0);
  ASSERT_EQ(symlink("kept", Path("top-link").c_str()), 0);
  EXPECT_TRUE(RemoveTree(Path("gone")).ok());
  EXPECT_TRUE(RemoveTree(Path("top-link")).ok());
  EXPECT_TRUE(RemoveTree(Path("never-there")).ok());
  EXPECT_THAT(*ListFolder(folder_), ElementsAre("kept"));
  EXPECT_TRUE(FileExists(Path("kept/precious")));
}

TEST_F(FileTest, RemovalNeedsNoDescriptorForEachLevel) {
  UniqueFd at = *OpenFile(folder_, O_RDONLY | O_DIRECTORY);
  for (int level = 0; level < 3000; ++level) {  // deeper than descriptors allow, longer than PATH_MAX
    ASSERT_EQ(mkdirat(at.get(), "nested", 0700), 0);
    UniqueFd next(openat(at.get(), "nested", O_RDONLY | O_DIRECTORY));
    ASSERT_TRUE(next.ok());
    at = std::move(next);
  }
  at.Reset();
  const absl::Status status = RemoveTree(Path("nested"));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(*ListFolder(folder_), IsEmpty());
}

TEST_F(FileTest, RemovalStopsAtAMount) {
  ASSERT_TRUE(MakeFolders(Path("tree/mounted")).ok());
  ASSERT_TRUE(MakeFolders(Path("outside")).ok());
  ASSERT_TRUE(WriteFileDurably(Path("outside/precious"), "x").ok());
  // A bind mount of the same file system: device numbers would not tell.
  ASSERT_EQ(mount(Path("outside").c_str(), Path("tree/mounted").c_str(), nullptr, MS_BIND, nullptr), 0)
      << strerror(errno);
  const absl::Status status = RemoveTree(Path("tree"));
  EXPECT_EQ(umount(Path("tree/mounted").c_str()), 0);
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(FileExists(Path("outside/precious")));
}

TEST_F(FileTest, RemovalRefusesTheRoot) {
  EXPECT_EQ(RemoveTree("/").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RemoveTree("///").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RemoveTree("").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FileTest, FreeSpaceIsKnown) {
  EXPECT_GT(*FreeBytes(folder_), 0);
  EXPECT_FALSE(FreeBytes(Path("absent")).ok());
}

}  // namespace
}  // namespace godwit
