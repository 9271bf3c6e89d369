// SPDX-License-Identifier: Apache-2.0
#include "k8s/transport.h"

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/error.h"
#include "k8s/testing/fake_api_server.h"

namespace godwit::k8s {
namespace {

using testing::FakeApiServer;
using testing::ForcedAnswer;
using ::testing::HasSubstr;
using testing::SeenRequest;

// A token that changes when the old one is refused.
class RotatedToken : public TokenSource {
 public:
  explicit RotatedToken(bool rotates) : rotates_(rotates) {}
  absl::StatusOr<std::string> Token() override { return refused_ && rotates_ ? "new" : "old"; }
  void Refused(const std::string&) override { refused_ = true; }

 private:
  const bool rotates_;
  std::atomic<bool> refused_ = false;
};

class TransportTest : public ::testing::Test {
 protected:
  std::shared_ptr<Transport> Connect(TransportOptions options = {}) {
    return Connect(server_.config(), std::move(options));
  }
  static std::shared_ptr<Transport> Connect(Config config, TransportOptions options = {}) {
    absl::StatusOr<std::shared_ptr<Transport>> transport =
        Transport::Create(std::move(config), std::move(options));
    EXPECT_TRUE(transport.ok()) << transport.status();
    return *transport;
  }
  static Request Get(const std::string& path) {
    return {.path = path, .verb = "get", .resource = "configmaps"};
  }
  // The first `count` requests are answered so.
  void Fail(int count, ForcedAnswer answer) {
    auto left = std::make_shared<std::atomic<int>>(count);
    server_.Intercept(
        [left, answer](const SeenRequest&) { return (*left)-- > 0 ? std::optional(answer) : std::nullopt; });
  }
  void PutMap() { server_.Put(ConfigMap{.metadata = {.name = "a", .name_space = "shop"}}); }

