// SPDX-License-Identifier: Apache-2.0
#include "agent/install/host_tree.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace godwit::install {
namespace {

class HostTreeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = absl::StrCat(::testing::TempDir(), "/tree-XXXXXX");
    ASSERT_NE(mkdtemp(root_.data()), nullptr);
    ASSERT_TRUE(MakeFolders(root_ + "/image/bin").ok());
    ASSERT_TRUE(MakeFolders(root_ + "/image/criu/bin").ok());
    std::ofstream(root_ + "/image/bin/godwit-runtime") << "one";
    chmod((root_ + "/image/bin/godwit-runtime").c_str(), 0755);
    ASSERT_EQ(symlink("../criu", (root_ + "/image/criu/bin/tar").c_str()), 0);
  }
  absl::StatusOr<std::string> Install(const std::string& json = "{}") {
    return InstallTree(root_ + "/image", root_ + "/opt", json);
  }
  std::string root_;
};

TEST_F(HostTreeTest, CopiesFilesWithTheirModesAndLinksAsLinks) {
  ASSERT_TRUE(Install().ok());
  struct stat info;
  ASSERT_EQ(stat((root_ + "/opt/bin/godwit-runtime").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0755u);
  char target[64] = "";
  ASSERT_GT(readlink((root_ + "/opt/criu/bin/tar").c_str(), target, sizeof(target) - 1), 0);
  EXPECT_STREQ(target, "../criu");
}

TEST_F(HostTreeTest, TheDigestFollowsContentModeLinksAndSettings) {
  const std::string first = *Install();
  EXPECT_EQ(*Install(), first);
  EXPECT_NE(*Install("{\"runtime\":\"/x\"}"), first);
  std::ofstream(root_ + "/image/bin/godwit-runtime") << "two";
  const std::string second = *Install();
  EXPECT_NE(second, first);
  chmod((root_ + "/image/bin/godwit-runtime").c_str(), 0644);
  EXPECT_NE(*Install(), second);
}

TEST_F(HostTreeTest, ADamagedVersionIsReplacedWhileItsPathStays) {
  const std::string digest = *Install();
  std::ofstream(root_ + "/opt/bin/godwit-runtime") << "damaged";
  ASSERT_EQ(*Install(), digest);
  EXPECT_EQ(*ReadFile(root_ + "/opt/bin/godwit-runtime"), "one");
  ASSERT_TRUE(RemoveOldVersions(root_ + "/opt", root_).ok());
  EXPECT_EQ(ListFolder(root_ + "/opt/versions")->size(), 1u) << "the damaged one is gone";
}

TEST_F(HostTreeTest, AnInterruptedCopyIsNoVersion) {
  ASSERT_TRUE(MakeFolders(root_ + "/opt/versions/.new-abc/bin").ok());
  ASSERT_TRUE(Install().ok());
  ASSERT_TRUE(RemoveOldVersions(root_ + "/opt", root_).ok());
  EXPECT_FALSE(FileExists(root_ + "/opt/versions/.new-abc"));
}

TEST_F(HostTreeTest, RefusesDevicesAndMissingTrees) {
  ASSERT_EQ(mkfifo((root_ + "/image/bin/fifo").c_str(), 0600), 0);
  EXPECT_FALSE(Install().ok());
  EXPECT_FALSE(InstallTree(root_ + "/none", root_ + "/opt", "{}").ok());
}

}  // namespace
}  // namespace godwit::install
