// SPDX-License-Identifier: Apache-2.0
#include "k8s/leader.h"

#include <atomic>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "tests/apiserver/conditions.h"
#include "tests/apiserver/environment.h"
#include "tests/apiserver/relay.h"

namespace godwit::k8s {
namespace {

using apiserver::Environment;
using apiserver::Relay;
using apiserver::WaitUntil;

class RealLeaderTest : public ::testing::Test {
 protected:
  LeaderOptions Options(const std::string& identity) const {
    return {.name_space = ns_,
            .name = "leader",
            .identity = identity,
            .lease_duration = absl::Seconds(4),
            .renew_deadline = absl::Seconds(2),
            .retry_period = absl::Milliseconds(200)};
  }
  LeaderElector::Callbacks Counting(std::atomic<int>& starts) {
    return {.on_started =
                [this, &starts] {
                  EXPECT_EQ(++leaders_, 1) << "two lead";
                  ++starts;
                },
            .on_stopped = [this] { --leaders_; }};
  }
  Lease Stored() const { return *Client<Lease>(environment_.api()).Get(ns_, "leader"); }

  Environment& environment_ = Environment::Shared();
  const std::string ns_ = environment_.NewNamespace();
  std::atomic<int> leaders_ = 0;
  std::atomic<int> first_starts_ = 0, second_starts_ = 0;
};

TEST_F(RealLeaderTest, OneOfTwoLeadsAndHandsOverWhenItStops) {
  LeaderElector first(environment_.api(), Options("first"), Counting(first_starts_));
  LeaderElector second(environment_.api(), Options("second"), Counting(second_starts_));
  ASSERT_TRUE(first.Start().ok());
  ASSERT_TRUE(WaitUntil([&] { return first.IsLeader(); }));
  ASSERT_TRUE(second.Start().ok());
  ASSERT_TRUE(WaitUntil([&] { return second.holder() == "first"; }));
  EXPECT_FALSE(second.IsLeader());
  first.Stop();
  ASSERT_TRUE(WaitUntil([&] { return second.IsLeader(); }));
  EXPECT_EQ(Stored().spec.holder_identity, "second");
  second.Stop();
  EXPECT_EQ(Stored().spec.holder_identity, "");
  EXPECT_EQ(first_starts_, 1);
  EXPECT_EQ(second_starts_, 1);
}

TEST_F(RealLeaderTest, ALeaderThatIsCutOffStopsBeforeTheOtherStarts) {
  Relay relay(environment_.port());
  Config config = environment_.config();
  config.server = absl::StrCat("https://127.0.0.1:", relay.port());
  LeaderElector first(Environment::ApiFor(config), Options("first"), Counting(first_starts_));
  LeaderElector second(environment_.api(), Options("second"), Counting(second_starts_));
  ASSERT_TRUE(first.Start().ok());
  ASSERT_TRUE(WaitUntil([&] { return first.IsLeader(); }));
  ASSERT_TRUE(second.Start().ok());
  relay.Cut();
  ASSERT_TRUE(WaitUntil([&] { return second.IsLeader(); }));
  EXPECT_FALSE(first.IsLeader());
  EXPECT_EQ(Stored().spec.lease_transitions, 1);
  relay.Mend();
  ASSERT_TRUE(WaitUntil([&] { return first.holder() == "second"; }));
  EXPECT_EQ(first_starts_, 1);
}

}  // namespace
}  // namespace godwit::k8s
