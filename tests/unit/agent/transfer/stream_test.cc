// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/stream.h"

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "agent/transfer/tcp.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/transfer/stream_pair.h"
#include "tests/unit/base/flood.h"

namespace godwit::transfer {
namespace {

using testing::HasSubstr;

TEST(StreamTest, BothEndsKnowEachOtherAndFramesArrive) {
  StreamPair pair;
  EXPECT_EQ(pair.a->peer_node(), "n2");
  EXPECT_EQ(pair.b->peer_node(), "n1");
  ASSERT_TRUE(pair.a->Send(FrameType::kHello, {"he", "llo"}, Soon()).ok());
  ASSERT_TRUE(pair.b->Send(FrameType::kHelloOk, {}, Soon()).ok());
  EXPECT_EQ(*pair.b->Receive(Soon()), (Frame{FrameType::kHello, "hello"}));
  EXPECT_EQ(*pair.a->Receive(Soon()), (Frame{FrameType::kHelloOk, ""}));
  EXPECT_EQ(pair.a->bytes_sent(), static_cast<int64_t>(kFrameHeaderBytes) + 5);
  EXPECT_EQ(pair.b->bytes_received(), static_cast<int64_t>(kFrameHeaderBytes) + 5);
}

TEST(StreamTest, QueuedFramesTravelWithTheNextThatIsSent) {
  StreamPair pair;
  ASSERT_TRUE(pair.a->Queue(FrameType::kFileBegin, {"first"}, Soon()).ok());
  ASSERT_TRUE(pair.a->Queue(FrameType::kFileEnd, {"second"}, Soon()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(pair.b->Receive(absl::Now() + absl::Milliseconds(50)).status()));
  ASSERT_TRUE(pair.a->Send(FrameType::kContainerEnd, {}, Soon()).ok());
  EXPECT_EQ(*pair.b->Receive(Soon()), (Frame{FrameType::kFileBegin, "first"}));
  EXPECT_EQ(*pair.b->Receive(Soon()), (Frame{FrameType::kFileEnd, "second"}));
  EXPECT_EQ(pair.b->Receive(Soon())->type, FrameType::kContainerEnd);
}

// More than the buffer holds: nobody need wait for the next frame that is sent.
TEST(StreamTest, QueuedFramesDoNotPileUp) {
  StreamPair pair;
  const std::string data(200'000, 'x');
  ASSERT_TRUE(pair.a->Queue(FrameType::kFileData, {"twelve bytes", data}, Soon()).ok());
  ASSERT_TRUE(pair.a->Queue(FrameType::kFileData, {"twelve bytes", data}, Soon()).ok());
  EXPECT_EQ(pair.b->Receive(Soon())->payload.size(), 200'012u);
}

TEST(StreamTest, PingsAreNotSeen) {
  StreamPair pair;
  ASSERT_TRUE(pair.a->Send(FrameType::kPing, {}, Soon()).ok());
  ASSERT_TRUE(pair.a->Send(FrameType::kCommit, {}, Soon()).ok());
  EXPECT_EQ(pair.b->Receive(Soon())->type, FrameType::kCommit);
}

// Frames of several threads, in both directions at once, more than any buffer holds: none is torn.
TEST(StreamTest, FramesOfManyThreadsDoNotMix) {
  StreamPair pair;
  constexpr int kThreads = 3;
  constexpr int kFrames = 40;
  std::atomic<int> failed = 0;
  auto send = [&failed](Stream* stream, char mark) {
    const std::string data(300'000, mark);
    for (int i = 0; i < kFrames; ++i) {
      if (!stream->Send(FrameType::kFileData, {"twelve bytes", data}, Soon()).ok()) ++failed;
    }
  };
  auto receive = [&failed](Stream* stream, int frames) {
    for (int i = 0; i < frames; ++i) {
      absl::StatusOr<Frame> frame = stream->Receive(Soon());
      if (!frame.ok() || frame->payload.size() != 300'012) {
        ++failed;
        return;
      }
      if (frame->payload.find_first_not_of(frame->payload[12], 12) != std::string::npos) ++failed;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back(send, pair.a.get(), static_cast<char>('a' + i));
    threads.emplace_back(send, pair.b.get(), static_cast<char>('A' + i));
  }
  threads.emplace_back(receive, pair.a.get(), kThreads * kFrames);
  threads.emplace_back(receive, pair.b.get(), kThreads * kFrames);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
}

TEST(StreamTest, ADeadlineWhileReceivingLosesNothing) {
  StreamPair pair;
  EXPECT_EQ(pair.b->Receive(absl::Now() + absl::Milliseconds(20)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(pair.a->Send(FrameType::kAbort, {"why"}, Soon()).ok());
  EXPECT_EQ(pair.b->Receive(Soon())->payload, "why");
}

TEST(StreamTest, APeerThatDoesNotReadMakesSendingEnd) {
  StreamPair pair;
  const std::string data(kMaxDataBytes, 'x');
  absl::Status status;
  for (int i = 0; i < 200 && status.ok(); ++i) {
    status =
        pair.a->Send(FrameType::kFileData, {"twelve bytes", data}, absl::Now() + absl::Milliseconds(200));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_FALSE(pair.a->Send(FrameType::kPing, {}, Soon()).ok());
}

TEST(StreamTest, APeerThatTakesNothingAnyMoreIsGivenUpBeforeTheDeadline) {
  StreamPair pair;
  pair.a->SetStallLimit(absl::Milliseconds(100));
  const std::string data(kMaxDataBytes, 'x');
  absl::Status status;
  while (status.ok())
    status = pair.a->Send(FrameType::kFileData, {"twelve bytes", data}, absl::Now() + absl::Hours(2));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(status.message(), HasSubstr("taken nothing for 100ms"));
}

TEST(StreamTest, APeerThatGoesIsUnavailable) {
  StreamPair pair;
  pair.a.reset();
  EXPECT_EQ(pair.b->Receive(Soon()).status().code(), absl::StatusCode::kUnavailable);
}

TEST(StreamTest, ShutdownWakesAReader) {
  StreamPair pair;
  std::thread waker([&] { pair.b->Shutdown(); });
  EXPECT_EQ(pair.b->Receive(absl::InfiniteFuture()).status().code(), absl::StatusCode::kCancelled);
  waker.join();
}

class StreamServerTest : public testing::Test {
 protected:
  std::unique_ptr<tls::Identity> Make(const std::string& name, const tls::TestAuthority& authority) {
    return *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority, {name}));
  }
  std::unique_ptr<StreamServer> Serve(tls::Identity& identity) {
    return *StreamServer::Start(identity, "127.0.0.1", 0, [this](std::shared_ptr<Stream> stream) {
      ++served_;
      (void)stream->Receive(Soon());
    });
  }
  // What a client gets that asks for the agent of `node`.
  absl::Status Try(tls::Identity& client, const StreamServer& server, const std::string& node) {
    absl::StatusOr<std::unique_ptr<Stream>> stream =
        Stream::Connect(client, absl::StrCat("127.0.0.1:", server.port()), node, Soon());
    if (!stream.ok()) return stream.status();
    return (*stream)->Receive(Soon()).status();
  }
  const std::string folder_ = tls::TestFolder();
  const tls::TestAuthority authority_;
  std::atomic<int> served_ = 0;
};

TEST_F(StreamServerTest, OnlyTheRightNodeIsTalkedTo) {
  auto n1 = Make("n1.agent.godwit", authority_);
  auto n2 = Make("n2.agent.godwit", authority_);
  auto server = Serve(*n2);
  const absl::Status status = Try(*n1, *server, "n3");
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("cannot connect to the agent of node n3"));
}

TEST_F(StreamServerTest, WhoIsNoAgentIsNotServed) {
  auto controller = Make(tls::kControllerName, authority_);
  auto n2 = Make("n2.agent.godwit", authority_);
  auto server = Serve(*n2);
  EXPECT_FALSE(Try(*controller, *server, "n2").ok());
  EXPECT_EQ(served_, 0);
}

TEST_F(StreamServerTest, AStrangersCertificateIsNotServed) {
  const tls::TestAuthority other("other");
  auto stranger = Make("n1.agent.godwit", other);
  auto n2 = Make("n2.agent.godwit", authority_);
  auto server = Serve(*n2);
  EXPECT_FALSE(Try(*stranger, *server, "n2").ok());
  EXPECT_EQ(served_, 0);
}

TEST_F(StreamServerTest, GarbageInsteadOfTlsHarmsNobody) {
  auto n1 = Make("n1.agent.godwit", authority_);
  auto n2 = Make("n2.agent.godwit", authority_);
  auto server = Serve(*n2);
  UniqueFd raw = *ConnectTcp(absl::StrCat("127.0.0.1:", server->port()), Soon());
  const std::string garbage(4096, 'G');
  EXPECT_GT(write(raw.get(), garbage.data(), garbage.size()), 0);
  absl::StatusOr<std::unique_ptr<Stream>> stream =
      Stream::Connect(*n1, absl::StrCat("127.0.0.1:", server->port()), "n2", Soon());
  EXPECT_TRUE(stream.ok()) << stream.status();
}

TEST_F(StreamServerTest, HundredsWhoSayNothingKeepNoPeerOut) {
  auto n1 = Make("n1.agent.godwit", authority_);
  auto n2 = Make("n2.agent.godwit", authority_);
  auto server = Serve(*n2);
  const std::vector<UniqueFd> silent = Flood(server->port(), 150);
  const std::vector<UniqueFd> half = Flood(server->port(), 150, kHalfHello);
  const absl::Time begin = absl::Now();
  const auto stream = Stream::Connect(*n1, absl::StrCat("127.0.0.1:", server->port()), "n2", Soon());
  EXPECT_TRUE(stream.ok()) << stream.status();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
}

TEST_F(StreamServerTest, ANodeThatTakesAllItsStreamsLeavesTheOthersTheirs) {
  auto n1 = Make("n1.agent.godwit", authority_);
  auto n2 = Make("n2.agent.godwit", authority_);
  auto n3 = Make("n3.agent.godwit", authority_);
  auto server = Serve(*n2);
  const std::string address = absl::StrCat("127.0.0.1:", server->port());
  std::vector<std::unique_ptr<Stream>> greedy;
  for (int i = 0; i < StreamServer::kMaxStreamsOfOne; ++i)
    greedy.push_back(*Stream::Connect(*n1, address, "n2", Soon()));
  EXPECT_FALSE(Try(*n1, *server, "n2").ok()) << "one more than a node may have";
  const auto other = Stream::Connect(*n3, address, "n2", Soon());
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ((*other)->Receive(absl::Now() + absl::Milliseconds(200)).status().code(),
            absl::StatusCode::kDeadlineExceeded)
      << "it is served: nobody has hung up";
}

TEST_F(StreamServerTest, StoppingEndsOpenStreams) {
  auto n1 = Make("n1.agent.godwit", authority_);
  auto n2 = Make("n2.agent.godwit", authority_);
  auto server = Serve(*n2);
  auto stream = *Stream::Connect(*n1, absl::StrCat("127.0.0.1:", server->port()), "n2", Soon());
  ASSERT_TRUE(stream->Send(FrameType::kPing, {}, Soon()).ok());
  server.reset();
  EXPECT_FALSE(stream->Receive(Soon()).ok());
}

TEST_F(StreamServerTest, AddressesAreSpelledOut) {
  auto n1 = Make("n1.agent.godwit", authority_);
  for (const char* address : {"", "127.0.0.1", ":9552", "localhost:9552", "127.0.0.1:http"}) {
    EXPECT_EQ(Stream::Connect(*n1, address, "n2", Soon()).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
  EXPECT_EQ(Stream::Connect(*n1, "127.0.0.1:1", "n2", Soon()).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace godwit::transfer
