// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/shared.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/preload/settings.h"

namespace godwit::preload {
namespace {
std::string said;  // the last message
}  // namespace

const Settings* Active() { return nullptr; }
void Say(const char* message, const char* detail, int) { said = absl::StrCat(message, " ", detail); }
void SayFrom(int, const char* message, const char* detail, int error) { Say(message, detail, error); }

namespace {

using ::testing::HasSubstr;

TEST(SharedTest, TheFileIsReadOrRefused) {
  const struct {
    const char* text;
    ssize_t count;
  } cases[] = {
      {"", 0},
      {"12 34 /proc/5/fd/6\n", 1},
      {"12 34 /proc/5/fd/6\n11 34 /proc/5/fd/7\n", 2},
      {"12 34 /proc/5/fd/6", -1},
      {"12 34 /proc/5/fd/6 \n", -1},
      {"12 34 /proc/5/fd/6/\n", -1},
      {"12 34 /proc/self/fd/6\n", -1},
      {"12 34 /proc/5/cwd/6\n", -1},
      {"12 34 /proc/5/fd/\n", -1},
      {"12 34 ../proc/5/fd/6\n", -1},
      {"12 34\n", -1},
      {"12 /proc/5/fd/6\n", -1},
      {"0 34 /proc/5/fd/6\n", -1},
      {"-1 34 /proc/5/fd/6\n", -1},
      {"12 34 /proc/5/fd/6\n12 35 /proc/5/fd/7\n", -1},
      {"12 34 /proc/5/fd/6\n\n", -1},
      {"1 2 /proc/5/fd/6\n2 2 /proc/5/fd/6\n3 2 /proc/5/fd/6\n", -1},
  };
  for (const auto& c : cases) {
    SharedObject objects[2];
    EXPECT_EQ(ParseShared(c.text, strlen(c.text), objects, 2), c.count) << c.text;
  }
  SharedObject object{};
  constexpr char kLongest[] = "2147483647 9999999999999999 /proc/9999999999999999/fd/9999999999999999\n";
  ASSERT_EQ(ParseShared(kLongest, strlen(kLongest), &object, 1), 1);
  EXPECT_STREQ(object.path, "/proc/9999999999999999/fd/9999999999999999");
  EXPECT_EQ(object.id, 2147483647u);
  EXPECT_EQ(object.inode, 9999999999999999u);
  EXPECT_EQ(object.taken, 0);
}

TEST(SharedTest, AnImageNamesItsObject) {
  EXPECT_EQ(IdOfSharedImage("pagemap-shmem-4302.img"), 4302u);
  for (const char* name :
       {"", "pagemap-4302.img", "pagemap-shmem-.img", "pagemap-shmem-4302", "pagemap-shmem-x.img",
        "pagemap-shmem-4302.img.new", "/pagemap-shmem-4302.img", "pages-1.img"})
    EXPECT_EQ(IdOfSharedImage(name), 0u) << name;
}

// As a restoring task of CRIU's does it, in a process that was forked after the file was read.
class TakingTest : public testing::Test {
 protected:
  TakingTest() : folder_(open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    there_.Reset(memfd_create("there", MFD_CLOEXEC));
    EXPECT_EQ(pwrite(there_.get(), "content", 7, 0), 7);
    struct stat status{};
    EXPECT_EQ(fstat(there_.get(), &status), 0);
    inode_ = status.st_ino;
  }
  void Load(uint64_t inode) {
    const std::string path = absl::StrCat(testing::TempDir(), "/shared-", getpid());
    ASSERT_TRUE(
        WriteFileDurably(path, absl::StrCat("4302 ", inode, " /proc/", getpid(), "/fd/", there_.get(), "\n"))
            .ok());
    ASSERT_TRUE(LoadShared(path.c_str())) << said;
    unlink(path.c_str());
  }
  static bool InAChild(const std::function<bool()>& what) {
    const pid_t child = fork();
    if (child == 0) _exit(what() ? 0 : 1);
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  const UniqueFd folder_;
  UniqueFd there_;
  uint64_t inode_ = 0;
};

TEST_F(TakingTest, WhatIsThereTakesThePlaceOfTheMemfd) {
  Load(inode_);
  EXPECT_FALSE(AllSharedTaken());
  EXPECT_THAT(said, HasSubstr("CRIU's restore has not asked for"));
  EXPECT_THAT(said, HasSubstr("shared memory 4302"));
  EXPECT_TRUE(InAChild([&] {
    const int made = memfd_create("made", 0);
    NoteMemfd(made);
    char content[8] = "";
    struct stat status{};
    return ftruncate(made, 12345) == 0 && PutSharedInPlace(folder_.get(), "pages-1.img") &&
           PutSharedInPlace(folder_.get(), "pagemap-shmem-99.img") && pread(made, content, 7, 0) == 7 &&
           content[0] == '\0' && PutSharedInPlace(folder_.get(), "pagemap-shmem-4302.img") &&
           pread(made, content, 7, 0) == 7 && strcmp(content, "content") == 0 && fstat(made, &status) == 0 &&
           status.st_ino == inode_ && status.st_size == 12345 && fcntl(made, F_GETFD) == 0;
  }));
  EXPECT_TRUE(AllSharedTaken());
}

TEST_F(TakingTest, WhatIsNoLongerThereEndsTheRestore) {
  const UniqueFd made(memfd_create("made", MFD_CLOEXEC));
  NoteMemfd(made.get());
  const auto refused = [this] {
    return !PutSharedInPlace(folder_.get(), "pagemap-shmem-4302.img") && errno == ESTALE;
  };
  Load(inode_ + 1);
  EXPECT_TRUE(refused());
  EXPECT_THAT(said, HasSubstr("not what it was"));
  Load(inode_);
  there_.Reset();
  EXPECT_TRUE(refused());
  EXPECT_THAT(said, HasSubstr("cannot open /proc/"));
  EXPECT_FALSE(AllSharedTaken());
}

TEST_F(TakingTest, ABrokenFileIsRefused) {
  const std::string path = absl::StrCat(testing::TempDir(), "/broken-", getpid());
  ASSERT_TRUE(WriteFileDurably(path, "4302\n").ok());
  EXPECT_FALSE(LoadShared(path.c_str()));
  EXPECT_THAT(said, HasSubstr("the file of shared memory is broken"));
  unlink(path.c_str());
  EXPECT_FALSE(LoadShared(path.c_str()));
  EXPECT_THAT(said, HasSubstr("cannot open the file of shared memory"));
}

}  // namespace
}  // namespace godwit::preload
