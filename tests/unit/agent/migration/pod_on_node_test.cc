// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/pod_on_node.h"

#include <unistd.h>

#include "agent/files/layer.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/tls/test_authority.h"

namespace godwit::migration {
namespace {

using testing::ElementsAre;

constexpr char kPodUid[] = "7c9f5d1e-1111-4222-8333-444455556666";

// A folder that is the host's root.
class PodOnNodeTest : public testing::Test {
 protected:
  PodOnNodeTest() {
    host_.root = tls::TestFolder();
    Folder("/run/bundles/app/rootfs");
    Folder(absl::StrCat(Kubelet(), "/volumes/kubernetes.io~empty-dir/cache"));
    Folder("/upper");
    Put("/upper/new", "new");
    Put("/run/bundles/app/config.json",
        absl::StrCat(R"({"root":{"path":"rootfs"},"mounts":[{"destination":"/proc","type":"proc"},
      {"destination":"/etc/hosts","source":")",
                     Kubelet(), R"(/etc-hosts"}]})"));
  }
  static std::string Kubelet() { return absl::StrCat("/srv/kubelet/pods/", kPodUid); }
  void Folder(const std::string& path) { ASSERT_TRUE(MakeFolders(host_.root + path).ok()); }
  void Put(const std::string& path, const std::string& content) {
    ASSERT_TRUE(WriteFileDurably(host_.root + path, content).ok());
  }
  // The tar of a host folder.
  std::string Tar(const std::string& path, files::Layout layout) {
    const std::string tar = host_.root + "/layer.tar";
    std::string bytes;
    files::Snapshot snapshot;
    auto totals =
        PackHostFolder(host_, path, layout, {.last = true}, 0, snapshot, [&bytes](absl::string_view piece) {
          bytes.append(piece.data(), piece.size());
          return absl::OkStatus();
        });
    EXPECT_TRUE(totals.ok()) << totals.status();
    EXPECT_TRUE(WriteFileDurably(tar, bytes).ok());
    return tar;
  }
  runtime::HostView host_;
  const permits::Claim claim_{.container = "app", .bundle = "/run/bundles/app"};
};

TEST_F(PodOnNodeTest, FilesGoToTheBundlesRootAndThePodsEmptyDirs) {
  const std::string tar = Tar("/upper", files::Layout::kOverlay);
  const absl::Status status =
      ApplyFiles(host_, claim_, kPodUid, {.rootfs = {{tar}}, .volumes = {{"cache", {{tar}}}}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(*ReadFile(host_.root + "/run/bundles/app/rootfs/new"), "new");
  EXPECT_EQ(*ReadFile(host_.root + Kubelet() + "/volumes/kubernetes.io~empty-dir/cache/new"), "new");
}

TEST_F(PodOnNodeTest, AbsoluteLinksOnTheHostLeadToTheHost) {
  ASSERT_EQ(symlink("/run/bundles", (host_.root + "/link").c_str()), 0);
  const std::string tar = Tar("/upper", files::Layout::kOverlay);
  permits::Claim claim = claim_;
  claim.bundle = "/link/app";
  const absl::Status status = ApplyFiles(host_, claim, kPodUid, {.rootfs = {{tar}}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(*ReadFile(host_.root + "/run/bundles/app/rootfs/new"), "new");
}

TEST_F(PodOnNodeTest, NothingOutsideTheHostIsReached) {
  ASSERT_EQ(symlink("../../../../../../../../etc", (host_.root + "/up").c_str()), 0);
  EXPECT_FALSE(OpenHostFolder(host_, "/up").ok());
  EXPECT_FALSE(OpenHostFolder(host_, "/../../etc").ok());
}

TEST_F(PodOnNodeTest, AnEmptyDirOfAPodThatNoMountNamesIsAnError) {
  const std::string tar = Tar("/upper", files::Layout::kPlain);
  EXPECT_EQ(ApplyFiles(host_, claim_, "another-uid", {.volumes = {{"cache", {{tar}}}}}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ApplyFiles(host_, claim_, kPodUid, {.volumes = {{"none", {{tar}}}}}).code(),
            absl::StatusCode::kNotFound);
}

TEST_F(PodOnNodeTest, AMissingBundleIsSaid) {
  permits::Claim claim = claim_;
  claim.bundle = "/run/bundles/none";
  EXPECT_EQ(ApplyFiles(host_, claim, kPodUid, {}).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace godwit::migration
