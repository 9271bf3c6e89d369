// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/eligibility.h"

#include "absl/strings/str_cat.h"
#include "controller/pods/findings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/pods.h"

namespace godwit::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(EligibilityTest, AnOrdinaryRunningPodIsMovable) { EXPECT_THAT(WhyNotMovable(PodWith()), IsEmpty()); }

// A status of megabytes would be written by no API server, and the end of its Migration neither.
TEST(EligibilityTest, ThousandsOfReasonsAreToldByAFew) {
  std::string limits;
  for (int i = 0; i < 3000; ++i)
    absl::StrAppend(&limits, i == 0 ? "" : ",", "\"example.com/r", i, "\":\"1\"");
  const std::string resources = absl::StrCat("{\"limits\":{", limits, "}}");
  const auto findings = WhyNotMovable(PodWith({{"/spec/containers/0/resources", resources.c_str()}}));
  EXPECT_EQ(findings.size(), 3u);
  EXPECT_LT(FirstBlocking(std::vector(100, findings.front()))->message.size(), 8192u);
}

struct Case {
  const char* name;
  const char* pointer;
  const char* json;
  const char* id;
  const char* says;
};
class WhyNotMovableTest : public ::testing::TestWithParam<Case> {};

TEST_P(WhyNotMovableTest, SaysWhat) {
  const Case& c = GetParam();
  const auto findings = WhyNotMovable(PodWith({{c.pointer, c.json}}));
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].id, c.id);
  EXPECT_EQ(findings[0].severity, crds::Severity::kBlocking);
  EXPECT_THAT(findings[0].message, HasSubstr(c.says));
  EXPECT_FALSE(findings[0].remedy.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Table, WhyNotMovableTest,
    ::testing::Values(
        Case{"Pending", "/status/phase", R"("Pending")", "PodNotRunning", "phase is Pending"},
        Case{"Deleted", "/metadata/deletionTimestamp", R"("2026-01-02T03:04:05Z")", "PodTerminating",
             "being deleted"},
        Case{"Crashed", "/status/containerStatuses/0/state", R"({"waiting":{"reason":"CrashLoopBackOff"}})",
             "ContainerNotRunning", "container app waits (CrashLoopBackOff)"},
        Case{"Debugged", "/status/ephemeralContainerStatuses", R"([{"name":"d","state":{"running":{}}}])",
             "EphemeralContainer", "kubectl debug"},
        Case{"Mirror", "/metadata/annotations", R"({"kubernetes.io/config.mirror":"x"})", "StaticPod",
             "static pod"},
        Case{"Windows", "/spec/os", R"({"name":"windows"})", "Windows", "Windows"},
        Case{"HostNetwork", "/spec/hostNetwork", "true", "HostNamespace", "hostNetwork"},
        Case{"HostPid", "/spec/hostPID", "true", "HostNamespace", "hostPID"},
        Case{"HostIpc", "/spec/hostIPC", "true", "HostNamespace", "hostIPC"},
        Case{"SharedPid", "/spec/shareProcessNamespace", "true", "SharedProcessNamespace",
             "shareProcessNamespace"},
        Case{"Kata", "/spec/runtimeClassName", R"("kata")", "RuntimeClass", "RuntimeClass kata"},
        Case{"Claims", "/spec/resourceClaims", R"([{"name":"gpu"}])", "ResourceClaim", "resource claims"},
        Case{"Sidecar", "/spec/initContainers", R"([{"name":"proxy","image":"i","restartPolicy":"Always"}])",
             "Sidecar", "init container proxy is a sidecar"},
        Case{"Gpu", "/spec/containers/0/resources", R"({"limits":{"nvidia.com/gpu":"1","memory":"1Gi"}})",
             "ExtendedResource", "nvidia.com/gpu"},
        Case{"HugePages", "/spec/containers/0/resources", R"({"limits":{"hugepages-2Mi":"4Mi"}})",
             "ExtendedResource", "hugepages-2Mi"},
        Case{"BlockDevice", "/spec/containers/0/volumeDevices", R"([{"name":"d","devicePath":"/dev/x"}])",
             "VolumeDevice", "raw block device"},
        Case{"HostPath", "/spec/volumes", R"([{"name":"v","hostPath":{"path":"/x"}}])", "UnsupportedVolume",
             "volume v is of kind hostPath"},
        Case{"Claim", "/spec/volumes", R"([{"name":"v","persistentVolumeClaim":{"claimName":"x"}}])",
             "UnsupportedVolume", "persistentVolumeClaim"}),
    [](const auto& info) { return info.param.name; });

TEST(EligibilityTest, VolumesThatCanBeCarriedAndInitContainersThatEndedAreFine) {
  EXPECT_THAT(WhyNotMovable(PodWith(
                  {{"/spec/volumes",
                    R"([{"name":"a","emptyDir":{"medium":"Memory"}},{"name":"b","configMap":{"name":"x"}},
                                          {"name":"c","secret":{"secretName":"x"}},{"name":"d","projected":{"sources":[]}},
                                          {"name":"e","downwardAPI":{"items":[]}}])"},
                   {"/spec/initContainers", R"([{"name":"setup","image":"i"}])"}})),
              IsEmpty());
}

k8s::ReplicaSet SetOwnedBy(const std::string& kind) {
  k8s::ReplicaSet set;
  set.metadata.name = "web-1";
  if (!kind.empty())
    set.metadata.owner_references = {
        {.api_version = "apps/v1", .kind = kind, .name = "web", .uid = "d", .controller = true}};
  return set;
}

