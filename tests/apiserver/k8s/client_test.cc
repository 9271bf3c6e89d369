// SPDX-License-Identifier: Apache-2.0
#include "k8s/client.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/apps.h"
#include "k8s/core.h"
#include "k8s/error.h"
#include "k8s/pod.h"
#include "tests/apiserver/environment.h"

namespace godwit::k8s {
namespace {

using apiserver::Environment;
using ::testing::HasSubstr;

class RealClientTest : public ::testing::Test {
 protected:
  ConfigMap Map(const std::string& name, const std::string& value = "1") const {
    return {.metadata = {.name = name, .name_space = ns_}, .data = {{"key", value}}};
  }
  Pod MakePod(const std::string& name) const {
    return {.metadata = {.name = name, .name_space = ns_},
            .spec = {.containers = {{.name = "c", .image = "registry.example/app:1"}}}};
  }
  Environment& environment_ = Environment::Shared();
  const std::string ns_ = environment_.NewNamespace();
  const Api api_ = environment_.api();
  const Client<ConfigMap> maps_{api_};
};

TEST_F(RealClientTest, CreatesReadsListsAndDeletes) {
  absl::StatusOr<ConfigMap> created = maps_.Create(Map("a"));
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_TRUE(created->metadata.creation_timestamp.has_value());
  absl::StatusOr<ConfigMap> read = maps_.Get(ns_, "a");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, *created);
  EXPECT_EQ(maps_.ListAll(ns_)->items.size(), 1u);
  EXPECT_TRUE(maps_.Delete(ns_, "a", {.uid = created->metadata.uid}).ok());
  EXPECT_TRUE(k8s::IsNotFound(maps_.Get(ns_, "a").status()));
}

TEST_F(RealClientTest, RefusalsCarryTheirReason) {
  ASSERT_TRUE(maps_.Create(Map("a")).ok());
  EXPECT_TRUE(k8s::IsAlreadyExists(maps_.Create(Map("a")).status()));
  const absl::Status invalid = maps_.Create(Map("Not_A_Name")).status();
  EXPECT_TRUE(k8s::IsInvalid(invalid)) << invalid;
  ASSERT_FALSE(ErrorOf(invalid)->causes.empty());
  EXPECT_EQ(ErrorOf(invalid)->causes[0].field, "metadata.name");
  const Client<ConfigMap> stranger(Environment::ApiFor(environment_.ConfigFor("stranger")));
  const absl::Status forbidden = stranger.Get(ns_, "a").status();
  EXPECT_TRUE(IsForbidden(forbidden)) << forbidden;
  EXPECT_THAT(std::string(forbidden.message()),
              HasSubstr("User \"stranger\" cannot get resource \"configmaps\""));
  Config config = environment_.config();
  config.client_certificate = config.client_key = "";
  config.token = StaticToken("nonsense");
  EXPECT_TRUE(IsUnauthorized(Client<ConfigMap>(Environment::ApiFor(config)).Get(ns_, "a").status()));
  constexpr Resource kNoSuchKind{"example.com", "v1", "gadgets", "Gadget"};
  EXPECT_TRUE(k8s::IsNotFound(Client<Unstructured>(api_, kNoSuchKind).Get(ns_, "a").status()));
}

TEST_F(RealClientTest, AMergePatchAddsChangesAndRemoves) {
  ASSERT_TRUE(maps_.Create(Map("a")).ok());
  Unstructured patch;
  patch.Set("/data/new", "2");
  patch.SetNull("/data/key");
  patch.Set("/metadata/labels/" + PointerKey("example.com/tier"), "front");
  absl::StatusOr<ConfigMap> patched = maps_.MergePatch(ns_, "a", patch);
  ASSERT_TRUE(patched.ok()) << patched.status();
  EXPECT_EQ(patched->data, (std::map<std::string, std::string>{{"new", "2"}}));
  EXPECT_EQ(patched->metadata.Label("example.com/tier"), "front");
}

TEST_F(RealClientTest, AJsonPatchIsDoneWholeOrNotAtAll) {
  ASSERT_TRUE(maps_.Create(Map("a")).ok());
  JsonPatch good;
  good.Test("/data/key", std::string("1"))
      .Replace("/data/key", std::string("2"))
      .Add("/data/x", std::string("3"));
  EXPECT_EQ(maps_.Patch(ns_, "a", good)->data.size(), 2u);
  JsonPatch bad;
  bad.Add("/data/y", std::string("4")).Test("/data/key", std::string("1"));
  EXPECT_TRUE(IsInvalid(maps_.Patch(ns_, "a", bad).status()));
  EXPECT_EQ(maps_.Get(ns_, "a")->data.count("y"), 0u);
}

TEST_F(RealClientTest, ApplyOwnsFieldsAndTellsWhoElseDoes) {
  ASSERT_TRUE(maps_.Apply(Map("a", "1"), {.field_manager = "one"}).ok());
  const absl::Status refused = maps_.Apply(Map("a", "2"), {.field_manager = "two"}).status();
  EXPECT_TRUE(IsConflict(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("\"one\""));
  EXPECT_EQ(maps_.Apply(Map("a", "2"), {.field_manager = "two", .force = true})->data.at("key"), "2");
  ConfigMap without = Map("a");
  without.data.clear();
  EXPECT_EQ(maps_.Apply(without, {.field_manager = "two"})->data.count("key"), 0u)
      << "what its owner leaves out goes";
}

TEST_F(RealClientTest, ADryRunChangesNothing) {
  EXPECT_TRUE(maps_.Create(Map("a"), {.dry_run = true}).ok());
  EXPECT_TRUE(k8s::IsNotFound(maps_.Get(ns_, "a").status()));
}

TEST_F(RealClientTest, PatchesHavePreconditions) {
  const ConfigMap read = *maps_.Create(Map("a"));
  ConfigMap changed = read;
  changed.data["key"] = "2";
  ASSERT_TRUE(maps_.PatchChanges(read, changed).ok());
  EXPECT_TRUE(IsConflict(maps_.PatchChanges(read, changed).status())) << "it has changed since it was read";
  ASSERT_TRUE(maps_.Delete(ns_, "a").ok());
  ASSERT_TRUE(maps_.Create(Map("a", "3")).ok());
  EXPECT_TRUE(IsConflict(maps_.PatchChanges(read, changed).status())) << "it is another one of that name";
  Unstructured other_uid;
  other_uid.Set("/metadata/uid", read.metadata.uid);
  other_uid.Set("/data/key", "4");
  EXPECT_TRUE(IsInvalid(maps_.MergePatch(ns_, "a", other_uid).status()));
  EXPECT_EQ(maps_.Get(ns_, "a")->data.at("key"), "3");
}

TEST_F(RealClientTest, DeletionsHavePreconditions) {
  const ConfigMap made = *maps_.Create(Map("a"));
  EXPECT_TRUE(IsConflict(maps_.Delete(ns_, "a", {.uid = "00000000-0000-0000-0000-000000000000"})));
  EXPECT_TRUE(IsConflict(maps_.Delete(ns_, "a", {.resource_version = "1"})));
  EXPECT_TRUE(
      maps_.Delete(ns_, "a", {.uid = made.metadata.uid, .resource_version = made.metadata.resource_version})
          .ok());
}

TEST_F(RealClientTest, AFinalizerHoldsAnObject) {
  ConfigMap held = Map("a");
  held.metadata.finalizers = {"example.com/hold"};
  ASSERT_TRUE(maps_.Create(held).ok());
  EXPECT_TRUE(maps_.Delete(ns_, "a").ok());
  const ConfigMap terminating = *maps_.Get(ns_, "a");
  EXPECT_TRUE(terminating.metadata.terminating());
  ConfigMap released = terminating;
  released.metadata.finalizers.clear();
  ASSERT_TRUE(maps_.PatchChanges(terminating, released).ok());
  EXPECT_TRUE(k8s::IsNotFound(maps_.Get(ns_, "a").status()));
}

TEST_F(RealClientTest, StatusIsASubresource) {
  const Client<Deployment> deployments(api_);
  Deployment wanted{.metadata = {.name = "web", .name_space = ns_}};
  wanted.spec.replicas = 3;
  wanted.spec.selector.match_labels = {{"app", "web"}};
  wanted.spec.pod_template.metadata.labels = {{"app", "web"}};
  wanted.spec.pod_template.spec = MakePod("x").spec;
  absl::StatusOr<Deployment> made = deployments.Create(wanted);
  ASSERT_TRUE(made.ok()) << made.status();
  Deployment changed = *made;
  changed.spec.replicas = 9;
  changed.status.replicas = 2;
  changed.status.conditions = {{.type = "Available", .status = "True", .reason = "Test"}};
  absl::StatusOr<Deployment> written = deployments.PatchStatus(*made, changed);
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->status.replicas, 2);
  EXPECT_TRUE(IsConditionTrue(written->status.conditions, "Available"));
  EXPECT_EQ(written->spec.replicas, 3);
  EXPECT_EQ(written->metadata.generation, made->metadata.generation);
}

TEST_F(RealClientTest, ListsComeInPagesOfOneMoment) {
  for (int i = 0; i < 25; ++i) ASSERT_TRUE(maps_.Create(Map(absl::StrCat("m", i))).ok());
  absl::StatusOr<ListOf<ConfigMap>> page = maps_.List(ns_, {.limit = 10});
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->items.size(), 10u);
  EXPECT_NE(page->metadata.continue_token, "");
  EXPECT_EQ(maps_.ListAll(ns_, {.limit = 10})->items.size(), 25u);
  EXPECT_EQ(maps_.ListAll(ns_, {.label_selector = "no=such"})->items.size(), 0u);
  EXPECT_EQ(maps_.ListAll(ns_, {.field_selector = "metadata.name=m7"})->items.size(), 1u);
}

