// SPDX-License-Identifier: Apache-2.0
#include "controller/cleanup/cleanup.h"

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "crds/checkpoint.h"
#include "crds/migration.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/apps.h"
#include "k8s/core.h"
#include "k8s/error.h"
#include "k8s/pod.h"
#include "k8s/testing/fake_api_server.h"

namespace godwit::controller {
namespace {

using k8s::Unstructured;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr k8s::Resource kRuntimeClasses{"node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", false};
constexpr k8s::Resource kDaemonSets{"apps", "v1", "daemonsets", "DaemonSet"};

Unstructured Object(absl::string_view json) { return *Unstructured::Parse(json); }

// Time passes by being slept, and whatever happens in a cluster meanwhile happens then.
class BusyClock final : public Clock {
 public:
  absl::Time Now() const override { return time_.Now(); }
  absl::Duration Monotonic() const override { return time_.Monotonic(); }
  void SleepFor(absl::Duration duration) override {
    time_.SleepFor(duration);
    if (meanwhile) meanwhile();
  }
  std::function<void()> meanwhile;

 private:
  FakeClock time_;
};

class CleanupTest : public testing::Test {
 protected:
  const CleanupOptions options_{.name_space = "godwit-system", .timeout = absl::Minutes(4)};
  k8s::testing::FakeApiServer server_;
  BusyClock clock_;
};

TEST_F(CleanupTest, UnfinishedMigrationsAreDeletedAndWaitedForWhileTheControllerStillRuns) {
  server_.Put(k8s::Deployment::kResource,
              Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-controller"}})"));
  server_.Put(crds::Migration::kResource,
              Object(R"({"metadata":{"namespace":"shop","name":"move","finalizers":["godwit.io/migration"]},
                         "status":{"phase":"Switching"}})"));
  bool controller_was_there = false;
  clock_.meanwhile = [&] {  // as the controller: it puts things right and takes its finalizer off
    const auto migration = server_.Get(crds::Migration::kResource, {"shop", "move"});
    if (!migration || !migration->Meta().terminating()) return;
    controller_was_there =
        server_.Get(k8s::Deployment::kResource, {"godwit-system", "godwit-controller"}).has_value();
    server_.Remove(crds::Migration::kResource, {"shop", "move"});
  };
  EXPECT_EQ(CleanUp(server_.api(), options_, clock_), absl::OkStatus());
  EXPECT_TRUE(controller_was_there);
  EXPECT_FALSE(server_.Get(k8s::Deployment::kResource, {"godwit-system", "godwit-controller"}));
}

TEST_F(CleanupTest, AMigrationThatNobodyEndsIsNamedAndNothingElseIsTouched) {
  server_.Put(k8s::Deployment::kResource,
              Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-controller"}})"));
  server_.Put(crds::Migration::kResource,
              Object(R"({"metadata":{"namespace":"shop","name":"move","finalizers":["godwit.io/migration"]},
                         "status":{"phase":"Switching"}})"));
  const absl::Status status = CleanUp(server_.api(), options_, clock_);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("Migration shop/move (Switching)"));
  EXPECT_TRUE(server_.Get(k8s::Deployment::kResource, {"godwit-system", "godwit-controller"}));
}

TEST_F(CleanupTest, FinishedObjectsStayAndLoseOnlyGodwitsFinalizers) {
  server_.Put(
      crds::Checkpoint::kResource,
      Object(
          R"({"metadata":{"namespace":"shop","name":"monday","finalizers":["example.com/backup","godwit.io/checkpoint"]},
                         "status":{"phase":"Ready"}})"));
  EXPECT_EQ(CleanUp(server_.api(), options_, clock_), absl::OkStatus());
  const auto checkpoint = server_.Get(crds::Checkpoint::kResource, {"shop", "monday"});
  ASSERT_TRUE(checkpoint);
  EXPECT_FALSE(checkpoint->Meta().terminating());
  EXPECT_THAT(checkpoint->Meta().finalizers, ElementsAre("example.com/backup"));
  EXPECT_EQ(checkpoint->String("/status/phase"), "Ready");
}

TEST_F(CleanupTest, NodesLoseTheLabelAndWhatTheControllerMadeGoes) {
  server_.Put(k8s::Node::kResource,
              Object(R"({"metadata":{"name":"n1","labels":{"godwit.io/runtime":"ready","zone":"a"}}})"));
  server_.Put(k8s::Secret::kResource,
              Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-ca"}})"));
  server_.Put(k8s::Secret::kResource, Object(R"({"metadata":{"namespace":"godwit-system","name":"other"}})"));
  server_.Put(k8s::ConfigMap::kResource,
              Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-ca-bundle"}})"));
  server_.Put(k8s::Lease::kResource,
              Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-controller"}})"));
  EXPECT_EQ(CleanUp(server_.api(), options_, clock_), absl::OkStatus());
  EXPECT_EQ(server_.Get(k8s::Node::kResource, {"", "n1"})->Meta().labels,
            (std::map<std::string, std::string>{{"zone", "a"}}));
  EXPECT_FALSE(server_.Get(k8s::Secret::kResource, {"godwit-system", "godwit-ca"}));
  EXPECT_TRUE(server_.Get(k8s::Secret::kResource, {"godwit-system", "other"}));
  EXPECT_FALSE(server_.Get(k8s::ConfigMap::kResource, {"godwit-system", "godwit-ca-bundle"}));
  EXPECT_FALSE(server_.Get(k8s::Lease::kResource, {"godwit-system", "godwit-controller"}));
}

