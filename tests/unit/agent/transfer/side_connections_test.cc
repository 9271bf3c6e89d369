// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/side_connections.h"

#include <atomic>
#include <memory>
#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/transfer/stream_pair.h"

namespace godwit::transfer {
namespace {

using testing::HasSubstr;

absl::Time InAMoment() { return absl::Now() + absl::Milliseconds(20); }

class SideConnectionsTest : public testing::Test {
 protected:
  SideConnectionsTest() { offer_ = sides_.Open(stream_.b, 2, 3); }
  absl::Status Enter(int64_t number) { return sides_.Enter(offer_.session, number, side_.b); }

  StreamPair stream_, side_;
  SideConnections sides_;
  SideConnections::Offer offer_;
};

TEST_F(SideConnectionsTest, AsManyAreOfferedAsBothEndsWant) {
  EXPECT_EQ(offer_.sides, 2);
  EXPECT_EQ(sides_.Open(stream_.b, 5, 1).sides, 1);
  EXPECT_EQ(sides_.Open(stream_.b, 1'000'000, 1'000'000).sides, SideConnections::kMost);
  for (const auto& [wanted, useful] : {std::pair{0, 3}, {-7, 3}, {3, 0}}) {
    const SideConnections::Offer none = sides_.Open(stream_.b, wanted, useful);
    EXPECT_EQ(none.sides, 0) << wanted;
    EXPECT_EQ(none.session, "");
    EXPECT_FALSE(sides_.Enter("", 1, side_.b).ok()) << "there is nothing to be a side of";
  }
}

TEST_F(SideConnectionsTest, WhoIsNoneOfTheStreamsIsRefused) {
  EXPECT_THAT(sides_.Enter("guessed", 1, side_.b).message(), HasSubstr("belongs to no stream"));
  EXPECT_THAT(Enter(0).message(), HasSubstr("side connection 0 of 2"));
  EXPECT_THAT(Enter(3).message(), HasSubstr("side connection 3 of 2"));
  ASSERT_TRUE(Enter(1).ok());
  EXPECT_THAT(Enter(1).message(), HasSubstr("was there already"));
  sides_.Leave(1, absl::CancelledError("down"));
  EXPECT_THAT(Enter(1).message(), HasSubstr("was there already")) << "its frames began anew";
  (void)sides_.Close();
  EXPECT_THAT(Enter(2).message(), HasSubstr("belongs to no stream"));
}

TEST_F(SideConnectionsTest, TheStreamWaitsUntilItsSidesHaveComeSoFar) {
  ASSERT_TRUE(Enter(2).ok());
  EXPECT_TRUE(sides_.Await({0, 0}, InAMoment()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(sides_.Await({0, 2}, InAMoment())));
  std::thread taking([&] {
    sides_.Took(2, 4096);
    sides_.Took(2, 8192);
  });
  EXPECT_TRUE(sides_.Await({0, 2}, Soon()).ok());
  taking.join();
  EXPECT_EQ(sides_.page_bytes(), 12288);
  EXPECT_TRUE(absl::IsInvalidArgument(sides_.Await({0, 2, 0}, InAMoment())));
  sides_.Leave(2, absl::CancelledError("down"));
}

TEST_F(SideConnectionsTest, WhyASideEndedIsToldToTheStreamsThread) {
  ASSERT_TRUE(Enter(1).ok());
  EXPECT_TRUE(sides_.ended().ok());
  std::thread failing([&] { sides_.Leave(1, absl::DataLossError("a wrong checksum")); });
  EXPECT_TRUE(absl::IsDataLoss(sides_.Await({1}, Soon())));
  failing.join();
  EXPECT_TRUE(absl::IsDataLoss(sides_.ended()));
  EXPECT_FALSE(stream_.b->down()) << "it may have something to say";
  EXPECT_TRUE(absl::IsDataLoss(sides_.Close()));
  EXPECT_TRUE(sides_.Open(stream_.b, 1, 1).sides == 1 && sides_.Close().ok()) << "the next begins anew";
}

TEST_F(SideConnectionsTest, ALostSideMattersOnceItWasUsed) {
  ASSERT_TRUE(Enter(1).ok());
  sides_.Leave(1, absl::UnavailableError("the peer closed the connection"));
  EXPECT_TRUE(sides_.ended().ok()) << "the peer went on without it";
  EXPECT_TRUE(sides_.Await({}, Soon()).ok());
  for (const int64_t frames : {0, 1})
    EXPECT_TRUE(absl::IsUnavailable(sides_.Await({frames}, Soon()))) << "or did not " << frames;
  ASSERT_TRUE(Enter(2).ok());
  sides_.Took(2, 4096);
  sides_.Leave(2, absl::DeadlineExceededError("the peer was too slow"));
  EXPECT_TRUE(absl::IsUnavailable(sides_.ended())) << "nobody is to wait again";
  EXPECT_TRUE(absl::IsUnavailable(sides_.Await({0, 2}, Soon())));
}

TEST_F(SideConnectionsTest, CloseEndsAllAndWaitsForThem) {
  ASSERT_TRUE(Enter(1).ok());
  std::atomic<bool> left = false;
  std::thread serving([&] {
    const absl::Status status = side_.b->Receive(absl::InfiniteFuture()).status();
    left = true;
    sides_.Leave(1, status);
  });
  EXPECT_TRUE(sides_.Close().ok()) << "as was wished";
  EXPECT_TRUE(left);
  EXPECT_FALSE(stream_.b->down());
  serving.join();
}

TEST_F(SideConnectionsTest, ALostSideWhoseFramesAreAllThereIsWaitedForNoMore) {
  ASSERT_TRUE(Enter(1).ok());
  sides_.Took(1, 4096);
  sides_.Leave(1, absl::UnavailableError("cut"));
  EXPECT_TRUE(sides_.Await({1}, Soon()).ok());
}

TEST_F(SideConnectionsTest, AStreamThatIsShutDownTakesItsSidesAlong) {
  stream_.b->Shutdown();
  ASSERT_TRUE(Enter(1).ok());
  EXPECT_TRUE(side_.b->down()) << "one that came late, too";
  sides_.Leave(1, absl::CancelledError("down"));
}

}  // namespace
}  // namespace godwit::transfer
