// SPDX-License-Identifier: Apache-2.0
#include "k8s/meta.h"

#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/apps.h"
#include "k8s/core.h"
#include "k8s/pod.h"
#include "k8s/quantity.h"
#include "k8s/resource.h"

namespace godwit::k8s {
namespace {

constexpr absl::Time kNoon = absl::FromUnixSeconds(1'767'268'800);  // 2026-01-01T12:00:00Z

TEST(ResourceTest, PathsFollowTheApi) {
  EXPECT_EQ(ResourcePath(Pod::kResource, "shop"), "/api/v1/namespaces/shop/pods");
  EXPECT_EQ(ResourcePath(Pod::kResource, ""), "/api/v1/pods");
  EXPECT_EQ(ResourcePath(Pod::kResource, "shop", "cache-0", "status"),
            "/api/v1/namespaces/shop/pods/cache-0/status");
  EXPECT_EQ(ResourcePath(Node::kResource, "", "edge-7"), "/api/v1/nodes/edge-7");
  EXPECT_EQ(ResourcePath(Lease::kResource, "kube-system", "x"),
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x");
}

TEST(ResourceTest, NoNameCanChangeThePathsShape) {
  EXPECT_EQ(ResourcePath(Pod::kResource, "shop", "../../secrets/x?y"),
            "/api/v1/namespaces/shop/pods/..%2F..%2Fsecrets%2Fx%3Fy");
  EXPECT_EQ(ResourcePath(Pod::kResource, "shop", ".."), "/api/v1/namespaces/shop/pods/%2E%2E");
}

TEST(ResourceTest, NamesAreParsedAsTheyArePrinted) {
  for (const ObjectName& name : {ObjectName{"shop", "cache-0"}, ObjectName{"", "edge-7"}}) {
    EXPECT_EQ(ObjectName::Parse(name.ToString()), name);
  }
}

TEST(MetaTest, MicroTimeHasSixDigitsAlways) {
  EXPECT_EQ(json::Encode(LeaseSpec{.renew_time = MicroTime{kNoon}}),
            R"({"renewTime":"2026-01-01T12:00:00.000000Z"})");
  absl::StatusOr<LeaseSpec> read = json::Decode<LeaseSpec>(R"({"renewTime":"2026-01-01T12:00:00.250000Z"})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->renew_time->time, kNoon + absl::Milliseconds(250));
}

TEST(MetaTest, BytesAreBase64) {
  absl::StatusOr<Secret> secret = json::Decode<Secret>(R"({"data":{"key":"AAEC/w=="}})");
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_EQ(secret->data["key"].bytes, std::string("\x00\x01\x02\xff", 4));
  EXPECT_EQ(json::Encode(*secret), R"({"data":{"key":"AAEC/w=="}})");
  EXPECT_EQ(json::Decode<Secret>(R"({"data":{"key":"a b!"}})").status().message(), "data.key: not base64");
}

TEST(MetaTest, ManagedFieldsAndNullsAreNoHindrance) {
  absl::StatusOr<Pod> pod =
      json::Decode<Pod>(R"({"kind":"Pod","metadata":{"name":"a","creationTimestamp":null,
    "managedFields":[{"manager":"kubectl","fieldsV1":{"f:spec":{}}}],"ownerReferences":[
    {"apiVersion":"v1","kind":"X","name":"x","uid":"1"},{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"rs","uid":"2","controller":true}]}})");
  ASSERT_TRUE(pod.ok()) << pod.status();
  ASSERT_NE(pod->metadata.Controller(), nullptr);
  EXPECT_EQ(pod->metadata.Controller()->name, "rs");
  EXPECT_FALSE(pod->metadata.creation_timestamp.has_value());
}

TEST(ConditionTest, AMessageThatIsTooLongIsCutBetweenCharacters) {
  std::vector<Condition> conditions;
  std::string message;
  while (message.size() < kMaxConditionMessage) message += "\u00e4";
  SetCondition(conditions, {.type = "Ready", .status = "False", .message = message + "x"}, kNoon);
  const std::string& cut = conditions.front().message;
  EXPECT_LE(cut.size(), kMaxConditionMessage);
  EXPECT_EQ(cut, message.substr(0, cut.size() - 3) + "...");
  EXPECT_EQ((cut.size() - 3) % 2, 0u);
}

TEST(ConditionTest, TheTimeMovesOnlyWithTheStatus) {
  std::vector<Condition> conditions;
  EXPECT_TRUE(SetCondition(conditions, {.type = "Ready", .status = "False", .reason = "Starting"}, kNoon));
  EXPECT_TRUE(SetCondition(conditions, {.type = "Ready", .status = "False", .reason = "Pulling"},
                           kNoon + absl::Hours(1)));
  EXPECT_EQ(FindCondition(conditions, "Ready")->last_transition_time, kNoon);
  EXPECT_EQ(FindCondition(conditions, "Ready")->reason, "Pulling");
  EXPECT_FALSE(SetCondition(conditions, {.type = "Ready", .status = "False", .reason = "Pulling"},
                            kNoon + absl::Hours(2)));
  EXPECT_TRUE(SetCondition(conditions, {.type = "Ready", .status = "True", .reason = "Up"},
                           kNoon + absl::Hours(3) + absl::Milliseconds(7)));
  EXPECT_EQ(FindCondition(conditions, "Ready")->last_transition_time, kNoon + absl::Hours(3))
      << "whole seconds";
  EXPECT_TRUE(IsConditionTrue(conditions, "Ready"));
  EXPECT_TRUE(RemoveCondition(conditions, "Ready"));
  EXPECT_FALSE(RemoveCondition(conditions, "Ready"));
  EXPECT_EQ(FindCondition(conditions, "Ready"), nullptr);
}

TEST(ConditionTest, AMessageIsWrittenEvenWhenItIsEmpty) {
  EXPECT_EQ(
      json::Encode(
          Condition{.type = "Ready", .status = "True", .last_transition_time = kNoon, .reason = "Up"}),
      R"({"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T12:00:00Z","reason":"Up","message":""})");
}

TEST(LabelSelectorTest, MatchesAsKubernetesDoes) {
  const std::map<std::string, std::string> labels{{"app", "web"}, {"tier", "front"}};
  const auto matches = [&labels](const char* op, std::vector<std::string> values, const char* key = "tier") {
    LabelSelector selector;
    selector.match_expressions = {{key, op, std::move(values)}};
    return selector.Matches(labels);
  };
  EXPECT_TRUE(LabelSelector().Matches(labels)) << "an empty selector selects everything";
  EXPECT_TRUE((LabelSelector{.match_labels = {{"app", "web"}}}).Matches(labels));
  EXPECT_FALSE((LabelSelector{.match_labels = {{"app", "web"}, {"x", ""}}}).Matches(labels));
  EXPECT_TRUE(matches("In", {"back", "front"}));
  EXPECT_FALSE(matches("In", {"back"}));
  EXPECT_FALSE(matches("NotIn", {"front"}));
  EXPECT_TRUE(matches("NotIn", {"front"}, "absent"));
  EXPECT_TRUE(matches("Exists", {}));
  EXPECT_FALSE(matches("Exists", {}, "absent"));
  EXPECT_TRUE(matches("DoesNotExist", {}, "absent"));
  EXPECT_FALSE(matches("Gt", {"1"})) << "an operator that is none of the four selects nothing";
}

TEST(LabelSelectorTest, IsWrittenAsAQueryWantsIt) {
  LabelSelector selector{.match_labels = {{"app", "web"}}};
  selector.match_expressions = {
      {"tier", "In", {"a", "b"}}, {"x", "NotIn", {"c"}}, {"y", "Exists", {}}, {"z", "DoesNotExist", {}}};
  EXPECT_EQ(selector.ToString(), "app=web,tier in (a,b),x notin (c),y,!z");
}

TEST(PodTest, VolumesTellTheirKindAndKeepTheirSource) {
  const char* text = R"({"spec":{"volumes":[{"name":"tmp","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}},
    {"name":"tok","projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}},{"name":"bare","emptyDir":{}}]}})";
  absl::StatusOr<Pod> pod = json::Decode<Pod>(text);
  ASSERT_TRUE(pod.ok()) << pod.status();
  ASSERT_EQ(pod->spec.volumes.size(), 3u);
  EXPECT_EQ(pod->spec.volumes[0].kind, "emptyDir");
  EXPECT_EQ(pod->spec.volumes[0].empty_dir->medium, "Memory");
  EXPECT_EQ(pod->spec.volumes[1].kind, "projected");
  EXPECT_FALSE(pod->spec.volumes[1].empty_dir.has_value());
  EXPECT_TRUE(pod->spec.volumes[2].empty_dir.has_value());
  EXPECT_EQ(*json::Parse(json::Encode(*pod)), *json::Parse(text)) << "nothing is lost on the way back";
}

TEST(PodTest, TolerationsBearTaintsAsTheSchedulerSaysSo) {
  const Taint taint{.key = "edge", .value = "yes", .effect = "NoSchedule"};
  EXPECT_TRUE((Toleration{.key = "edge", .op = "Exists"}).Tolerates(taint));
  EXPECT_TRUE((Toleration{.op = "Exists"}).Tolerates(taint)) << "no key and Exists: all taints";
  EXPECT_TRUE((Toleration{.key = "edge", .value = "yes", .effect = "NoSchedule"}).Tolerates(taint));
  EXPECT_FALSE((Toleration{.key = "edge", .value = "no"}).Tolerates(taint));
  EXPECT_FALSE((Toleration{.key = "edge", .op = "Exists", .effect = "NoExecute"}).Tolerates(taint));
  EXPECT_FALSE((Toleration{.key = "other", .op = "Exists"}).Tolerates(taint));
}

TEST(NodeTest, SaysWhetherItIsReadyAndWhatItRuns) {
  absl::StatusOr<Node> node =
      json::Decode<Node>(R"({"status":{"conditions":[{"type":"Ready","status":"True"}],
    "runtimeHandlers":[{"name":""},{"name":"godwit","features":{"userNamespaces":true}}],
    "addresses":[{"type":"InternalIP","address":"10.0.0.7"}],"nodeInfo":{"architecture":"arm64"}}})");
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_TRUE(node->ready());
  EXPECT_TRUE(node->HasRuntimeHandler("godwit"));
  EXPECT_FALSE(node->HasRuntimeHandler("kata"));
  EXPECT_EQ(node->Address("InternalIP"), "10.0.0.7");
  EXPECT_EQ(node->Address("Hostname"), "");
}

