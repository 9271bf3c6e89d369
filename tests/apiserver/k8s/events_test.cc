// SPDX-License-Identifier: Apache-2.0
#include "k8s/events.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/pod.h"
#include "tests/apiserver/environment.h"

namespace godwit::k8s {
namespace {

using apiserver::Environment;

class RealEventsTest : public ::testing::Test {
 protected:
  std::vector<Event> Of(const std::string& name_space, const std::string& object) const {
    const std::string selector = absl::StrCat("involvedObject.name=", object);
    return Client<Event>(environment_.api()).ListAll(name_space, {.field_selector = selector})->items;
  }
  Environment& environment_ = Environment::Shared();
  const std::string ns_ = environment_.NewNamespace();
  EventRecorder recorder_{environment_.api(), {.component = "test-controller", .instance = "test-0"}};
};

TEST_F(RealEventsTest, AreAcceptedAndCountUp) {
  const ConfigMap object =
      *Client<ConfigMap>(environment_.api()).Create({.metadata = {.name = "a", .name_space = ns_}});
  for (int i = 0; i < 3; ++i) {
    recorder_.Record(object, kEventWarning, "Waiting", "no node has room");
    EXPECT_TRUE(recorder_.Flush(absl::Minutes(1)));
  }
  recorder_.Record(object, kEventNormal, "Started", std::string(3000, 'x'));
  EXPECT_TRUE(recorder_.Flush(absl::Minutes(1)));
  EXPECT_EQ(recorder_.dropped(), 0);
  const std::vector<Event> events = Of(ns_, "a");
  ASSERT_EQ(events.size(), 2u);
  const Event& waiting = events[0].reason == "Waiting" ? events[0] : events[1];
  EXPECT_EQ(waiting.count, 3);
  EXPECT_EQ(waiting.type, "Warning");
  EXPECT_EQ(waiting.source.component, "test-controller");
  EXPECT_EQ(waiting.involved_object.uid, object.metadata.uid);
}

TEST_F(RealEventsTest, OfClusterWideObjectsAreAcceptedToo) {
  const std::string name = absl::StrCat("node-of-", ns_);
  recorder_.Record(Node{.metadata = {.name = name, .uid = "u"}}, kEventNormal, "Labelled", "may run targets");
  EXPECT_TRUE(recorder_.Flush(absl::Minutes(1)));
  EXPECT_EQ(recorder_.dropped(), 0);
  EXPECT_EQ(Of("default", name).size(), 1u);
}

}  // namespace
}  // namespace godwit::k8s