  FakeApiServer server_;
  const std::string path_ = "/api/v1/namespaces/shop/configmaps/a";
};

TEST_F(TransportTest, RefusesAnUnsafeConfiguration) {
  EXPECT_FALSE(Transport::Create({.server = "http://10.0.0.1"}).ok());
}

TEST_F(TransportTest, ARotatedTokenIsTriedOnce) {
  PutMap();
  server_.RequireToken("new");
  Config config = server_.config();
  config.token = std::make_shared<RotatedToken>(true);
  EXPECT_TRUE(Connect(config)->Do(Get(path_)).ok());
  EXPECT_EQ(server_.requests().size(), 2u);
  EXPECT_EQ(server_.requests()[0].authorization, "Bearer old");
}

TEST_F(TransportTest, ATokenThatStaysRefusedIsAnError) {
  server_.RequireToken("new");
  Config config = server_.config();
  config.token = std::make_shared<RotatedToken>(false);
  EXPECT_TRUE(k8s::IsUnauthorized(Connect(config)->Do(Get(path_)).status()));
  EXPECT_EQ(server_.requests().size(), 1u) << "the same token again would be refused again";
}

TEST_F(TransportTest, RetryAfterIsHonoured) {
  PutMap();
  Fail(1, {.code = 429, .reason = "TooManyRequests", .message = "slow down", .retry_after = "1"});
  const absl::Duration begin = Clock::Real().Monotonic();
  EXPECT_TRUE(Connect()->Do(Get(path_)).ok());
  EXPECT_GE(Clock::Real().Monotonic() - begin, absl::Seconds(1));
  EXPECT_EQ(server_.requests().size(), 2u);
}

TEST_F(TransportTest, ARetryAfterBeyondTheTimeoutIsTheAnswerAtOnce) {
  Fail(1, {.code = 429, .reason = "TooManyRequests", .message = "slow down", .retry_after = "60"});
  const absl::Duration begin = Clock::Real().Monotonic();
  const absl::Status status = Connect()->Do(Get(path_)).status();
  EXPECT_TRUE(k8s::IsTooManyRequests(status));
  EXPECT_EQ(ErrorOf(status)->retry_after, absl::Seconds(60));
  EXPECT_LT(Clock::Real().Monotonic() - begin, absl::Seconds(10));
}

TEST_F(TransportTest, AServerErrorWithoutRetryAfterIsNotTriedAgain) {
  Fail(1, {.code = 503, .reason = "ServiceUnavailable", .message = "etcd has no leader"});
  EXPECT_EQ(ReasonOf(Connect()->Do(Get(path_)).status()), "ServiceUnavailable");
  EXPECT_EQ(server_.requests().size(), 1u);
}

TEST_F(TransportTest, NoServerIsUnavailableAndSaysWhere) {
  Config config;
  {
    FakeApiServer gone;
    config = gone.config();
  }
  const absl::Status status = Connect(config)->Do(Get("/readyz")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(config.server));
  EXPECT_THAT(std::string(status.message()), HasSubstr("is the API server running"));
}

TEST_F(TransportTest, ASilentServerIsLeftAtTheDeadline) {
  server_.HoldWatches(true);
  Request request = Get("/api/v1/configmaps?watch=true&resourceVersion=1000");
  request.timeout = absl::Milliseconds(200);
  const absl::Status status = Connect()->Do(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no answer within 200ms"));
  server_.HoldWatches(false);
}

TEST_F(TransportTest, AStreamEndsWhenAnotherThreadCancelsIt) {
  Cancellation cancellation;
  Request request = Get("/api/v1/configmaps?watch=true&resourceVersion=1000&timeoutSeconds=600");
  request.timeout = absl::Minutes(10);
  request.cancellation = &cancellation;
  const std::shared_ptr<Transport> transport = Connect();
  absl::Status status;
  std::thread stream(
      [&] { status = transport->Stream(request, [](absl::string_view) { return absl::OkStatus(); }); });
  EXPECT_TRUE(FakeApiServer::WaitUntil([this] { return server_.open_watches() == 1; }));
  const absl::Duration begin = Clock::Real().Monotonic();
  cancellation.Cancel();
  stream.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_LT(Clock::Real().Monotonic() - begin, absl::Seconds(5));
  EXPECT_TRUE(FakeApiServer::WaitUntil([this] { return server_.open_watches() == 0; }))
      << "the connection was closed";
}

TEST_F(TransportTest, ACancelledRequestIsNotEvenSent) {
  Cancellation cancellation;
  cancellation.Cancel();
  Request request = Get(path_);
  request.cancellation = &cancellation;
  EXPECT_TRUE(absl::IsCancelled(Connect()->Do(request).status()));
}

TEST_F(TransportTest, ThePauseBeforeARetryCanBeCancelled) {
  Fail(100, {.code = 429, .reason = "TooManyRequests", .message = "slow down", .retry_after = "25"});
  Cancellation cancellation;
  Request request = Get(path_);
  request.cancellation = &cancellation;
  const std::shared_ptr<Transport> transport = Connect();
  absl::Status status;
  std::thread waiting([&] { status = transport->Do(request).status(); });
  EXPECT_TRUE(FakeApiServer::WaitUntil([this] { return !server_.requests().empty(); }));
  cancellation.Cancel();
  waiting.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST_F(TransportTest, AnAnswerBeyondTheLimitIsRefused) {
  Fail(1, {.code = 200, .raw_body = std::string(5000, ' ')});
  const absl::Status status = Connect({.max_response_bytes = 4096})->Do(Get(path_)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST_F(TransportTest, ThePiecesOwnErrorIsTheResult) {
  PutMap();
  EXPECT_EQ(Connect()->Stream(Get(path_), [](absl::string_view) { return absl::DataLossError("no"); }),
            absl::DataLossError("no"));
}

TEST_F(TransportTest, TheObserverIsToldOfEachTry) {
  absl::Mutex mutex;
  std::vector<RequestRecord> records;
  auto transport = Connect({.observer = [&](const RequestRecord& record) {
    absl::MutexLock lock(&mutex);
    records.push_back(record);
  }});
  EXPECT_TRUE(k8s::IsNotFound(transport->Do(Get(path_)).status()));
  PutMap();
  EXPECT_TRUE(transport->Do(Get(path_)).ok());
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].code, 404);
  EXPECT_EQ(records[1].code, 200);
  EXPECT_EQ(records[1].verb, "get");
  EXPECT_EQ(records[1].resource, "configmaps");
  EXPECT_GT(records[1].latency, absl::ZeroDuration());
}

TEST_F(TransportTest, ManyThreadsShareIt) {
  PutMap();
  const std::shared_ptr<Transport> transport = Connect();
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 25; ++j) good += transport->Do(Get(path_)).ok() ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 200);
}

}  // namespace
}  // namespace godwit::k8s