TEST_F(RealClientTest, APodIsCreatedFromAnotherWithoutLosingAnything) {
  const Client<Unstructured> pods(api_, Pod::kResource);
  Unstructured wanted = Unstructured::From(MakePod("a"));
  wanted.Set("/spec/dnsConfig/options",
             std::vector<std::map<std::string, std::string>>{{{"name", "ndots"}, {"value", "2"}}});
  wanted.Set("/spec/schedulingGates", std::vector<NamedReference>{{"example.com/wait"}});
  ASSERT_TRUE(pods.Create(wanted).ok());
  Unstructured copy = *pods.Get(ns_, "a");
  copy.Set("/metadata", ObjectMeta{.name = "b", .name_space = ns_});
  copy.Remove("/status");
  absl::StatusOr<Unstructured> made = pods.Create(copy);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->String("/spec/dnsConfig/options/0/name"), "ndots") << "a field without a struct";
  const Pod typed = *made->As<Pod>();
  EXPECT_EQ(typed.spec.scheduling_gates[0].name, "example.com/wait");
  EXPECT_EQ(typed.status.phase, "Pending");
  JsonPatch open;
  open.Test("/spec/schedulingGates/0/name", std::string("example.com/wait"))
      .Remove("/spec/schedulingGates/0");
  EXPECT_TRUE(pods.Patch(ns_, "b", open).ok());
}

