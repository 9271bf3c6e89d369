// SPDX-License-Identifier: Apache-2.0
// Golden files: golden/<name>.source.json is a pod as an API server shows it, golden/<name>.<what>.json what
// is made of it. GODWIT_WRITE_GOLDEN=1 writes the latter anew; read the difference before you commit it.
#include "controller/pods/target_pod.h"

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "controller/pods/manifest.h"
#include "controller/pods/names.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rapidjson/prettywriter.h"
#include "rapidjson/stringbuffer.h"
#include "tests/unit/controller/pods.h"

namespace godwit::controller {
namespace {

using ::testing::HasSubstr;

constexpr char kUid[] = "0f0e0d0c-0000-4000-8000-00000000abcd";

std::string Pretty(const k8s::Unstructured& object) {
  rapidjson::StringBuffer buffer;
  rapidjson::PrettyWriter<rapidjson::StringBuffer> writer(buffer);
  writer.SetIndent(' ', 2);
  object.value().Accept(writer);
  return std::string(buffer.GetString(), buffer.GetSize()) + "\n";
}

std::string Path(const std::string& name) { return absl::StrCat(GOLDEN_FOLDER, "/", name, ".json"); }

WholePod Source(const std::string& name) {
  const auto text = ReadFile(Path(name + ".source"));
  return *WholePod::From(*k8s::Unstructured::Parse(*text));
}

void ExpectGolden(const std::string& name, const k8s::Unstructured& made) {
  const std::string text = Pretty(made);
  if (std::getenv("GODWIT_WRITE_GOLDEN") != nullptr) {
    ASSERT_TRUE(WriteFileDurably(Path(name), text, 0644).ok());
  }
  const auto golden = ReadFile(Path(name));
  ASSERT_TRUE(golden.ok()) << golden.status();
  EXPECT_EQ(text, *golden);
}

class GoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, TargetPodIsAsRecorded) {
  const WholePod source = Source(GetParam());
  ExpectGolden(
      absl::StrCat(GetParam(), ".target"),
      TargetPod(source,
                {.name = MovedPodName(source.view.metadata, kUid), .node = "node-b", .owner_uid = kUid}));
}

TEST_P(GoldenTest, ManifestIsAsRecordedAndRestoredPodToo) {
  const WholePod source = Source(GetParam());
  const k8s::Unstructured manifest = PodManifest(source);
  ExpectGolden(absl::StrCat(GetParam(), ".manifest"), manifest);
  auto restored = RestoredPod(
      manifest, "shop", {.name = MovedPodName(manifest.Meta(), kUid), .node = "node-b", .owner_uid = kUid});
  ASSERT_TRUE(restored.ok()) << restored.status();
  ExpectGolden(absl::StrCat(GetParam(), ".restored"), *restored);
}

INSTANTIATE_TEST_SUITE_P(Golden, GoldenTest, ::testing::Values("plain", "deployment", "moved-before"),
                         [](const auto& info) {
                           std::string n = info.param;
                           std::replace(n.begin(), n.end(), '-', '_');
                           return n;
                         });

TEST(TargetPodTest, MovingTwiceLeavesOneNodeAndOneGate) {
  const WholePod first = Source("plain");
  k8s::Unstructured once = TargetPod(
      first, {.name = MovedPodName(first.view.metadata, "u1"), .node = "node-b", .owner_uid = "u1"});
  const WholePod second = *WholePod::From(once);
  const k8s::Unstructured twice = TargetPod(
      second, {.name = MovedPodName(second.view.metadata, "u2"), .node = "node-c", .owner_uid = "u2"});
  const std::string text = twice.ToJson();
  EXPECT_THAT(text, HasSubstr(R"("values":["node-c"])"));
  EXPECT_EQ(text.find("node-b"), std::string::npos);
  EXPECT_EQ(text.find("u1"), std::string::npos);
  EXPECT_EQ(twice.value()["spec"]["readinessGates"].Size(), 1u);
  EXPECT_EQ(twice.String("/metadata/name"), MovedPodName(first.view.metadata, "u2"));
}

TEST(TargetPodTest, ARequiredAffinityStaysInForceOnTheChosenNode) {
  const WholePod source =
      PodWith({{"/spec/affinity", R"({"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":
    {"nodeSelectorTerms":[{"matchExpressions":[{"key":"disk","operator":"In","values":["ssd"]}]},
                          {"matchExpressions":[{"key":"zone","operator":"In","values":["a"]}]}]}}})"}});
  const k8s::Unstructured target = TargetPod(source, {.name = "t", .node = "node-b", .owner_uid = kUid});
  const auto& terms = target.value()["spec"]["affinity"]["nodeAffinity"]
                                    ["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
  ASSERT_EQ(terms.Size(), 2u);
  for (const auto& term : terms.GetArray()) {
    EXPECT_TRUE(term.HasMember("matchExpressions"));
    EXPECT_STREQ(term["matchFields"][0]["values"][0].GetString(), "node-b");
  }
}

TEST(TargetPodTest, AnImageWithoutADigestStaysAsItIs) {
  const WholePod source = PodWith({{"/status/containerStatuses/0/imageID", "\"sha256:1111\""}});
  EXPECT_EQ(
      TargetPod(source, {.name = "t", .node = "n", .owner_uid = kUid}).String("/spec/containers/0/image"),
      "registry/app:1");
}

TEST(TargetPodTest, AVolumeOfThePodsOwnStaysWhateverItsName) {
  const WholePod source = PodWith(
      {{"/spec/volumes", R"([{"name":"kube-api-access-mine","projected":{"sources":[]}}])"},
       {"/spec/containers/0/volumeMounts", R"([{"name":"kube-api-access-mine","mountPath":"/tokens"}])"}});
  const k8s::Unstructured target = TargetPod(source, {.name = "t", .node = "n", .owner_uid = kUid});
  EXPECT_EQ(target.String("/spec/volumes/0/name"), "kube-api-access-mine");
  EXPECT_EQ(target.String("/spec/containers/0/volumeMounts/0/mountPath"), "/tokens");
}

TEST(HandOverTest, TheTargetRemembersItsLabelsAndOwnerShouldTheSourceBeGone) {
  const WholePod source = Source("deployment");
  const k8s::Unstructured target = TargetPod(source, {.name = "t", .node = "n", .owner_uid = kUid});
  EXPECT_EQ(HandOverFromTarget(target.Meta()), HandOverOf(source.view.metadata));
  EXPECT_EQ(HandOverFromTarget({}), HandOver{});
}

TEST(HandOverTest, OnePatchWithPreconditionsAndThenItIsDone) {
  const WholePod source = Source("deployment");
  k8s::ObjectMeta target = TargetPod(source, {.name = "t", .node = "n", .owner_uid = kUid}).Meta();
  target.uid = "target-uid";
  target.resource_version = "77";
  const HandOver hand_over = HandOverOf(source.view.metadata);
  EXPECT_FALSE(HandedOver(target, hand_over));
  const k8s::Unstructured patch = HandOverPatch(target, hand_over);
  EXPECT_EQ(patch.String("/metadata/uid"), "target-uid");
  EXPECT_EQ(patch.String("/metadata/resourceVersion"), "77");
  EXPECT_EQ(patch.String("/metadata/labels/pod-template-hash"), "7d9f");
  EXPECT_EQ(patch.String("/metadata/ownerReferences/0/kind"), "ReplicaSet");
  EXPECT_EQ(patch.value()["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
  target.labels.insert(hand_over.labels.begin(), hand_over.labels.end());
  target.owner_references = hand_over.owners;
  EXPECT_TRUE(HandedOver(target, hand_over));
}

TEST(ManifestTest, OnlyTheManifestThatTheCheckpointNamesIsTaken) {
  const std::string text = PodManifest(Source("plain")).ToJson();
  EXPECT_TRUE(CheckedManifest(text, Digest(text)).ok());
  const auto other = CheckedManifest(R"({"kind":"Pod"})", Digest(text));
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(CheckedManifest("not json", Digest(text)).ok());
  EXPECT_FALSE(RestoredPod(k8s::Unstructured(), "shop", {.name = "t", .node = "n", .owner_uid = kUid}).ok());
}

TEST(ManifestTest, LabelsStayExceptWhereAControllerWouldAdoptThePod) {
  const k8s::ObjectMeta of_deployment = PodManifest(Source("deployment")).Meta();
  EXPECT_EQ(of_deployment.Label("app"), "web");
  EXPECT_EQ(of_deployment.Label("pod-template-hash"), "");
  const WholePod of_set = PodWith(
      {{"/metadata/ownerReferences",
        R"([{"apiVersion":"apps/v1","kind":"StatefulSet","name":"w","uid":"u","controller":true}])"}});
  EXPECT_TRUE(PodManifest(of_set).Meta().labels.empty());
}

}  // namespace
}  // namespace godwit::controller
