// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/layer.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "agent/runtime/mounts.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

using ::testing::HasSubstr;

class LayerTest : public testing::Test {
 protected:
  LayerTest()
      : folder_(absl::StrCat(testing::TempDir(), "/layer-",
                             testing::UnitTest::GetInstance()->current_test_info()->name(), getpid())) {
    host_ = {.root = folder_ + "/host", .proc = folder_ + "/proc", .cgroup = "/sys/fs/cgroup"};
    container_.name = "app";
    container_.init_pid = 77;
    container_.rootfs = "/run/c/rootfs";
    container_.namespaces = {
        {"network", "/netns/pod"}, {"ipc", "/proc/9/ns/ipc"}, {"uts", ""}, {"pid", ""}, {"mount", ""}};
    for (const char* file : {"/host/netns/pod", "/host/proc/9/ns/ipc", "/user", "/other"}) Write(file, "");
    std::filesystem::create_directories(folder_ + "/host/run/c/rootfs");
    std::filesystem::create_directories(folder_ + "/elsewhere");
    Link("/proc/1/ns/user", "/user");
    Link("/proc/77/ns/user", "/user");
    Link("/proc/77/ns/net", "/host/netns/pod");
    Link("/proc/77/ns/ipc", "/host/proc/9/ns/ipc");
    Link("/proc/77/root", "/host/run/c/rootfs");
    Write("/proc/1/mountinfo",
          absl::StrCat(
              "1 0 999:1 / / rw - ext4 /dev/vda rw\n2 1 ", Device(),
              " / /run/c/rootfs rw - overlay overlay rw,lowerdir=/l,upperdir=/snapshots/7/fs,workdir=/w\n"));
    Write("/proc/77/mountinfo",
          "9 0 0:50 / / rw - overlay overlay rw,upperdir=/var/lib/godwit/checkpoints\n");
  }
  ~LayerTest() override { std::filesystem::remove_all(folder_); }
  // Of the folder that stands for its root.
  std::string Device() const { return DeviceOf(folder_ + "/host/run/c/rootfs").value_or("none"); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(folder_ + path).parent_path());
    std::ofstream(folder_ + path, std::ios::trunc) << text;
  }
  void Link(const std::string& path, const std::string& target) {
    std::filesystem::create_directories(std::filesystem::path(folder_ + path).parent_path());
    std::filesystem::remove(folder_ + path);
    std::filesystem::create_symlink(folder_ + target, folder_ + path);
  }
  std::string Refusal() {
    const auto layer = FindWritableLayer(host_, container_);
    EXPECT_TRUE(absl::IsFailedPrecondition(layer.status())) << layer.status();
    return std::string(layer.status().message());
  }

  std::string folder_;
  HostView host_;
  Container container_;
};

TEST_F(LayerTest, TheHostSaysWhereItIsAndNotTheContainer) {
  const auto layer = FindWritableLayer(host_, container_);
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_EQ(*layer, "/snapshots/7/fs");
}

TEST_F(LayerTest, AProcessThatHasMovedIntoAnotherRootIsRefused) {
  Link("/proc/77/root", "/elsewhere");
  EXPECT_THAT(Refusal(), HasSubstr("has a root file system of its own"));
}

TEST_F(LayerTest, AProcessThatHasMadeNamespacesOfItsOwnIsRefused) {
  for (const char* kind : {"user", "net", "ipc"}) {
    const std::string path = absl::StrCat("/proc/77/ns/", kind);
    const std::string before = std::filesystem::read_symlink(folder_ + path).string().substr(folder_.size());
    Link(path, "/other");
    EXPECT_THAT(Refusal(), HasSubstr("namespace of its own")) << kind;
    Link(path, before);
  }
  EXPECT_TRUE(FindWritableLayer(host_, container_).ok());
}

TEST_F(LayerTest, WithoutAnOverlayThereIsNone) {
  Write("/proc/1/mountinfo", absl::StrCat("1 0 ", Device(), " / / rw - ext4 /dev/vda rw\n"));
  EXPECT_THAT(Refusal(), HasSubstr("not overlay"));
}

TEST_F(LayerTest, AnOverlayThatTheContainerMountedIsSaid) {
  const std::string root = absl::StrCat("9 0 ", Device(), " / / rw - overlay overlay rw\n");
  const auto said = [this] {
    return std::string(CheckNoInnerOverlay(host_.proc, Device(), {77, 78, 79}).message());
  };
  Write("/proc/77/mountinfo", root);
  Write("/proc/78/mountinfo", root);  // and 79 has ended
  EXPECT_EQ(said(), "");
  Write("/proc/77/mountinfo", root + "10 9 0:51 / /mnt rw - overlay overlay rw,lowerdir=/etc\n");
  EXPECT_THAT(said(), HasSubstr("process 77 has an overlay mounted at /mnt"));
  // Over its root, which /proc/77/root does not show.
  Write("/proc/77/mountinfo", root + "10 9 0:51 / / rw - overlay overlay rw,lowerdir=/etc\n");
  EXPECT_THAT(said(), HasSubstr("at /"));
  // One that does not see it, in a folder of its own (chroot), says nothing of others in its mount namespace.
  Write("/proc/77/mountinfo", "");
  Write("/proc/78/mountinfo", root + "10 9 0:51 / /deep rw - overlay overlay rw,lowerdir=/etc\n");
  EXPECT_THAT(said(), HasSubstr("process 78 has an overlay mounted at /deep"));
}

}  // namespace
}  // namespace godwit::runtime
