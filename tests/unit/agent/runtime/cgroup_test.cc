// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/cgroup.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "agent/runtime/mounts.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ResolveCgroupsPath, KnowsBothDrivers) {
  const struct {
    const char *in, *out;
  } cases[] = {
      {"/kubepods/besteffort/pod1/abc", "/kubepods/besteffort/pod1/abc"},
      {"/k8s.io//abc/", "/k8s.io/abc"},
      {"kubepods-besteffort-pod1_2.slice:cri-containerd:abc",
       "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/cri-containerd-abc.scope"},
      {"system.slice:crio:abc", "/system.slice/crio-abc.scope"},
      {":crio:abc", "/system.slice/crio-abc.scope"},
      {"a.slice::abc", "/a.slice/abc.scope"},
      {"-.slice:x:abc", "/x-abc.scope"},
      {"a.slice:x:b.slice", "/a.slice/b.slice"},
  };
  for (const auto& c : cases) {
    const auto path = ResolveCgroupsPath(c.in);
    ASSERT_TRUE(path.ok()) << c.in << ": " << path.status();
    EXPECT_EQ(*path, c.out);
  }
}

TEST(ResolveCgroupsPath, RefusesWhatLeadsElsewhere) {
  for (const char* in :
       {"", "/", "relative", "/a/../../b", "a:b", "a:b:c:d", "a.slice:b:../x", "a:b:c", "a--b.slice:x:y",
        "-a.slice:x:y", "a-.slice:x:y", "a.slice:b/c:d", "a/b.slice:x:y", "a.slice:x:"}) {
    EXPECT_FALSE(ResolveCgroupsPath(in).ok()) << in;
  }
}

TEST(PodCgroup, IsTheFolderThatKubeletNamedAfterThePod) {
  const char* uid = "0f3c-12";
  EXPECT_EQ(PodCgroup("/sys/fs/cgroup/kubepods/burstable/pod0f3c-12/abc", uid),
            "/sys/fs/cgroup/kubepods/burstable/pod0f3c-12");
  const std::string slice = "/sys/fs/cgroup/kubepods.slice/kubepods-pod0f3c_12.slice";
  EXPECT_EQ(PodCgroup(slice + "/cri-containerd-abc.scope", uid), slice);
}

// What is held stands still as a whole: never a folder that others' containers are in.
TEST(PodCgroup, IsNoOtherFolder) {
  for (const char* cgroup :
       {"", "abc", "/abc", "/sys/fs/cgroup/kubepods/abc", "/sys/fs/cgroup/pods/pod0f3c-123/abc",
        "/sys/fs/cgroup/kubepods.slice/kubepods-pod0f3c_1.slice/abc.scope",
        "/sys/fs/cgroup/pod0f3c-12/inner/abc"}) {
    EXPECT_EQ(PodCgroup(cgroup, "0f3c-12"), "") << cgroup;
  }
  EXPECT_EQ(PodCgroup("/sys/fs/cgroup/kubepods/pod/abc", ""), "");
}

class CgroupFolderTest : public testing::Test {
 protected:
  CgroupFolderTest()
      : root_(absl::StrCat(testing::TempDir(), "/cgroup-",
                           testing::UnitTest::GetInstance()->current_test_info()->name(), getpid())) {}
  ~CgroupFolderTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(CgroupFolderTest, ProcessesOfNestedCgroupsCount) {
  Write("/c/cgroup.procs", "12\n7\n");
  Write("/c/inner/cgroup.procs", "9\n");
  const auto pids = ProcessesInCgroup(root_ + "/c");
  ASSERT_TRUE(pids.ok()) << pids.status();
  EXPECT_THAT(*pids, ElementsAre(7, 9, 12));
}

TEST_F(CgroupFolderTest, AProcessOutsideOfThePidNamespaceIsAnError) {
  Write("/c/cgroup.procs", "0\n");
  EXPECT_THAT(std::string(ProcessesInCgroup(root_ + "/c").status().message()), HasSubstr("hostPID"));
}

TEST_F(CgroupFolderTest, ReadsTheCgroupOfAProcess) {
  Write("/5/cgroup", "4:cpu:/old\n0::/kubepods/x\n");
  EXPECT_EQ(*CgroupOfProcess(root_, 5), "/kubepods/x");
  Write("/6/cgroup", "0::/../../x\n");
  EXPECT_THAT(std::string(CgroupOfProcess(root_, 6).status().message()),
              HasSubstr("outside of this cgroup namespace"));
  Write("/7/cgroup", "4:cpu:/old\n");
  EXPECT_THAT(std::string(CgroupOfProcess(root_, 7).status().message()), HasSubstr("cgroup v2"));
  EXPECT_TRUE(absl::IsNotFound(CgroupOfProcess(root_, 8).status()));
}

TEST(Mounts, FindsTheWritableLayer) {
  const auto mounts = ParseMountInfo(
      "1 0 0:50 / / rw,relatime - overlay overlay "
      "rw,lowerdir=/l1:/l2,upperdir=/var/lib/containerd/snap\\0401/fs,workdir=/w\n"
      "2 1 0:51 / /proc rw shared:7 master:1 - proc proc rw\n");
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  ASSERT_EQ(mounts->size(), 2u);
  EXPECT_EQ((*mounts)[1].type, "proc");
  EXPECT_EQ(*WritableLayer(*mounts, "0:50"), "/var/lib/containerd/snap 1/fs");
}

TEST(Mounts, ARootWithoutOverlayHasNoWritableLayer) {
  EXPECT_THAT(
      std::string(
          WritableLayer(*ParseMountInfo("1 0 8:1 / / rw - ext4 /dev/vda rw\n"), "8:1").status().message()),
      HasSubstr("is ext4, not overlay"));
  EXPECT_THAT(std::string(WritableLayer(
                              *ParseMountInfo("1 0 0:5 / / ro - overlay overlay ro,lowerdir=/a:/b\n"), "0:5")
                              .status()
                              .message()),
              HasSubstr("read-only"));
  EXPECT_THAT(
      std::string(WritableLayer(*ParseMountInfo("1 0 0:5 / / rw - overlay overlay rw,upperdir=../x\n"), "0:5")
                      .status()
                      .message()),
      HasSubstr("not an absolute"));
  EXPECT_FALSE(WritableLayer({}, "0:5").ok());
}

TEST(Mounts, NonsenseIsAnError) {
  for (const char* text :
       {"x\n", "1 2 3\n", "a b 0:1 / / rw - t s o\n", "1 0 0:5 / / rw overlay overlay rw a b\n"}) {
    EXPECT_FALSE(ParseMountInfo(text).ok()) << text;
  }
}

}  // namespace
}  // namespace godwit::runtime
