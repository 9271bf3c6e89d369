// SPDX-License-Identifier: Apache-2.0
#include "k8s/events.h"

#include <atomic>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/pod.h"
#include "k8s/testing/fake_api_server.h"

namespace godwit::k8s {
namespace {

using testing::FakeApiServer;
using testing::ForcedAnswer;
using testing::SeenRequest;

class EventsTest : public ::testing::Test {
 protected:
  void Record(absl::string_view reason, absl::string_view message) {
    recorder_.Record(pod_, kEventNormal, reason, message);
    EXPECT_TRUE(recorder_.Flush(absl::Seconds(20)));
  }
  std::vector<Event> Stored() {
    std::vector<Event> events;
    for (const Unstructured& event : server_.List(Event::kResource)) events.push_back(*event.As<Event>());
    return events;
  }
  FakeApiServer server_;
  FakeClock clock_;
  const Pod pod_{
      .metadata = {.name = "cache-0", .name_space = "shop", .uid = "u-1", .resource_version = "7"}};
  EventRecorder recorder_{
      server_.api(),
      {.component = "test", .instance = "test-0", .burst = 5, .refill = absl::Seconds(30), .clock = &clock_}};
};

TEST_F(EventsTest, TellsWhoWhatAndWhy) {
  Record("Switching", "freezing the pod");
  ASSERT_EQ(Stored().size(), 1u);
  const Event event = Stored()[0];
  EXPECT_EQ(event.metadata.name_space, "shop");
  EXPECT_EQ(event.involved_object, ReferenceTo(pod_));
  EXPECT_EQ(event.reason, "Switching");
  EXPECT_EQ(event.message, "freezing the pod");
  EXPECT_EQ(event.type, "Normal");
  EXPECT_EQ(event.count, 1);
  EXPECT_EQ(event.source.component, "test");
  EXPECT_EQ(event.reporting_component, "test");
  EXPECT_EQ(event.first_timestamp, clock_.Now());
}

TEST_F(EventsTest, TheSameAgainCountsUp) {
  Record("Waiting", "no node");
  const absl::Time first = clock_.Now();
  for (int i = 0; i < 3; ++i) {
    clock_.Advance(absl::Minutes(1));
    Record("Waiting", "no node");
  }
  ASSERT_EQ(Stored().size(), 1u);
  EXPECT_EQ(Stored()[0].count, 4);
  EXPECT_EQ(Stored()[0].first_timestamp, first);
  EXPECT_EQ(Stored()[0].last_timestamp, clock_.Now());
}

TEST_F(EventsTest, AnotherMessageOrALongPauseIsANewEvent) {
  Record("Waiting", "no node");
  Record("Waiting", "no room");
  EXPECT_EQ(Stored().size(), 2u);
  clock_.Advance(absl::Minutes(11));
  Record("Waiting", "no node");
  EXPECT_EQ(Stored().size(), 3u);
}

TEST_F(EventsTest, WhatTheServerHasForgottenIsWrittenAnew) {
  Record("Waiting", "no node");
  const Event event = Stored()[0];
  server_.Remove(Event::kResource, event.metadata.object_name());
  Record("Waiting", "no node");
  ASSERT_EQ(Stored().size(), 1u);
  EXPECT_EQ(Stored()[0].count, 1);
}

TEST_F(EventsTest, TooManyOfOneObjectAreDroppedAndCounted) {
  for (int i = 0; i < 8; ++i) Record("Noise", absl::StrCat("number ", i));
  EXPECT_EQ(Stored().size(), 5u);
  EXPECT_EQ(recorder_.dropped(), 3);
  clock_.Advance(absl::Seconds(30));
  Record("Noise", "after a while");
  EXPECT_EQ(Stored().size(), 6u);
  Pod other = pod_;
  other.metadata.uid = "u-2";
  recorder_.Record(other, kEventWarning, "Noise", "of another object");
  EXPECT_TRUE(recorder_.Flush(absl::Seconds(20)));
  EXPECT_EQ(Stored().size(), 7u);
}

TEST_F(EventsTest, WhatWaitsInTheQueueIsCountedTogether) {
  std::atomic<bool> hold = true;
  server_.Intercept([&hold](const SeenRequest&) -> std::optional<ForcedAnswer> {
    FakeApiServer::WaitUntil([&hold] { return !hold; });
    return std::nullopt;
  });
  recorder_.Record(pod_, kEventNormal, "First", "holds the line");
  ASSERT_TRUE(FakeApiServer::WaitUntil([this] { return server_.requests().size() == 1; }));
  for (int i = 0; i < 10; ++i) recorder_.Record(pod_, kEventNormal, "Waiting", "no node");
  EXPECT_FALSE(recorder_.Flush(absl::Milliseconds(1)));
  hold = false;
  EXPECT_TRUE(recorder_.Flush(absl::Seconds(20)));
  EXPECT_EQ(server_.requests().size(), 2u);
  ASSERT_EQ(Stored().size(), 2u);
  EXPECT_EQ(Stored()[0].count + Stored()[1].count, 11);
  EXPECT_EQ(recorder_.dropped(), 0);
}

TEST_F(EventsTest, AServerErrorIsTriedAgainARefusalIsNot) {
  std::atomic<int> requests = 0;
  server_.Intercept([&requests](const SeenRequest&) -> std::optional<ForcedAnswer> {
    if (++requests > 1) return std::nullopt;
    return ForcedAnswer{.code = 500, .reason = "InternalError", .message = "no"};
  });
  Record("Waiting", "no node");
  EXPECT_EQ(Stored().size(), 1u);
  server_.Intercept([](const SeenRequest&) {
    return std::optional(
        ForcedAnswer{.code = 403, .reason = "Forbidden", .message = "namespace is being terminated"});
  });
  Record("Other", "refused");
  EXPECT_EQ(recorder_.dropped(), 1);
}

TEST_F(EventsTest, LongMessagesAreCutBetweenCharacters) {
  std::string message(1020, 'x');
  absl::StrAppend(&message, "äöüäöü");
  Record("Long", message);
  const std::string stored = Stored()[0].message;
  EXPECT_LE(stored.size(), 1024u);
  EXPECT_THAT(stored, ::testing::EndsWith("..."));
}

TEST_F(EventsTest, ClusterWideObjectsHaveTheirEventsInDefault) {
  recorder_.Record(Node{.metadata = {.name = "edge-7"}}, kEventWarning, "NotReady", "gone");
  EXPECT_TRUE(recorder_.Flush(absl::Seconds(20)));
  EXPECT_EQ(Stored()[0].metadata.name_space, "default");
}

}  // namespace
}  // namespace godwit::k8s
