// SPDX-License-Identifier: Apache-2.0
#include "base/reception.h"

#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/http_endpoints.h"
#include "base/tcp_listener.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/base/flood.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Until the other end closes, or for ten seconds.
std::string ReadAll(int socket) {
  const timeval limit{.tv_sec = 10};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  std::string all;
  char piece[4096];
  for (ssize_t got = 0; (got = recv(socket, piece, sizeof(piece), 0)) > 0;) all.append(piece, got);
  return all;
}

// Stays until it is told "go", and says who it was.
class Talker final : public Reception::Guest {
 public:
  Talker(UniqueFd socket, std::atomic<int>* here) : socket_(std::move(socket)), here_(here) { ++*here_; }
  ~Talker() override { --*here_; }
  int fd() const override { return socket_.get(); }
  Next Go() override {
    char word[2];
    const ssize_t got = recv(socket_.get(), word, sizeof(word), 0);
    if (got < 0) return Next::kRead;
    if (got == 2) (void)!write(socket_.get(), "bye", 3);
    return Next::kLeave;
  }

 private:
  UniqueFd socket_;
  std::atomic<int>* const here_;
};

class ReceptionTest : public ::testing::Test {
 protected:
  void Open(const Reception::Limits& limits) {
    auto listener = ListenTcp("127.0.0.1", port_);
    ASSERT_TRUE(listener.ok()) << listener.status();
    reception_ = std::make_unique<Reception>(
        "test", *std::move(listener),
        [this](UniqueFd socket, const std::string& from) {
          EXPECT_EQ(from, "127.0.0.0/8");
          return std::make_unique<Talker>(std::move(socket), &here_);
        },
        limits);
  }
  void AwaitHere(int count) {
    for (const absl::Time end = absl::Now() + absl::Seconds(10); here_ != count && absl::Now() < end;)
      absl::SleepFor(absl::Milliseconds(1));
    ASSERT_EQ(here_, count);
  }
  static std::string Say(const UniqueFd& connection, absl::string_view word) {
    EXPECT_EQ(send(connection.get(), word.data(), word.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(word.size()));
    return ReadAll(connection.get());
  }

  uint16_t port_ = 0;
  std::atomic<int> here_ = 0;
  std::unique_ptr<Reception> reception_;
};

TEST_F(ReceptionTest, ThoseWhoSpeakAreServedBesideThoseWhoDoNot) {
  Open({.patience = absl::Hours(1)});
  const std::vector<UniqueFd> silent = Flood(port_, 20);
  EXPECT_EQ(Say(Connect(port_), "go"), "bye");
  AwaitHere(20);
  EXPECT_EQ(Say(silent[3], "go"), "bye") << "waiting is no offence";
}

TEST_F(ReceptionTest, ANewcomerGetsThePlaceOfTheOneWhoHasWaitedLongest) {
  Open({.places = 100, .of_one = 3, .patience = absl::Hours(1)});
  const std::vector<UniqueFd> silent = Flood(port_, 3);
  AwaitHere(3);
  const UniqueFd fourth = Connect(port_);
  EXPECT_EQ(ReadAll(silent[0].get()), "") << "the first was sent away";
  AwaitHere(3);
  EXPECT_EQ(Say(silent[1], "go"), "bye");
  EXPECT_EQ(Say(fourth, "go"), "bye");
}

TEST_F(ReceptionTest, PlacesOfAllAreBounded) {
  Open({.places = 10, .of_one = 100, .patience = absl::Hours(1)});
  const std::vector<UniqueFd> silent = Flood(port_, 200);
  EXPECT_EQ(Say(Connect(port_), "go"), "bye");
  EXPECT_LE(here_, 10);
}

TEST_F(ReceptionTest, PatienceEnds) {
  Open({.patience = absl::Milliseconds(50)});
  const absl::Time begin = absl::Now();
  EXPECT_EQ(ReadAll(Connect(port_).get()), "");
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(45));
  AwaitHere(0);
}

TEST_F(ReceptionTest, EndsWithGuestsInside) {
  Open({.patience = absl::Hours(1)});
  const std::vector<UniqueFd> silent = Flood(port_, 5);
  AwaitHere(5);
  reception_.reset();
  EXPECT_EQ(here_, 0);
}

