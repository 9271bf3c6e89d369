// SPDX-License-Identifier: Apache-2.0
#include "k8s/client.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/apps.h"
#include "k8s/core.h"
#include "k8s/error.h"
#include "k8s/pod.h"
#include "k8s/testing/fake_api_server.h"

namespace godwit::k8s {
namespace {

using testing::FakeApiServer;
using testing::ForcedAnswer;
using ::testing::HasSubstr;
using testing::SeenRequest;

ConfigMap Map(const std::string& name, const std::string& value = "1") {
  return {.metadata = {.name = name, .name_space = "shop"}, .data = {{"key", value}}};
}

class ClientTest : public ::testing::Test {
 protected:
  FakeApiServer server_;
  const Client<ConfigMap> maps_{server_.api()};
};

TEST_F(ClientTest, WhatIsCreatedCanBeRead) {
  absl::StatusOr<ConfigMap> created = maps_.Create(Map("a"));
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_NE(created->metadata.uid, "");
  absl::StatusOr<ConfigMap> read = maps_.Get("shop", "a");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, *created);
  EXPECT_THAT(server_.requests()[0].body, HasSubstr(R"("kind":"ConfigMap")"));
}

TEST_F(ClientTest, ErrorsNameTheRequest) {
  const absl::Status status = maps_.Get("shop", "none").status();
  EXPECT_TRUE(k8s::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("get configmaps shop/none: configmaps \"none\" not found"));
  ASSERT_TRUE(maps_.Create(Map("a")).ok());
  EXPECT_TRUE(k8s::IsAlreadyExists(maps_.Create(Map("a")).status()));
}

TEST_F(ClientTest, NothingIsSentWithoutAName) {
  EXPECT_TRUE(absl::IsInvalidArgument(maps_.Get("shop", "").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(maps_.Delete("shop", "")))
      << "the path would be the whole collection's";
  EXPECT_TRUE(absl::IsInvalidArgument(maps_.MergePatch("shop", "", Unstructured()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(maps_.Apply(Map("a"), {}).status())) << "no field manager";
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(ClientTest, ListsComeInPages) {
  for (int i = 0; i < 7; ++i) server_.Put(Map(absl::StrCat("m", i)));
  absl::StatusOr<ListOf<ConfigMap>> all = maps_.ListAll("shop", {.limit = 3});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->items.size(), 7u);
  EXPECT_EQ(server_.requests().size(), 3u);
  EXPECT_THAT(server_.requests()[1].query, HasSubstr("continue="));
}

TEST_F(ClientTest, AnExpiredContinueTokenStartsTheListAgainInOnePiece) {
  for (int i = 0; i < 7; ++i) server_.Put(Map(absl::StrCat("m", i)));
  server_.Intercept([this](const SeenRequest& request) -> std::optional<ForcedAnswer> {
    if (absl::StrContains(request.query, "continue=")) server_.Compact();
    return std::nullopt;
  });
  absl::StatusOr<ListOf<ConfigMap>> all = maps_.ListAll("shop", {.limit = 3});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->items.size(), 7u) << "none missing, none twice";
  EXPECT_EQ(server_.requests().size(), 3u);
}

TEST_F(ClientTest, SelectorsAreEncoded) {
  ConfigMap labelled = Map("a");
  labelled.metadata.labels = {{"app", "web"}, {"tier", "b"}};
  server_.Put(labelled);
  server_.Put(Map("b"));
  EXPECT_EQ(maps_.ListAll("shop", {.label_selector = "app=web,tier in (a,b)"})->items.size(), 1u);
  EXPECT_EQ(maps_.ListAll("shop", {.field_selector = "metadata.name=b"})->items.size(), 1u);
}

TEST_F(ClientTest, PatchesKeepWhatTheyDoNotName) {
  ASSERT_TRUE(maps_.Create(Map("a")).ok());
  Unstructured patch;
  patch.Set("/data/other", "2");
  EXPECT_EQ(maps_.MergePatch("shop", "a", patch)->data.size(), 2u);
  JsonPatch steps;
  steps.Test("/data/other", std::string("2")).Remove("/data/key");
  EXPECT_EQ(maps_.Patch("shop", "a", steps)->data.count("key"), 0u);
  EXPECT_TRUE(k8s::IsInvalid(maps_.Patch("shop", "a", steps).status()))
      << "there is nothing to remove any more";
}

TEST_F(ClientTest, ApplyCreatesAndChanges) {
  EXPECT_EQ(maps_.Apply(Map("a", "1"), {.field_manager = "test"})->data.at("key"), "1");
  EXPECT_EQ(maps_.Apply(Map("a", "2"), {.field_manager = "test", .force = true})->data.at("key"), "2");
  const SeenRequest request = server_.requests().back();
  EXPECT_EQ(request.content_type, "application/apply-patch+yaml");
  EXPECT_EQ(request.query, "fieldManager=test&force=true");
}

TEST_F(ClientTest, ChangesAreRefusedWhenTheObjectIsAnotherByNow) {
  const ConfigMap read = *maps_.Create(Map("a"));
  ConfigMap changed = read;
  changed.data["key"] = "2";
  EXPECT_EQ(maps_.PatchChanges(read, changed)->data.at("key"), "2");
  EXPECT_TRUE(k8s::IsConflict(maps_.PatchChanges(read, changed).status())) << "somebody changed it since";
  server_.Remove(ConfigMap::kResource, {"shop", "a"});
  ASSERT_TRUE(maps_.Create(Map("a")).ok());
  EXPECT_TRUE(k8s::IsConflict(maps_.PatchChanges(read, changed).status())) << "another object of that name";
}

TEST_F(ClientTest, NothingIsSentWhenNothingDiffers) {
  const ConfigMap read = *maps_.Create(Map("a"));
  server_.ForgetRequests();
  EXPECT_EQ(*maps_.PatchChanges(read, read), read);
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(ClientTest, StatusAndSpecAreWrittenApart) {
  const Client<Deployment> deployments(server_.api());
  const Deployment read =
      *deployments.Create({.metadata = {.name = "web", .name_space = "shop"}, .spec = {.replicas = 3}});
  Deployment changed = read;
  changed.status.replicas = 2;
  changed.spec.replicas = 9;
  absl::StatusOr<Deployment> written = deployments.PatchStatus(read, changed);
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->status.replicas, 2);
  EXPECT_EQ(written->spec.replicas, 3);
  EXPECT_EQ(written->metadata.generation, 1) << "a status is no change of the specification";
}

TEST_F(ClientTest, DeletionHasPreconditions) {
  const ConfigMap made = *maps_.Create(Map("a"));
  EXPECT_TRUE(k8s::IsConflict(maps_.Delete("shop", "a", {.uid = "another"})));
  EXPECT_TRUE(k8s::IsConflict(maps_.Delete("shop", "a", {.resource_version = "1"})));
  EXPECT_TRUE(
      maps_.Delete("shop", "a", {.uid = made.metadata.uid, .grace_seconds = 0, .propagation = "Background"})
          .ok());
  EXPECT_TRUE(k8s::IsNotFound(maps_.Delete("shop", "a")));
}

TEST_F(ClientTest, AnythingCanBeHandledWithoutAStruct) {
  const Client<Unstructured> pods(server_.api(), Pod::kResource);
  Unstructured pod =
      *Unstructured::Parse(R"({"metadata":{"name":"a","namespace":"shop"},"spec":{"brandNew":{"x":1}}})");
  ASSERT_TRUE(pods.Create(pod).ok());
  Unstructured copy = *pods.Get("shop", "a");
  copy.Set("/metadata", ObjectMeta{.generate_name = "b-", .name_space = "shop"});
  absl::StatusOr<Unstructured> second = pods.Create(copy);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(*second->Find("/spec/brandNew/x"), 1);
  EXPECT_THAT(second->Meta().name, ::testing::StartsWith("b-"));
}

TEST_F(ClientTest, ASubresourceIsCreatedOnItsObject) {
  const Client<Unstructured> pods(server_.api(), Pod::kResource);
  server_.OnCreate("pods/eviction",
                   [](const Unstructured& body) -> absl::StatusOr<Unstructured> { return body; });
  const Unstructured eviction = *Unstructured::Parse(R"({"metadata":{"name":"a","namespace":"shop"}})");
  EXPECT_TRUE(pods.Create(eviction, {.subresource = "eviction"}).ok());
  EXPECT_EQ(server_.requests()[0].path, "/api/v1/namespaces/shop/pods/a/eviction");
}

TEST_F(ClientTest, TokensAreReviewed) {
  server_.OnCreate("tokenreviews", [](const Unstructured& review) -> absl::StatusOr<Unstructured> {
    Unstructured answer = review;
    answer.Set("/status/authenticated", review.String("/spec/token") == "good");
    answer.Set("/status/user/extra", std::map<std::string, std::vector<std::string>>{
                                         {"authentication.kubernetes.io/node-name", {"edge-7"}}});
    return answer;
  });
  absl::StatusOr<TokenReview> review =
      Client<TokenReview>(server_.api()).Create({.spec = {.token = "good", .audiences = {"godwit"}}});
  ASSERT_TRUE(review.ok()) << review.status();
  EXPECT_TRUE(review->status.authenticated);
  EXPECT_EQ(review->status.user.extra.at("authentication.kubernetes.io/node-name")[0], "edge-7");
}

TEST_F(ClientTest, AnAnswerThatIsNoObjectIsDataLoss) {
  for (const char* body : {"[]", "<html>", "{\"items\":"}) {
    server_.Intercept(
        [body](const SeenRequest&) { return std::optional(ForcedAnswer{.code = 200, .raw_body = body}); });
    EXPECT_TRUE(absl::IsDataLoss(maps_.Get("shop", "a").status())) << body;
  }
}

}  // namespace
}  // namespace godwit::k8s