TEST(OwnerTest, BarePodsAndPodsOfADeploymentAreSupportedOthersAreNot) {
  const auto owned = [](const char* kind) {
    return PodView(
        {{"/metadata/ownerReferences", absl::StrCat(R"([{"apiVersion":"apps/v1","kind":")", kind,
                                                    R"(","name":"web-1","uid":"u","controller":true}])")}});
  };
  const k8s::ReplicaSet of_deployment = SetOwnedBy("Deployment");
  const k8s::ReplicaSet alone = SetOwnedBy("");
  EXPECT_FALSE(WhyOwnerUnsupported(PodView(), nullptr));
  EXPECT_FALSE(WhyOwnerUnsupported(owned("ReplicaSet"), &of_deployment));
  EXPECT_THAT(WhyOwnerUnsupported(owned("StatefulSet"), nullptr)->message,
              HasSubstr("owned by StatefulSet web-1"));
  EXPECT_THAT(WhyOwnerUnsupported(owned("ReplicaSet"), &alone)->message,
              HasSubstr("which no Deployment owns"));
  EXPECT_THAT(WhyOwnerUnsupported(owned("ReplicaSet"), nullptr)->message, HasSubstr("does not exist"));
}

TEST(FreezeLimitTest, IsThatOfTheTightestProbe) {
  const auto with = [](const char* probes) {
    return PodView({{"/spec/containers/0", absl::StrCat(R"({"name":"app","image":"i")", probes, "}")}});
  };
  const absl::Duration cap = absl::Seconds(90);
  EXPECT_EQ(*FreezeLimit(with(""), cap), cap);
  EXPECT_EQ(*FreezeLimit(with(R"(,"livenessProbe":{"httpGet":{"port":80}})"), cap),
            absl::Milliseconds(19750));
  EXPECT_EQ(*FreezeLimit(with(R"(,"livenessProbe":{"periodSeconds":5,"failureThreshold":4})"), cap),
            absl::Milliseconds(14750));
  EXPECT_EQ(*FreezeLimit(with(R"(,"livenessProbe":{"periodSeconds":60,"failureThreshold":10})"), cap), cap);
  EXPECT_EQ(*FreezeLimit(with(R"(,"startupProbe":{"periodSeconds":1,"failureThreshold":2})"), cap), cap)
      << "it has started";
  const auto tight = FreezeLimit(with(R"(,"livenessProbe":{"periodSeconds":60,"failureThreshold":1})"), cap);
  EXPECT_EQ(tight.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(tight.status().message()), HasSubstr("failureThreshold 1"));
  EXPECT_TRUE(HasLivenessProbe(with(R"(,"livenessProbe":{"httpGet":{"port":80}})")));
  EXPECT_FALSE(HasLivenessProbe(with("")));
}

TEST(FreezeLimitTest, AStartupProbeCountsUntilItHasSucceeded) {
  k8s::Pod pod =
      PodView({{"/spec/containers/0/startupProbe", R"({"periodSeconds":1,"failureThreshold":3})"}});
  pod.status.container_statuses[0].started = false;
  EXPECT_EQ(*FreezeLimit(pod, absl::Seconds(90)), absl::Milliseconds(1750));
}

TEST(HostPortTest, ATakenPortOnTheTargetIsFoundFreeOnesAreNot) {
  const auto with_port = [](const char* name, const char* node, const char* phase) {
    return PodView({{"/metadata/name", absl::StrCat("\"", name, "\"")},
                    {"/spec/nodeName", absl::StrCat("\"", node, "\"")},
                    {"/status/phase", absl::StrCat("\"", phase, "\"")},
                    {"/spec/containers/0/ports", R"([{"containerPort":80,"hostPort":8080}])"}});
  };
  const k8s::Pod pod = with_port("cache-0", "node-a", "Running");
  const auto taken = HostPortTaken(pod, {with_port("web", "node-b", "Running")}, "node-b");
  ASSERT_TRUE(taken);
  EXPECT_THAT(taken->message,
              HasSubstr("8080/TCP of container app is in use on node node-b by pod shop/web"));
  EXPECT_FALSE(HostPortTaken(
      pod, {with_port("web", "node-c", "Running"), with_port("job", "node-b", "Succeeded")}, "node-b"));
  EXPECT_FALSE(HostPortTaken(PodView(), {with_port("web", "node-b", "Running")}, "node-b"));
}

TEST(HostPortTest, APodOfAnotherNamespaceIsNotNamed) {
  const auto with_port = [](const char* name_space, const char* name) {
    return PodView({{"/metadata/name", absl::StrCat("\"", name, "\"")},
                    {"/metadata/namespace", absl::StrCat("\"", name_space, "\"")},
                    {"/spec/nodeName", "\"node-b\""},
                    {"/spec/containers/0/ports", R"([{"containerPort":80,"hostPort":8080}])"}});
  };
  const auto taken = HostPortTaken(with_port("shop", "cache-0"), {with_port("bank", "vault")}, "node-b");
  ASSERT_TRUE(taken);
  EXPECT_THAT(taken->message, HasSubstr("is in use on node node-b by a pod of another namespace"));
}

TEST(FindingsTest, AllBlockingSentencesAreToldUnderTheFirstOnesId) {
  const std::vector<crds::Finding> findings = {
      {.id = "W", .severity = crds::Severity::kWarning, .message = "warn"},
      {.id = "A",
       .severity = crds::Severity::kBlocking,
       .container = "app",
       .message = "io_uring is used",
       .remedy = "Turn it off."},
      {.id = "B", .severity = crds::Severity::kBlocking, .message = "a device is open"}};
  const auto blocking = FirstBlocking(findings);
  ASSERT_TRUE(blocking);
  EXPECT_EQ(blocking->reason, "A");
  EXPECT_EQ(blocking->message, "container app: io_uring is used. Turn it off.; a device is open");
  EXPECT_FALSE(FirstBlocking({findings[0]}));
}

}  // namespace
}  // namespace godwit::controller