TEST_F(CleanupTest, AgentsAreGoneBeforeFinalizersGo) {
  server_.Put(kDaemonSets, Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-agent"}})"));
  server_.Put(k8s::Pod::kResource,
              Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-agent-x","labels":
                         {"app.kubernetes.io/name":"godwit","app.kubernetes.io/component":"agent"}},"spec":{"nodeName":"n1"}})"));
  server_.Put(
      crds::Checkpoint::kResource,
      Object(R"({"metadata":{"namespace":"shop","name":"monday","finalizers":["godwit.io/checkpoint"]},
                         "status":{"phase":"Ready"}})"));
  const absl::Status status = CleanUp(server_.api(), options_, clock_);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("godwit-agent-x on n1"));
  EXPECT_THAT(server_.Get(crds::Checkpoint::kResource, {"shop", "monday"})->Meta().finalizers,
              ElementsAre("godwit.io/checkpoint"));
}

TEST_F(CleanupTest, TheRuntimeClassStaysWhileAPodRunsWithIt) {
  server_.Put(kRuntimeClasses, Object(R"({"metadata":{"name":"godwit"},"handler":"godwit"})"));
  const char* pod = R"({"metadata":{"namespace":"shop","name":"moved"},"spec":{"runtimeClassName":"godwit"},
                        "status":{"phase":"%s"}})";
  server_.Put(k8s::Pod::kResource, Object(absl::StrReplaceAll(pod, {{"%s", "Running"}})));
  EXPECT_EQ(CleanUp(server_.api(), options_, clock_), absl::OkStatus());
  EXPECT_TRUE(server_.Get(kRuntimeClasses, {"", "godwit"}));
  server_.Put(k8s::Pod::kResource, Object(absl::StrReplaceAll(pod, {{"%s", "Failed"}})));
  EXPECT_EQ(CleanUp(server_.api(), options_, clock_), absl::OkStatus());
  EXPECT_FALSE(server_.Get(kRuntimeClasses, {"", "godwit"}));
}

TEST_F(CleanupTest, ASecondRunFindsNothingToDo) {
  EXPECT_EQ(CleanUp(server_.api(), options_, clock_), absl::OkStatus());
  EXPECT_EQ(CleanUp(server_.api(), options_, clock_), absl::OkStatus());
}

TEST_F(CleanupTest, WhatMayNotBeListedIsToldAtOnce) {
  server_.Intercept(
      [](const k8s::testing::SeenRequest& request) -> std::optional<k8s::testing::ForcedAnswer> {
        if (!absl::StrContains(request.path, "migrations")) return std::nullopt;
        return k8s::testing::ForcedAnswer{.code = 403, .reason = "Forbidden", .message = "no"};
      });
  const absl::Status status = CleanUp(server_.api(), options_, clock_);
  EXPECT_TRUE(k8s::IsForbidden(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot list migrations"));
}

class NodesTest : public CleanupTest {
 protected:
  void SetUp() override {
    server_.Put(kDaemonSets, Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-uninstall"},
                                        "status":{"observedGeneration":1000,"desiredNumberScheduled":1}})"));
    PutNode("n1", true);
  }
  void PutNode(const std::string& name, bool ready) {
    Unstructured node = Object(R"({"metadata":{},"status":{"conditions":[{"type":"Ready"}]}})");
    node.Set("/metadata/name", name);
    node.Set("/status/conditions/0/status", ready ? "True" : "False");
    server_.Put(k8s::Node::kResource, node);
  }
  void PutPod(absl::string_view status) {
    Unstructured pod =
        Object(R"({"metadata":{"namespace":"godwit-system","name":"godwit-uninstall-x","labels":
        {"app.kubernetes.io/name":"godwit","app.kubernetes.io/component":"uninstall"}},"spec":{"nodeName":"n1"}})");
    pod.SetValue("/status", Object(status).value());
    server_.Put(k8s::Pod::kResource, pod);
  }
};

TEST_F(NodesTest, EndWhenEveryPodIsReady) {
  clock_.meanwhile = [&] {
    PutPod(R"({"phase":"Running","conditions":[{"type":"Ready","status":"True"}],
               "initContainerStatuses":[{"name":"uninstall","state":{"terminated":{"exitCode":0,"message":"handler kept"}}}]})");
  };
  EXPECT_EQ(WaitForCleanNodes(server_.api(), options_, clock_), absl::OkStatus());
}

TEST_F(NodesTest, ThatDoNotEndAreNamedWithTheReason) {
  PutPod(
      R"({"phase":"Pending","initContainerStatuses":[{"name":"uninstall","state":{"waiting":{"reason":"CrashLoopBackOff"}},
             "lastState":{"terminated":{"exitCode":1,"message":"/opt/godwit: Read-only file system"}}}]})");
  const absl::Status status = WaitForCleanNodes(server_.api(), options_, clock_);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("n1 (CrashLoopBackOff: /opt/godwit: Read-only file system)"));
}

TEST_F(NodesTest, ThatAreNotReadyAreNotWaitedFor) {
  PutNode("n1", false);
  PutPod(R"({"phase":"Pending"})");
  EXPECT_EQ(WaitForCleanNodes(server_.api(), options_, clock_), absl::OkStatus());
}

}  // namespace
}  // namespace godwit::controller
