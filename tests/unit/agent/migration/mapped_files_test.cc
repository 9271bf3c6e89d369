// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/mapped_files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/tls/test_authority.h"

namespace godwit::migration {
namespace {

class MappedFilesTest : public testing::Test {
 protected:
  MappedFilesTest() : folder_(tls::TestFolder()) {}
  ~MappedFilesTest() override {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      waitpid(child_, nullptr, 0);
    }
    if (mounted_) umount2((folder_ + "/merged").c_str(), MNT_DETACH);
  }
  std::string At(const std::string& name) const { return absl::StrCat(folder_, "/", name); }
  std::pair<dev_t, ino_t> Identity(const std::string& name) const {
    struct stat info{};
    EXPECT_EQ(stat(At(name).c_str(), &info), 0) << name;
    return {info.st_dev, info.st_ino};
  }
  bool MountRoot() {
    for (const char* name : {"lower", "upper", "work", "merged"}) EXPECT_TRUE(MakeFolders(At(name)).ok());
    EXPECT_TRUE(WriteFileDurably(At("lower/of the image"), "content").ok());
    const std::string options =
        absl::StrCat("lowerdir=", At("lower"), ",upperdir=", At("upper"), ",workdir=", At("work"));
    mounted_ = mount("overlay", At("merged").c_str(), "overlay", 0, options.c_str()) == 0;
    return mounted_;
  }
  // A process whose root is the overlay, mounted below nothing as a container's is, and which has run `body`
  // when this returns.
  void StartInRoot(void (*body)()) {
    int ready[2];
    ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
    const std::string root = At("merged");
    child_ = fork();
    if (child_ == 0) {
      const int tree = open_tree(AT_FDCWD, root.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
      if (tree < 0 || fchdir(tree) != 0 || chroot(".") != 0) _exit(1);
      body();
      (void)!write(ready[1], "x", 1);
      for (;;) pause();
    }
    close(ready[1]);
    char byte = 0;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
  }
  static void* Map(const char* path, int protection, int flags) {
    const int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, 4096) != 0) _exit(2);
    void* mapped = mmap(nullptr, 4096, protection, flags, fd, 0);
    if (mapped == MAP_FAILED) _exit(3);
    close(fd);
    return mapped;
  }
  files::MappedFiles Find() {
    files::MappedFiles mapped;
    const UniqueFd layer = *OpenFile(At("upper"), O_PATH | O_DIRECTORY);
    const absl::Status status = AddMappedFiles("/proc", {child_, 4'000'000}, layer.get(), mapped);
    EXPECT_TRUE(status.ok()) << status;
    return mapped;
  }

  const std::string folder_;
  bool mounted_ = false;
  pid_t child_ = -1;
};

TEST_F(MappedFilesTest, FilesOfTheWritableLayerAreFoundCopiedUpOnesToo) {
  if (!MountRoot()) GTEST_SKIP() << "may not mount overlays";
  StartInRoot([] {
    Map("/new", PROT_READ | PROT_WRITE, MAP_SHARED);
    Map("/of the image", PROT_READ | PROT_WRITE, MAP_SHARED);
    Map("/with a\nnewline", PROT_READ | PROT_WRITE, MAP_SHARED);
    Map("/private", PROT_READ | PROT_WRITE, MAP_PRIVATE);
    Map("/read only", PROT_READ, MAP_SHARED);
    mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  });
  const files::MappedFiles mapped = Find();
  EXPECT_TRUE(mapped.files.contains(Identity("upper/new")));
  EXPECT_TRUE(mapped.files.contains(Identity("upper/of the image")));
  EXPECT_TRUE(mapped.files.contains(Identity("upper/with a\nnewline")));
  EXPECT_FALSE(mapped.files.contains(Identity("upper/private")));
  EXPECT_FALSE(mapped.files.contains(Identity("upper/read only")));
  EXPECT_FALSE(mapped.any);
  EXPECT_FALSE(mapped.any_linked) << "memory without a name is no file of the layer";
}

TEST_F(MappedFilesTest, AFileThatLostItsNameMayBeAnyWithSeveral) {
  if (!MountRoot()) GTEST_SKIP() << "may not mount overlays";
  StartInRoot([] {
    Map("/first name", PROT_READ | PROT_WRITE, MAP_SHARED);
    if (link("/first name", "/second name") != 0 || unlink("/first name") != 0) _exit(4);
  });
  const files::MappedFiles mapped = Find();
  EXPECT_TRUE(mapped.any_linked);
  EXPECT_FALSE(mapped.any);
}

TEST_F(MappedFilesTest, AMappingThatLeadsNowhereMayBeAny) {
  if (!MountRoot()) GTEST_SKIP() << "may not mount overlays";
  StartInRoot([] { Map("/file", PROT_READ | PROT_WRITE, MAP_SHARED); });
  files::MappedFiles mapped;
  const UniqueFd another = *OpenFile(At("work"), O_PATH | O_DIRECTORY);  // as after a rename behind our back
  ASSERT_TRUE(AddMappedFiles("/proc", {child_}, another.get(), mapped).ok());
  EXPECT_TRUE(mapped.any);
}

}  // namespace
}  // namespace godwit::migration
