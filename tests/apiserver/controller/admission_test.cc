// SPDX-License-Identifier: Apache-2.0
// The chart's admission policies on a real API server: what somebody with rights in one namespace gets, and
// what not.
#include <string>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "crds/checkpoint.h"
#include "crds/migration.h"
#include "crds/restore.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/error.h"
#include "k8s/pod.h"
#include "tests/apiserver/conditions.h"
#include "tests/apiserver/controller/crds.h"
#include "tests/apiserver/environment.h"

namespace godwit::apiserver {
namespace {

using crds::Checkpoint;
using crds::Migration;
using crds::Restore;
using ::testing::HasSubstr;

constexpr char kController[] = "system:serviceaccount:godwit-system:godwit-controller";
constexpr char kMove[] = "{podRef: {name: cache-0}, target: {nodeName: b}}";
constexpr char kKeep[] = "{podRef: {name: cache-0}}";
constexpr char kBring[] = "{checkpointRef: {name: kept}}";
constexpr char kOwnKinds[] =
    "{apiGroups: [godwit.io], resources: ['*'], verbs: [create, patch, update, delete]}";

// The template as helm renders it for release namespace godwit-system.
std::vector<k8s::Unstructured> Policies() {
  const auto text = ReadFile(ADMISSION_TEMPLATE);
  CHECK_OK(text.status());
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (!absl::StartsWith(line, "{{") && !absl::StrContains(line, "labels: {{")) lines.emplace_back(line);
  }
  const std::string plain =
      absl::StrReplaceAll(absl::StrJoin(lines, "\n"), {{"{{ .Release.Namespace }}", "godwit-system"}});
  CHECK(!absl::StrContains(plain, "{{")) << "the template has something new";
  std::vector<k8s::Unstructured> objects;
  for (const absl::string_view one : absl::StrSplit(plain, "\n---\n"))
    objects.push_back(FromYaml(std::string(one)));
  return objects;
}

void InstallPolicies(const k8s::Api& api) {
  for (const k8s::Unstructured& object : Policies()) {
    const std::string kind = object.String("/kind");
    const k8s::Resource resource{"admissionregistration.k8s.io", "v1",
                                 kind == "ValidatingAdmissionPolicy" ? "validatingadmissionpolicies"
                                                                     : "validatingadmissionpolicybindings",
                                 kind, false};
    CHECK_OK(k8s::Client<k8s::Unstructured>(api, resource)
                 .Apply(object, {.field_manager = "test", .force = true})
                 .status());
  }
}

class AdmissionTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const k8s::Api api = Environment::Shared().api();
    InstallCrds(api);
    InstallPolicies(api);
    // Policies are in force a moment after they were written.
    AdmissionTest some;
    some.Grant("nobody", {kOwnKinds, "{apiGroups: [''], resources: [pods], verbs: [create]}"});
    CHECK(WaitUntil([&] {
      return absl::StrContains(some.Create<Migration>("nobody", kMove).message(), "lacks the right to") &&
             absl::StrContains(some.CreatePod("nobody", "{annotations: {godwit.io/migration: x}}").message(),
                               "written on pods by");
    }));
  }
  AdmissionTest() : ns_(Environment::Shared().NewNamespace("admit")) {
    // Pods may be created without a controller manager that makes the account.
    (void)k8s::Client<k8s::Unstructured>(admin_, {"", "v1", "serviceaccounts", "ServiceAccount", true})
        .Create(FromYaml(absl::StrCat(
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: ", ns_, "}}")));
  }
  void TestBody() override {}

  // Gives `user` the rules in the test's namespace, or in another.
  void Grant(const std::string& user, const std::vector<std::string>& rules, std::string where = "") {
    if (where.empty()) where = ns_;
    const std::string group = "rbac.authorization.k8s.io";
    const std::string name = absl::StrReplaceAll(user, {{":", "-"}});
    const auto make = [&](const char* kind, const char* plural, const std::string& rest) {
      const auto made = k8s::Client<k8s::Unstructured>(admin_, {group, "v1", plural, kind, true})
                            .Create(FromYaml(absl::StrCat("{apiVersion: ", group, "/v1, kind: ", kind,
                                                          ", metadata: {name: ", name, ", namespace: ", where,
                                                          "}, ", rest, "}")));
      CHECK_OK(made.status());
    };
    make("Role", "roles", absl::StrCat("rules: [", absl::StrJoin(rules, ", "), "]"));
    make("RoleBinding", "rolebindings",
         absl::StrCat("roleRef: {apiGroup: ", group, ", kind: Role, name: ", name,
                      "}, subjects: [{apiGroup: ", group, ", kind: User, name: '", user, "'}]"));
    const k8s::Api api = Api(user);
    // The authorizer reads from a cache.
    CHECK(WaitUntil([&] {
      const auto review =
          k8s::Client<k8s::Unstructured>(
              api, {"authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false})
              .Create(FromYaml(
                  absl::StrCat("{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectRulesReview, spec: "
                               "{namespace: ",
                               where, "}}")));
      return review.ok() && (absl::StrContains(review->ToJson(), "\"pods") ||
                             absl::StrContains(review->ToJson(), "godwit.io"));
    }));
  }
  static k8s::Api Api(const std::string& user) {
    return Environment::ApiFor(Environment::Shared().ConfigFor(user));
  }

  template <class T>
  absl::Status Create(const std::string& user, const std::string& spec) {
    k8s::Unstructured object = FromYaml(
        absl::StrCat("{apiVersion: godwit.io/v1alpha1, kind: ", T::kResource.kind, ", spec: ", spec, "}"));
    object.Set("/metadata/namespace", ns_);
    object.Set("/metadata/generateName", "x-");
    auto made = k8s::Client<k8s::Unstructured>(Api(user), T::kResource).Create(object);
    if (made.ok()) last_ = *std::move(made);
    return made.status();
  }
  template <class T>
  absl::Status Change(const std::string& user, const std::string& patch) {
    return k8s::Client<k8s::Unstructured>(Api(user), T::kResource)
        .MergePatch(ns_, last_.String("/metadata/name"), FromYaml(patch))
        .status();
  }
  // `gates`: of its scheduling.
  absl::Status CreatePod(const std::string& user, const std::string& metadata,
                         const std::string& gates = "[]") {
    k8s::Unstructured pod =
        FromYaml(absl::StrCat("{apiVersion: v1, kind: Pod, metadata: ", metadata,
                              ", spec: {schedulingGates: ", gates, ", containers: [{name: c, image: i}]}}"));
    pod.Set("/metadata/namespace", ns_);
    pod.Set("/metadata/generateName", "x-");
    auto made = k8s::Client<k8s::Unstructured>(Api(user), k8s::Pod::kResource).Create(pod);
    if (made.ok()) last_ = *std::move(made);
    return made.status();
  }

  const k8s::Api admin_ = Environment::Shared().api();
  const std::string ns_;
  k8s::Unstructured last_;
};

#define EXPECT_LACKS(status, right)                                                                     \
  do {                                                                                                  \
    const absl::Status refused = (status);                                                              \
    EXPECT_TRUE(k8s::IsForbidden(refused)) << refused;                                                  \
    EXPECT_THAT(std::string(refused.message()), HasSubstr(absl::StrCat("lacks the right to ", right))); \
  } while (false)

std::string Rule(const std::string& resource, const std::string& verb, const std::string& names = "") {
  return absl::StrCat("{apiGroups: ['", resource == "checkpoints" ? "godwit.io" : "", "'], resources: [",
                      resource, "], verbs: [", verb, "]",
                      names.empty() ? "" : absl::StrCat(", resourceNames: [", names, "]"), "}");
}

TEST_F(AdmissionTest, AMigrationNeedsTheRightsToDoByHandWhatItDoes) {
  const std::string create = Rule("pods", "create");
  const std::string remove = Rule("pods", "delete");
  const std::string evict = Rule("pods/eviction", "create");
  Grant("none", {kOwnKinds});
  Grant("creates-not", {kOwnKinds, remove, evict});
  Grant("deletes-not", {kOwnKinds, create, evict});
  Grant("evicts-not", {kOwnKinds, create, remove});
  Grant("may", {kOwnKinds, create, remove, evict});
  EXPECT_LACKS(Create<Migration>("none", kMove), "create pods in namespace ");
  EXPECT_LACKS(Create<Migration>("creates-not", kMove), "create pods in namespace ");
  EXPECT_LACKS(Create<Migration>("deletes-not", kMove), "delete pods in namespace ");
  EXPECT_LACKS(Create<Migration>("evicts-not", kMove), "create pods/eviction in namespace ");
  EXPECT_TRUE(Create<Migration>("may", kMove).ok());
}

TEST_F(AdmissionTest, ACheckpointNeedsTheRightToEnterThePod) {
  Grant("manager", {kOwnKinds, Rule("pods", "create, delete, get, list"), Rule("pods/eviction", "create")});
  Grant("enterer", {kOwnKinds, Rule("pods/exec", "create")});
  EXPECT_LACKS(Create<Checkpoint>("manager", kKeep), "create pods/exec in namespace ");
  EXPECT_TRUE(Create<Checkpoint>("enterer", kKeep).ok());
}

TEST_F(AdmissionTest, ARestoreNeedsTheCheckpointAndTheRightsToCreateAndEnterPods) {
  const std::string create = Rule("pods", "create");
  const std::string enter = Rule("pods/exec", "create");
  Grant("none", {kOwnKinds});
  Grant("reads-not", {kOwnKinds, create, enter});
  Grant("reads-another", {kOwnKinds, create, enter, Rule("checkpoints", "get", "other")});
  Grant("enters-not", {kOwnKinds, create, Rule("checkpoints", "get")});
  Grant("may", {kOwnKinds, create, enter, Rule("checkpoints", "get", "kept")});
  EXPECT_LACKS(Create<Restore>("none", kBring), "create pods in namespace ");
  EXPECT_LACKS(Create<Restore>("reads-not", kBring), "get checkpoints.godwit.io in namespace ");
  EXPECT_LACKS(Create<Restore>("reads-another", kBring), "get checkpoints.godwit.io in namespace ");
  EXPECT_LACKS(Create<Restore>("enters-not", kBring), "create pods/exec in namespace ");
  EXPECT_TRUE(Create<Restore>("may", kBring).ok());
}

TEST_F(AdmissionTest, RightsOnOnePodAreGoodForThatPod) {
  Grant("owner", {kOwnKinds, Rule("pods/exec", "create", "cache-0"), Rule("pods", "create"),
                  Rule("pods", "delete", "cache-0"), Rule("pods/eviction", "create", "cache-0")});
  EXPECT_TRUE(Create<Checkpoint>("owner", kKeep).ok());
  EXPECT_TRUE(Create<Migration>("owner", kMove).ok());
  EXPECT_LACKS(Create<Checkpoint>("owner", "{podRef: {name: cache-1}}"), "create pods/exec");
  EXPECT_LACKS(Create<Migration>("owner", "{podRef: {name: cache-1}, target: {nodeName: b}}"), "delete pods");
}

TEST_F(AdmissionTest, RightsInAnotherNamespaceDoNotCount) {
  Grant("elsewhere", {kOwnKinds});
  Grant("elsewhere",
        {Rule("pods", "create, delete"), Rule("pods/eviction", "create"), Rule("pods/exec", "create")},
        Environment::Shared().NewNamespace("other"));
  EXPECT_LACKS(Create<Migration>("elsewhere", kMove), "create pods in namespace ");
  EXPECT_LACKS(Create<Checkpoint>("elsewhere", kKeep), "create pods/exec");
}

TEST_F(AdmissionTest, WhoMayNotGiveAnOrderMayNotChangeOneEither) {
  Grant("may", {kOwnKinds, Rule("pods", "create, delete"), Rule("pods/eviction", "create")});
  Grant("none", {kOwnKinds});
  ASSERT_TRUE(Create<Migration>("may", kMove).ok());
  EXPECT_LACKS(Change<Migration>("none", "{spec: {timeout: 1h}}"), "create pods");
  EXPECT_TRUE(Change<Migration>("may", "{spec: {timeout: 1h}}").ok());
  EXPECT_TRUE(Change<Migration>("none", "{metadata: {labels: {team: a}}}").ok()) << "no order";
}

TEST_F(AdmissionTest, StatusIsWrittenByTheControllerAlone) {
  Grant("everything", {"{apiGroups: [godwit.io], resources: ['*'], verbs: ['*', create]}",
                       Rule("pods", "create, delete"), Rule("pods/eviction", "create")});
  Grant(kController, {"{apiGroups: [godwit.io], resources: ['*'], verbs: ['*', create]}"});
  ASSERT_TRUE(Create<Migration>("everything", kMove).ok());
  const auto write = [&](const std::string& user) {
    return Api(user)
        .Patch(Migration::kResource, {ns_, last_.String("/metadata/name")}, k8s::PatchType::kMerge,
               R"({"status":{"phase":"Copying"}})", {.subresource = "status"})
        .status();
  };
  const absl::Status refused = write("everything");
  EXPECT_TRUE(k8s::IsForbidden(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("written by the controller of Godwit, not by everything"));
  EXPECT_TRUE(write(kController).ok());
}

TEST_F(AdmissionTest, NobodyMarksAPodOfHisOwnAsATarget) {
  Grant("tenant", {"{apiGroups: [''], resources: [pods], verbs: ['*', create]}"});
  Grant(kController, {"{apiGroups: [''], resources: [pods], verbs: ['*', create]}"});
  for (const char* mark :
       {"{labels: {godwit.io/migration: some-uid}}", "{annotations: {godwit.io/migration: some-uid}}",
        "{annotations: {godwit.io/hand-over: '{}'}}"}) {
    const absl::Status refused = CreatePod("tenant", mark);
    EXPECT_TRUE(k8s::IsForbidden(refused)) << mark << " " << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("by the controller of Godwit, not by tenant"));
  }
  ASSERT_TRUE(CreatePod("tenant", "{labels: {app: a}}").ok());
  EXPECT_TRUE(k8s::IsForbidden(Change<k8s::Pod>("tenant", "{metadata: {labels: {godwit.io/migration: u}}}")));
  EXPECT_TRUE(
      k8s::IsForbidden(Change<k8s::Pod>("tenant", "{metadata: {annotations: {godwit.io/migration: u}}}")));

  ASSERT_TRUE(
      CreatePod(kController, "{labels: {godwit.io/migration: u}, annotations: {godwit.io/migration: u}}")
          .ok());
  EXPECT_TRUE(Change<k8s::Pod>("tenant", "{metadata: {labels: {app: b}}}").ok())
      << "the mark stays as it was";
  EXPECT_TRUE(k8s::IsForbidden(Change<k8s::Pod>("tenant", "{metadata: {labels: {godwit.io/migration: v}}}")));
}

// Whose Role has all of a namespace's resources, subresources included.
TEST_F(AdmissionTest, NobodyMarksAPodByItsStatusOrItsBinding) {
  Grant("tenant", {"{apiGroups: [''], resources: [pods, pods/status, pods/binding], verbs: ['*', create]}"});
  ASSERT_TRUE(CreatePod("tenant", "{labels: {app: a}}").ok());
  const std::string name = last_.String("/metadata/name");
  for (const char* mark : {"{metadata: {labels: {godwit.io/migration: u}}}",
                           "{metadata: {annotations: {godwit.io/hand-over: '{}'}}}"}) {
    const auto marked = k8s::Client<k8s::Unstructured>(Api("tenant"), k8s::Pod::kResource)
                            .MergePatch(ns_, name, FromYaml(mark), {.subresource = "status"});
    EXPECT_TRUE(k8s::IsForbidden(marked.status())) << mark << " " << marked.status();
  }
  const k8s::Resource binding = {"", "v1", "pods", "Binding", true};
  const auto bound =
      k8s::Client<k8s::Unstructured>(Api("tenant"), binding)
          .Create(FromYaml(absl::StrCat("{apiVersion: v1, kind: Binding, metadata: {name: ", name,
                                        ", namespace: ", ns_,
                                        ", annotations: {godwit.io/migration: u}}, target: "
                                        "{apiVersion: v1, kind: Node, name: n1}}")),
                  {.subresource = "binding"});
  EXPECT_TRUE(k8s::IsForbidden(bound.status())) << bound.status();
}

// Before the hand-over the memory that comes would run in whatever image it has; without its marks the pod
// would be started afresh, as a second copy.
TEST_F(AdmissionTest, ATargetKeepsItsMarksAndItsImagesUntilItsProcessesRun) {
  const std::vector<std::string> all = {
      "{apiGroups: [''], resources: [pods, pods/status], verbs: ['*', create]}"};
  Grant("tenant", all);
  Grant(kController, all);
  ASSERT_TRUE(CreatePod(kController,
                        "{labels: {godwit.io/migration: u, app: a}, annotations: {godwit.io/migration: "
                        "u, godwit.io/hand-over: '{}'}}",
                        "[{name: godwit.io/permit}]")
                  .ok());
  const std::string name = last_.String("/metadata/name");
  const auto status = [&](const std::string& user, const char* conditions) {
    return k8s::Client<k8s::Unstructured>(Api(user), k8s::Pod::kResource)
        .MergePatch(ns_, name, FromYaml(absl::StrCat("{status: {conditions: [", conditions, "]}}")),
                    {.subresource = "status"})
        .status();
  };
  const char* image = "{spec: {containers: [{name: c, image: other}]}}";
  for (const char* change :
       {"{metadata: {labels: {godwit.io/migration: null}}}",
        "{metadata: {annotations: {godwit.io/migration: null}}}",
        "{metadata: {annotations: {godwit.io/hand-over: null}}}", "{spec: {schedulingGates: []}}", image}) {
    const absl::Status refused = Change<k8s::Pod>("tenant", change);
    EXPECT_TRUE(k8s::IsForbidden(refused)) << change << " " << refused;
  }
  const char* committed = "{type: godwit.io/committed, status: 'True'}";
  EXPECT_TRUE(k8s::IsForbidden(status("tenant", committed))) << "that would set the images free";
  EXPECT_TRUE(status("tenant", "{type: Ready, status: 'False'}").ok()) << "kubelet writes status, too";
  ASSERT_TRUE(status(kController, committed).ok());
  EXPECT_TRUE(Change<k8s::Pod>("tenant", image).ok()) << "it is a pod as any other now";
}

TEST_F(AdmissionTest, WhatIsCopiedToTheControllerIsSmall) {
  Grant("tenant", {kOwnKinds, Rule("pods", "create, delete"), Rule("pods/eviction", "create")});
  ASSERT_TRUE(Create<Migration>("tenant", kMove).ok());
  const auto annotate = [this](size_t bytes) {
    return Change<Migration>(
        "tenant", absl::StrCat("{metadata: {annotations: {note: '", std::string(bytes, 'x'), "'}}}"));
  };
  EXPECT_TRUE(annotate(16384).ok());
  const absl::Status refused = annotate(16385);
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.message()), HasSubstr("at most 16 KiB"));
  EXPECT_TRUE(Change<Migration>("tenant", "{spec: {timeout: 1h}}").ok());
}

TEST_F(AdmissionTest, TheFinalizerThatRemovesArchivesStays) {
  const std::vector<std::string> all = {
      "{apiGroups: [''], resources: [pods, pods/exec], verbs: ['*', create]}",
      "{apiGroups: [godwit.io], resources: ['*'], verbs: ['*']}"};
  Grant("tenant", all);
  Grant(kController, all);
  ASSERT_TRUE(Create<Checkpoint>("tenant", "{podRef: {name: web}}").ok());
  ASSERT_TRUE(Change<Checkpoint>(kController, "{metadata: {finalizers: [godwit.io/checkpoint]}}").ok());
  EXPECT_TRUE(k8s::IsForbidden(Change<Checkpoint>("tenant", "{metadata: {finalizers: []}}")));
  EXPECT_TRUE(Change<Checkpoint>("tenant", "{metadata: {labels: {team: a}}}").ok());
  EXPECT_TRUE(Change<Checkpoint>(kController, "{metadata: {finalizers: []}}").ok());
}

}  // namespace
}  // namespace godwit::apiserver