TEST_F(RealClientTest, ClusterWideKindsHaveNoNamespace) {
  const Client<Node> nodes(api_);
  const Node made =
      *nodes.Create({.metadata = {.name = absl::StrCat("node-of-", ns_), .labels = {{"zone", "edge"}}}});
  Node ready = made;
  ready.status.conditions = {{.type = "Ready", .status = "True", .reason = "Test"}};
  ready.status.runtime_handlers = {{""}, {"special"}};
  absl::StatusOr<Node> written = nodes.PatchStatus(made, ready);
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_TRUE(written->ready());
  EXPECT_TRUE(written->HasRuntimeHandler("special"));
  EXPECT_TRUE(nodes.Delete("", made.metadata.name).ok());
}

TEST_F(RealClientTest, ATokenIsRequestedAndReviewed) {
  ASSERT_TRUE(Client<ServiceAccount>(api_).Create({.metadata = {.name = "agent", .name_space = ns_}}).ok());
  Unstructured request;
  request.Set("/apiVersion", "authentication.k8s.io/v1");
  request.Set("/kind", "TokenRequest");
  request.Set("/spec/audiences", std::vector<std::string>{"godwit-test"});
  const Api::Answer answer =
      api_.Create(ServiceAccount::kResource, {ns_, "agent"}, request.ToJson(), {.subresource = "token"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  const std::string token = Unstructured(*answer).String("/status/token");
  const Client<TokenReview> reviews(api_);
  const TokenReview good = *reviews.Create({.spec = {.token = token, .audiences = {"godwit-test"}}});
  EXPECT_TRUE(good.status.authenticated) << good.status.error;
  EXPECT_EQ(good.status.user.username, absl::StrCat("system:serviceaccount:", ns_, ":agent"));
  EXPECT_FALSE(reviews.Create({.spec = {.token = token, .audiences = {"another"}}})->status.authenticated);
  EXPECT_FALSE(reviews.Create({.spec = {.token = "nonsense"}})->status.authenticated);
}

}  // namespace
}  // namespace godwit::k8s
