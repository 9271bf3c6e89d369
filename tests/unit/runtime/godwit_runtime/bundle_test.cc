// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/bundle.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"

namespace godwit::godwit_runtime {
namespace {

// As containerd 2.3 writes it, shortened.
constexpr char kContainerd[] = R"({
  "ociVersion": "1.2.1",
  "process": {"user": {"uid": 0}, "args": ["/counter"], "cwd": "/"},
  "root": {"path": "rootfs"},
  "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
  "annotations": {"godwit.io/migration": "11111111-2222-3333-4444-555555555555",
    "io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-uid": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"},
  "linux": {"cgroupsPath": "/kubepods/besteffort/podx/abc", "maskedPaths": ["/proc/kcore"],
    "namespaces": [{"type": "pid"}, {"type": "uts", "path": "/proc/42/ns/uts"}, {"type": "mount"}]}})";

TEST(BundleTest, ReadsAContainerOfContainerd) {
  auto bundle = ParseBundle(kContainerd, false);
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_TRUE(bundle->is_container);
  EXPECT_EQ(bundle->sandbox_uid, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
  EXPECT_EQ(bundle->container, "app");
  EXPECT_EQ(bundle->migration, "11111111-2222-3333-4444-555555555555");
  EXPECT_EQ(bundle->cgroup, "/kubepods/besteffort/podx/abc");
  EXPECT_EQ(bundle->rootfs, "rootfs");
  EXPECT_EQ(bundle->uts_path, "/proc/42/ns/uts");
  EXPECT_FALSE(bundle->terminal);
}

TEST(BundleTest, SeesATerminalAndASandbox) {
  auto terminal =
      ParseBundle(absl::StrReplaceAll(kContainerd, {{R"("cwd": "/")", R"("terminal": true)"}}), false);
  ASSERT_TRUE(terminal.ok());
  EXPECT_TRUE(terminal->terminal);
  auto sandbox = ParseBundle(
      absl::StrReplaceAll(kContainerd, {{R"(type": "container")", R"(type": "sandbox")"}}), false);
  ASSERT_TRUE(sandbox.ok());
  EXPECT_FALSE(sandbox->is_container);
}

TEST(BundleTest, ReadsAContainerOfCriO) {
  constexpr char kCriO[] = R"({"process": {"terminal": false}, "annotations": {
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.Labels": "{\"io.kubernetes.container.name\":\"app\",\"io.kubernetes.pod.uid\":\"u-1\"}"},
    "linux": {"cgroupsPath": "kubepods-besteffort-podx.slice:crio:abc"}})";
  auto bundle = ParseBundle(kCriO, true);
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_TRUE(bundle->is_container);
  EXPECT_EQ(bundle->sandbox_uid, "u-1");
  EXPECT_EQ(bundle->container, "app");
  EXPECT_EQ(bundle->cgroup,
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podx.slice/crio-abc.scope");
  EXPECT_FALSE(ParseBundle(R"({"annotations": {"io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.Labels": "{{{"}})",
                           true)
                   .ok());
}

TEST(BundleTest, OutsideKubernetesNothingIsAContainer) {
  auto bundle = ParseBundle(R"({"process": {}, "linux": {"cgroupsPath": "user"}})", false);
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_FALSE(bundle->is_container);
  EXPECT_TRUE(ParseBundle("{}", false).ok());
}

TEST(BundleTest, RefusesWhatIsNoConfig) {
  EXPECT_FALSE(ParseBundle("", false).ok());
  EXPECT_FALSE(ParseBundle("[]", false).ok());
  EXPECT_FALSE(ParseBundle(R"({"annotations": {"a": 1}})", false).ok());
  EXPECT_FALSE(ParseBundle(std::string(1000, '['), false).ok());
  EXPECT_FALSE(ParseBundle(std::string(kMaxConfig + 1, ' '), false).ok());
  EXPECT_FALSE(
      ParseBundle(absl::StrReplaceAll(kContainerd, {{"/kubepods/besteffort/podx/abc", "relative"}}), false)
          .ok());
}

TEST(CgroupFolderTest, ResolvesBothDrivers) {
  EXPECT_EQ(*CgroupFolder("/kubepods/podx/abc", false), "/kubepods/podx/abc");
  EXPECT_EQ(*CgroupFolder("kubepods-pod1_2.slice:cri-containerd:abc", true),
            "/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-abc.scope");
  EXPECT_EQ(*CgroupFolder(":p:n", true), "/system.slice/p-n.scope");
  EXPECT_EQ(*CgroupFolder("a.slice::n", true), "/a.slice/n.scope");
  EXPECT_EQ(*CgroupFolder("-.slice:p:n", true), "/p-n.scope");
  EXPECT_EQ(*CgroupFolder("a.slice:p:b.slice", true), "/a.slice/b.slice");
}

TEST(CgroupFolderTest, RefusesWhatCannotBeOne) {
  for (const char* path : {"", "abc", "/a/../b", "/.."}) EXPECT_FALSE(CgroupFolder(path, false).ok()) << path;
  for (const char* path : {"", "/a/b", "a:b", "a.slice:b:", "nodot:b:c", "a.slice:b:c/../d"}) {
    EXPECT_FALSE(CgroupFolder(path, true).ok()) << path;
  }
}

}  // namespace
}  // namespace godwit::godwit_runtime