TEST(QuantityTest, ReadsWhatKubernetesWrites) {
  const std::pair<const char*, int64_t> cases[] = {{"0", 0},
                                                   {"512Mi", 512ll << 20},
                                                   {"1.5G", 1'500'000'000},
                                                   {"100m", 1},
                                                   {"2", 2},
                                                   {"1k", 1000},
                                                   {"1e3", 1000},
                                                   {"1E", 1'000'000'000'000'000'000},
                                                   {"2.5Ki", 2560},
                                                   {"0.1Ki", 103},
                                                   {"-5", -5},
                                                   {"123n", 1},
                                                   {"7Ei", 8'070'450'532'247'928'832},
                                                   {"9223372036854775807", INT64_MAX}};
  for (const auto& [text, expected] : cases) {
    absl::StatusOr<int64_t> value = ParseQuantity(text);
    ASSERT_TRUE(value.ok()) << text << ": " << value.status();
    EXPECT_EQ(*value, expected) << text;
  }
  EXPECT_EQ(*ParseMilliQuantity("100m"), 100);
  EXPECT_EQ(*ParseMilliQuantity("1.5"), 1500);
}

TEST(QuantityTest, RefusesNonsenseAndOverflow) {
  for (const char* text :
       {"", "Mi", "1.2.3", "12 Mi", "1Zi", "0x10", "1e99", "--1", "1e", "12345678901234567890123"}) {
    EXPECT_EQ(ParseQuantity(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  for (const char* text : {"8Ei", "9223372036854775808", "1000000000000000000Ei", "9.9999999999999999Ei"}) {
    EXPECT_EQ(ParseQuantity(text).status().code(), absl::StatusCode::kOutOfRange) << text;
  }
}

}  // namespace
}  // namespace godwit::k8s
