// SPDX-License-Identifier: Apache-2.0
#include "k8s/leader.h"

#include <atomic>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/error.h"
#include "k8s/testing/fake_api_server.h"

namespace godwit::k8s {
namespace {

using ::testing::ElementsAre;
using testing::FakeApiServer;
using testing::ForcedAnswer;
using ::testing::HasSubstr;
using testing::SeenRequest;

class LeaderTest : public ::testing::Test {
 protected:
  LeaderOptions Options(const std::string& identity) {
    return {.name_space = "system", .name = "leader", .identity = identity, .clock = &clock_};
  }
  LeaseElection Election(const std::string& identity) {
    return LeaseElection(server_.api(), Options(identity));
  }
  Lease Stored() { return *server_.Get(Lease::kResource, {"system", "leader"})->As<Lease>(); }
  void Fail(const std::string& method) {
    server_.Intercept([method](const SeenRequest& request) -> std::optional<ForcedAnswer> {
      if (request.method != method) return std::nullopt;
      return ForcedAnswer{.code = 500, .reason = "InternalError", .message = "no"};
    });
  }
  FakeApiServer server_;
  FakeClock clock_;
};

// What an attempt brought: "yes", "no" or "error".
std::string Try(LeaseElection& election) {
  const absl::StatusOr<bool> held = election.Attempt();
  return !held.ok() ? "error" : *held ? "yes" : "no";
}

TEST_F(LeaderTest, TheFirstTakesItAndKeepsIt) {
  LeaseElection first = Election("first"), second = Election("second");
  EXPECT_EQ(Try(first), "yes");
  for (int i = 0; i < 20; ++i) {
    clock_.Advance(absl::Seconds(2));
    EXPECT_EQ(Try(first), "yes");
    EXPECT_EQ(Try(second), "no");
  }
  EXPECT_EQ(second.holder(), "first");
  EXPECT_EQ(first.leader_until(), clock_.Monotonic() + absl::Seconds(10));
  const Lease lease = Stored();
  EXPECT_EQ(lease.spec.holder_identity, "first");
  EXPECT_EQ(lease.spec.lease_duration_seconds, 15);
  EXPECT_EQ(lease.spec.lease_transitions, 0);
  EXPECT_EQ(lease.spec.renew_time->time, clock_.Now());
}

TEST_F(LeaderTest, ASilentLeaderIsReplacedOnlyWhenItsTermIsOver) {
  LeaseElection first = Election("first"), second = Election("second");
  ASSERT_EQ(Try(first), "yes");
  ASSERT_EQ(Try(second), "no");
  clock_.Advance(absl::Seconds(14));
  EXPECT_EQ(Try(second), "no");
  EXPECT_LT(first.leader_until(), clock_.Monotonic()) << "the first has stopped before the second may start";
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(Try(second), "yes");
  EXPECT_EQ(Stored().spec.lease_transitions, 1);
  EXPECT_EQ(Try(first), "no");
  EXPECT_EQ(first.holder(), "second");
}

TEST_F(LeaderTest, TheTermIsCountedByTheOwnClockNotByTheLeasesTimes) {
  Lease lease{.metadata = {.name = "leader", .name_space = "system"}};
  lease.spec = {.holder_identity = "other",
                .lease_duration_seconds = 15,
                .renew_time = MicroTime{clock_.Now() - absl::Hours(5)}};
  server_.Put(lease);
  LeaseElection election = Election("me");
  EXPECT_EQ(Try(election), "no") << "its clock may be wrong: it is watched for a whole term first";
  clock_.Advance(absl::Seconds(16));
  EXPECT_EQ(Try(election), "yes");
}

TEST_F(LeaderTest, OfTwoThatTakeItAtOnceOneGetsIt) {
  LeaseElection first = Election("first"), second = Election("second");
  std::atomic<bool> entered = false;
  server_.Intercept([&](const SeenRequest& request) -> std::optional<ForcedAnswer> {
    if (request.method == "POST" && !entered.exchange(true)) {
      EXPECT_EQ(Try(second), "yes");  // overtakes between the first's look and its write
    }
    return std::nullopt;
  });
  EXPECT_EQ(Try(first), "no");
  EXPECT_EQ(Stored().spec.holder_identity, "second");
}

TEST_F(LeaderTest, ARenewalThatRacesIsRefusedByTheVersion) {
  LeaseElection first = Election("first");
  ASSERT_EQ(Try(first), "yes");
  std::atomic<bool> entered = false;
  server_.Intercept([&](const SeenRequest& request) -> std::optional<ForcedAnswer> {
    if (request.method == "PATCH" && !entered.exchange(true)) {
      Lease stolen = Stored();
      stolen.spec.holder_identity = "thief";
      server_.Put(stolen);
    }
    return std::nullopt;
  });
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(Try(first), "no");
  EXPECT_EQ(Stored().spec.holder_identity, "thief");
  EXPECT_EQ(Try(first), "no");
  EXPECT_LT(first.leader_until(), clock_.Monotonic()) << "seeing another holder ends it at once";
}

TEST_F(LeaderTest, ErrorsDoNotMoveTheDeadline) {
  LeaseElection first = Election("first");
  ASSERT_EQ(Try(first), "yes");
  const absl::Duration until = first.leader_until();
  Fail("PATCH");
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(Try(first), "error");
  EXPECT_EQ(first.leader_until(), until);
}

TEST_F(LeaderTest, WhatIsGivenBackIsTakenAtOnce) {
  LeaseElection first = Election("first"), second = Election("second");
  ASSERT_EQ(Try(first), "yes");
  ASSERT_EQ(Try(second), "no");
  EXPECT_TRUE(second.Release().ok()) << "not its own: nothing happens";
  EXPECT_EQ(Stored().spec.holder_identity, "first");
  EXPECT_TRUE(first.Release().ok());
  EXPECT_EQ(Stored().spec.holder_identity, "");
  EXPECT_EQ(Try(second), "yes");
}

TEST_F(LeaderTest, OptionsThatCannotWorkAreRefused) {
  EXPECT_TRUE(LeaseElection::Validate(Options("me")).ok());
  EXPECT_FALSE(LeaseElection::Validate(Options("")).ok());
  LeaderOptions options = Options("me");
  options.renew_deadline = options.lease_duration;
  EXPECT_THAT(std::string(LeaseElection::Validate(options).message()),
              HasSubstr("renew deadline < lease duration"));
}

// On real time: short periods, and waits for conditions.
class ElectorTest : public LeaderTest {
 protected:
  LeaderOptions Short(const std::string& identity) {
    return {.name_space = "system",
            .name = "leader",
            .identity = identity,
            .lease_duration = absl::Seconds(2),
            .renew_deadline = absl::Milliseconds(1200),
            .retry_period = absl::Milliseconds(50)};
  }
  LeaderElector::Callbacks Counting(std::atomic<int>& started, std::atomic<int>& stopped) {
    return {.on_started =
                [this, &started] {
                  EXPECT_EQ(++leaders_, 1) << "two lead";
                  ++started;
                },
            .on_stopped =
                [this, &stopped] {
                  --leaders_;
                  ++stopped;
                }};
  }
  std::atomic<int> leaders_ = 0;
  std::atomic<int> started_ = 0, stopped_ = 0, other_started_ = 0, other_stopped_ = 0;
};

TEST_F(ElectorTest, StopHandsOver) {
  LeaderElector first(server_.api(), Short("first"), Counting(started_, stopped_));
  LeaderElector second(server_.api(), Short("second"), Counting(other_started_, other_stopped_));
  ASSERT_TRUE(first.Start().ok());
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return first.IsLeader(); }));
  ASSERT_TRUE(second.Start().ok());
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return second.holder() == "first"; }));
  EXPECT_FALSE(second.IsLeader());
  first.Stop();
  EXPECT_FALSE(first.IsLeader());
  EXPECT_EQ(stopped_, 1);
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return second.IsLeader(); }));
  second.Stop();
  EXPECT_EQ(other_started_, 1);
  EXPECT_EQ(other_stopped_, 1);
}

TEST_F(ElectorTest, ALeaderThatCannotRenewStopsAndComesBack) {
  LeaderElector elector(server_.api(), Short("me"), Counting(started_, stopped_));
  ASSERT_TRUE(elector.Start().ok());
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return elector.IsLeader(); }));
  Fail("PATCH");
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return stopped_ == 1; }));
  EXPECT_FALSE(elector.IsLeader());
  server_.Intercept(nullptr);
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return started_ == 2; }));
}

TEST_F(ElectorTest, NobodyWhoDoesNotLeadIsToldToStop) {
  Fail("GET");
  LeaderElector elector(server_.api(), Short("me"), Counting(started_, stopped_));
  ASSERT_TRUE(elector.Start().ok());
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return server_.requests().size() > 2; }));
  elector.Stop();
  EXPECT_EQ(started_, 0);
  EXPECT_EQ(stopped_, 0);
  EXPECT_FALSE(LeaderElector(server_.api(), Options(""), {}).Start().ok());
}

}  // namespace
}  // namespace godwit::k8s
