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
  auto bundle = ParseBundle(kContainerd);
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
  auto terminal = ParseBundle(absl::StrReplaceAll(kContainerd, {{R"("cwd": "/")", R"("terminal": true)"}}));
  ASSERT_TRUE(terminal.ok());
  EXPECT_TRUE(terminal->terminal);
  auto sandbox =
      ParseBundle(absl::StrReplaceAll(kContainerd, {{R"(type": "container")", R"(type": "sandbox")"}}));
  ASSERT_TRUE(sandbox.ok());
  EXPECT_FALSE(sandbox->is_container);
}

TEST(BundleTest, ReadsAContainerOfCriO) {
  constexpr char kCriO[] = R"({"process": {"terminal": false}, "annotations": {
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.Labels": "{\"io.kubernetes.container.name\":\"app\",\"io.kubernetes.pod.uid\":\"u-1\"}"},
    "linux": {"cgroupsPath": "kubepods-besteffort-podx.slice:crio:abc"}})";
  auto bundle = ParseBundle(kCriO);
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_TRUE(bundle->is_container);
  EXPECT_EQ(bundle->sandbox_uid, "u-1");
  EXPECT_EQ(bundle->container, "app");
  EXPECT_EQ(bundle->cgroup,
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podx.slice/crio-abc.scope");
  EXPECT_FALSE(ParseBundle(R"({"annotations": {"io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.Labels": "{{{"}})")
                   .ok());
}

TEST(BundleTest, OutsideKubernetesNothingIsAContainer) {
  auto bundle = ParseBundle(R"({"process": {}, "linux": {"cgroupsPath": "user"}})");
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_FALSE(bundle->is_container);
  EXPECT_TRUE(ParseBundle("{}").ok());
}

TEST(BundleTest, RefusesWhatIsNoConfig) {
  EXPECT_FALSE(ParseBundle("").ok());
  EXPECT_FALSE(ParseBundle("[]").ok());
  EXPECT_FALSE(ParseBundle(R"({"annotations": {"a": 1}})").ok());
  EXPECT_FALSE(ParseBundle(std::string(1000, '[')).ok());
  EXPECT_FALSE(ParseBundle(std::string(kMaxConfig + 1, ' ')).ok());
  EXPECT_FALSE(
      ParseBundle(absl::StrReplaceAll(kContainerd, {{"/kubepods/besteffort/podx/abc", "relative"}})).ok());
}

}  // namespace
}  // namespace godwit::godwit_runtime