class HttpEndpointsTest : public ::testing::Test {
 protected:
  HttpEndpointsTest()
      : big_(4 << 20, 'x'),
        endpoints_({{"/healthz", [] { return PlainAnswer{.body = "ok\n"}; }},
                    {"/readyz", [] { return PlainAnswer{.code = 503, .body = "not yet\n"}; }},
                    {"/big", [this] { return PlainAnswer{.body = big_}; }}},
                   {{"/slow", [this] {
                       ++slow_;
                       go_on_.WaitForNotification();
                       return PlainAnswer{.body = "at last\n"};
                     }}}) {
    EXPECT_TRUE(endpoints_.Start("127.0.0.1", 0).ok());
  }
  std::string Ask(absl::string_view request) {
    const UniqueFd connection = Connect(endpoints_.port());
    EXPECT_EQ(send(connection.get(), request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
    return ReadAll(connection.get());
  }
  const std::string big_;
  std::atomic<int> slow_ = 0;
  absl::Notification go_on_;
  HttpEndpoints endpoints_;
};

TEST_F(HttpEndpointsTest, AnswersItsPathsAndNothingElse) {
  EXPECT_EQ(Ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n"
            "Connection: close\r\n\r\nok\n");
  EXPECT_THAT(Ask("GET /readyz?verbose HTTP/1.0\r\n\r\n"),
              StartsWith("HTTP/1.1 503 Service Unavailable\r\n"));
  const std::string head = Ask("HEAD /healthz HTTP/1.1\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Content-Length: 3\r\n"));
  EXPECT_THAT(head, ::testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(Ask("GET /healthz/ HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask("POST /healthz HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(Ask("nonsense\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(Ask("\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(Ask(std::string(20'000, 'x')), ::testing::AnyOf(StartsWith("HTTP/1.1 431 "), ""));
}

TEST_F(HttpEndpointsTest, ALargeAnswerArrivesWhole) {
  const std::string answer = Ask("GET /big HTTP/1.1\r\n\r\n");
  EXPECT_EQ(answer.size() - answer.find("\r\n\r\n") - 4, big_.size());
}

TEST_F(HttpEndpointsTest, NobodyWaitsForASlowAnswerButThoseWhoAskForIt) {
  const std::vector<UniqueFd> patient = Flood(endpoints_.port(), 3, "GET /slow HTTP/1.1\r\n\r\n");
  EXPECT_THAT(Ask("GET /healthz HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200 OK"));
  go_on_.Notify();
  for (const UniqueFd& one : patient)
    EXPECT_THAT(ReadAll(one.get()), ::testing::EndsWith("\r\n\r\nat last\n"));
  EXPECT_EQ(slow_, 1) << "made once for all of them";
  EXPECT_THAT(Ask("GET /slow HTTP/1.1\r\n\r\n"), ::testing::EndsWith("at last\n"));
  EXPECT_EQ(slow_, 2);
}

TEST_F(HttpEndpointsTest, HundredsWhoSayNothingOrDoNotListenKeepNoProbeOut) {
  const std::vector<UniqueFd> silent = Flood(endpoints_.port(), 150);
  const std::vector<UniqueFd> slow = Flood(endpoints_.port(), 100, "GET /healthz HTTP/1.1\r\n");
  const std::vector<UniqueFd> deaf = Flood(endpoints_.port(), 20, "GET /big HTTP/1.1\r\n\r\n");
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 10; ++i)
    EXPECT_THAT(Ask("GET /healthz HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200 OK"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4)) << "kubelet would have killed the process";
}

TEST(TcpListenerTest, SaysWhichPortAndWhoIsInTheWay) {
  uint16_t port = 0;
  const auto first = ListenTcp("127.0.0.1", port);
  ASSERT_TRUE(first.ok());
  EXPECT_GT(port, 0);
  const auto second = ListenTcp("127.0.0.1", port);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(second.status().message(), HasSubstr(absl::StrCat("127.0.0.1:", port)));
  EXPECT_EQ(ListenTcp("localhost", port).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace godwit
