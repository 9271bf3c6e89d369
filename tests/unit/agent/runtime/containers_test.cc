// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/containers.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kConfig[] = R"({
  "process": {"terminal": false, "args": ["/app"]},
  "mounts": [{"destination": "/data", "type": "bind", "source": "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/d", "options": ["rbind"]}],
  "annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "app",
    "io.kubernetes.cri.sandbox-uid": "u1", "io.kubernetes.cri.sandbox-name": "cache-0", "io.kubernetes.cri.sandbox-namespace": "shop"},
  "linux": {"cgroupsPath": "/kubepods/podu1/3f2a", "namespaces": [{"type": "pid"}, {"type": "network", "path": "/proc/9/ns/net"}],
    "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]}
})";

class ContainersTest : public testing::Test {
 protected:
  ContainersTest()
      : folder_(absl::StrCat(testing::TempDir(), "/containers-",
                             testing::UnitTest::GetInstance()->current_test_info()->name(), getpid())) {
    host_ = {.root = folder_ + "/host", .proc = folder_ + "/proc", .cgroup = "/sys/fs/cgroup"};
    Write(kBundle + "/config.json", kConfig);
    Write(kBundle + "/init.pid", "77");
    Write("/proc/77/status", "Name:\tapp\nState:\tS (sleeping)\nPPid:\t1\n");
    Write("/proc/77/task/77/status", "SigPnd:\t0000000000000000\n");
    Write("/proc/77/cgroup", "0::/kubepods/podu1/3f2a\n");
  }
  ~ContainersTest() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(folder_ + path).parent_path());
    std::ofstream(folder_ + path, std::ios::trunc) << text;
  }
  std::string Refusal(const std::string& id = "containerd://3f2a") {
    return std::string(FindContainer(host_, id).status().message());
  }

  const std::string kBundle = "/host/run/containerd/io.containerd.runtime.v2.task/k8s.io/3f2a";
  std::string folder_;
  HostView host_;
};

TEST_F(ContainersTest, FindsAContainerUnderContainerd) {
  const auto container = FindContainer(host_, "containerd://3f2a");
  ASSERT_TRUE(container.ok()) << container.status();
  EXPECT_EQ(container->name, "app");
  EXPECT_EQ(container->pod_uid, "u1");
  EXPECT_EQ(container->pod_name, "cache-0");
  EXPECT_EQ(container->pod_namespace, "shop");
  EXPECT_EQ(container->bundle, "/run/containerd/io.containerd.runtime.v2.task/k8s.io/3f2a");
  EXPECT_EQ(container->runtime_root, "/run/containerd/runc/k8s.io");
  EXPECT_EQ(container->init_pid, 77);
  EXPECT_EQ(container->cgroup, "/sys/fs/cgroup/kubepods/podu1/3f2a");
  EXPECT_THAT(container->devices, ElementsAre("/dev/fuse"));
  EXPECT_EQ(container->mounts[0].destination, "/data");
  EXPECT_EQ(container->namespaces.at("network"), "/proc/9/ns/net");
}

TEST_F(ContainersTest, FindsAContainerUnderCriO) {
  std::string config = kConfig;
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"},
           {"io.kubernetes.cri.container-name", "io.kubernetes.container.name"},
           {"io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"},
           {"/kubepods/podu1/3f2a", "kubepods-podu1.slice:crio:3f2a"}}) {
    config.replace(config.find(from), from.size(), to);
  }
  const std::string bundle = "/run/containers/storage/overlay-containers/3f2a/userdata";
  Write("/host" + bundle + "/config.json", config);
  Write("/host" + bundle + "/pidfile", "77\n");
  Write("/proc/77/cgroup", "0::/kubepods.slice/kubepods-podu1.slice/crio-3f2a.scope/container\n");
  const auto container = FindContainer(host_, "cri-o://3f2a");
  ASSERT_TRUE(container.ok()) << container.status();
  EXPECT_EQ(container->name, "app");
  EXPECT_EQ(container->bundle, bundle);
  EXPECT_EQ(container->cgroup, "/sys/fs/cgroup/kubepods.slice/kubepods-podu1.slice/crio-3f2a.scope");
}

TEST_F(ContainersTest, RefusesIdsThatAreNone) {
  EXPECT_THAT(Refusal("docker://3f2a"), HasSubstr("no container runtime that Godwit knows"));
  EXPECT_THAT(Refusal("containerd://../../etc"), HasSubstr("is no container id"));
  EXPECT_THAT(Refusal("containerd://"), HasSubstr("is no container id"));
  EXPECT_THAT(Refusal("containerd://other"), HasSubstr("no container other under containerd on this node"));
}

TEST_F(ContainersTest, AContainerWhoseInitIsGoneDoesNotRun) {
  std::filesystem::remove_all(folder_ + "/proc/77");
  EXPECT_THAT(Refusal(), HasSubstr("does not run"));
  std::filesystem::remove(folder_ + kBundle + "/init.pid");
  EXPECT_THAT(Refusal(), HasSubstr("does not run"));
  Write(kBundle + "/init.pid", "x");
  EXPECT_THAT(Refusal(), HasSubstr("holds no process id"));
}

// The pid may have been given to somebody else.
TEST_F(ContainersTest, AProcessInAnotherCgroupIsNotTheContainer) {
  Write("/proc/77/cgroup", "0::/system.slice/sshd.service\n");
  EXPECT_THAT(Refusal(), HasSubstr("is in cgroup /system.slice/sshd.service, not in /kubepods/podu1/3f2a"));
}

TEST_F(ContainersTest, ASandboxIsNoContainer) {
  std::string config = kConfig;
  config.replace(config.find("\"container\""), 11, "\"sandbox\"");
  Write(kBundle + "/config.json", config);
  EXPECT_THAT(Refusal(), HasSubstr("is a pod's sandbox"));
}

TEST_F(ContainersTest, ABrokenConfigurationIsNamed) {
  Write(kBundle + "/config.json", "{");
  EXPECT_THAT(Refusal(), HasSubstr("config.json"));
}

}  // namespace
}  // namespace godwit::runtime
