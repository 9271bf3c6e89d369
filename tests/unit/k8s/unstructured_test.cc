// SPDX-License-Identifier: Apache-2.0
#include "k8s/unstructured.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/pod.h"

namespace godwit::k8s {
namespace {

Unstructured Object(absl::string_view text) {
  absl::StatusOr<Unstructured> object = Unstructured::Parse(text);
  EXPECT_TRUE(object.ok()) << object.status();
  return *std::move(object);
}

TEST(UnstructuredTest, FieldsThatNobodyKnowsSurviveAChange) {
  Unstructured pod = Object(R"({"spec":{"nodeName":"a","newField":{"x":[1,2]}},"other":true})");
  pod.Set("/spec/nodeName", "b");
  pod.Set("/metadata/labels/" + PointerKey("app.kubernetes.io/name"), "web");
  EXPECT_TRUE(pod.Remove("/other"));
  EXPECT_EQ(pod, Object(R"({"spec":{"nodeName":"b","newField":{"x":[1,2]}},
                            "metadata":{"labels":{"app.kubernetes.io/name":"web"}}})"));
}

TEST(UnstructuredTest, MissingPathsAreEmptyNotFatal) {
  Unstructured object = Object(R"({"a":{"b":1}})");
  EXPECT_EQ(object.Find("/a/x/y"), nullptr);
  EXPECT_EQ(object.String("/a/b"), "") << "a number is no string";
  EXPECT_EQ(object.Find("not a pointer"), nullptr);
  EXPECT_FALSE(object.Remove("/a/x"));
  EXPECT_FALSE(object.Remove(""));
}

TEST(UnstructuredTest, ListsGrowAtTheirEnd) {
  Unstructured object;
  object.Set("/list/-", 1);
  EXPECT_EQ(object.ToJson(), R"({"list":{"-":1}})") << "no list was there";
  object.SetValue("/list", rapidjson::Value(rapidjson::kArrayType));
  object.Set("/list/-", 1);
  object.Set("/list/-", 2);
  EXPECT_EQ(object.ToJson(), R"({"list":[1,2]})");
}

TEST(UnstructuredTest, CopiesAreIndependent) {
  Unstructured first = Object(R"({"a":"1"})");
  Unstructured second = first;
  second.Set("/a", "2");
  EXPECT_EQ(first.String("/a"), "1");
  Unstructured third = std::move(second);
  EXPECT_EQ(third.String("/a"), "2");
}

TEST(UnstructuredTest, TypedViewsReadAndWrite) {
  Unstructured object =
      Object(R"({"metadata":{"name":"a","namespace":"shop"},"spec":{"nodeName":"n","unknown":1}})");
  absl::StatusOr<Pod> pod = object.As<Pod>();
  ASSERT_TRUE(pod.ok()) << pod.status();
  EXPECT_EQ(pod->spec.node_name, "n");
  const Unstructured back = Unstructured::From(*pod);
  EXPECT_EQ(back.String("/kind"), "Pod");
  EXPECT_EQ(back.String("/apiVersion"), "v1");
  EXPECT_EQ(object.Meta().object_name(), (ObjectName{"shop", "a"}));
}

TEST(UnstructuredTest, MetaBearsNonsense) {
  EXPECT_EQ(Object(R"({"metadata":{"name":"a","labels":7}})").Meta().name, "a");
  EXPECT_EQ(Object(R"({"metadata":"x"})").Meta().name, "");
  EXPECT_FALSE(Unstructured::Parse("[1]").ok());
}

TEST(MergeDiffTest, NamesOnlyWhatDiffers) {
  const Unstructured before = Object(R"({"a":1,"b":{"c":1,"d":2},"l":[1,2],"gone":true,"same":{"x":1}})");
  const Unstructured after = Object(R"({"a":1,"b":{"c":1,"d":3},"l":[1],"new":"n","same":{"x":1}})");
  EXPECT_EQ(MergeDiff(before.value(), after.value()),
            Object(R"({"b":{"d":3},"l":[1],"new":"n","gone":null})"));
  EXPECT_TRUE(MergeDiff(before.value(), before.value()).value().ObjectEmpty());
}

constexpr char kRead[] = R"({"metadata":{"name":"a","uid":"u","resourceVersion":"7","generation":3},
                             "spec":{"x":1},"status":{"phase":"Pending","old":"y"}})";

TEST(ChangesPatchTest, CarriesThePreconditions) {
  Unstructured after = Object(kRead);
  after.Set("/metadata/labels/app", "web");
  after.Set("/spec/x", 2);
  after.Set("/status/phase", "Running");
  EXPECT_EQ(
      ChangesPatch(Object(kRead), after, /*status=*/false),
      Object(R"({"metadata":{"labels":{"app":"web"},"resourceVersion":"7","uid":"u"},"spec":{"x":2}})"));
}

TEST(ChangesPatchTest, StatusIsSentWholeSoThatDefaultsOfTheStructReachTheServer) {
  Unstructured after = Object(kRead);
  after.Set("/status/message", "m");
  after.Remove("/status/old");
  after.Set("/spec/x", 2);
  EXPECT_EQ(
      ChangesPatch(Object(kRead), after, /*status=*/true),
      Object(
          R"({"status":{"phase":"Pending","message":"m","old":null},"metadata":{"resourceVersion":"7","uid":"u"}})"));
}

TEST(ChangesPatchTest, WhatOnlyTheServerWritesIsNoChange) {
  Unstructured after = Object(kRead);
  after.Set("/metadata/resourceVersion", "9");
  after.Set("/metadata/generation", 4);
  EXPECT_TRUE(ChangesPatch(Object(kRead), after, false).value().ObjectEmpty());
  EXPECT_TRUE(ChangesPatch(Object(kRead), after, true).value().ObjectEmpty());
}

TEST(JsonPatchTest, StepsAreInOrder) {
  JsonPatch patch;
  EXPECT_TRUE(patch.empty());
  patch.Test("/metadata/uid", std::string("u"))
      .Replace("/spec/x", 2)
      .Add("/metadata/finalizers/-", std::string("f"))
      .Remove("/y");
  EXPECT_EQ(
      patch.ToJson(),
      R"([{"op":"test","path":"/metadata/uid","value":"u"},{"op":"replace","path":"/spec/x","value":2},)"
      R"({"op":"add","path":"/metadata/finalizers/-","value":"f"},{"op":"remove","path":"/y"}])");
}

}  // namespace
}  // namespace godwit::k8s
