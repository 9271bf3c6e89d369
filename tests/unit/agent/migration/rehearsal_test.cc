// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/rehearsal.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/transfer/page_sender.h"
#include "agent/transfer/sample_sink.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/tls/test_authority.h"

namespace godwit::migration {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr uint64_t kStart = 0x7f0000000000;

// Memory of which each look finds the first `written` bytes written anew.
class FakeTracked final : public TrackedMemory {
 public:
  FakeTracked(uint64_t bytes, uint64_t written, int* alive)
      : bytes_(bytes), written_(written), alive_(alive) {
    ++*alive_;
  }
  ~FakeTracked() override { --*alive_; }
  absl::StatusOr<memory::Look> Round() override {
    memory::Look look;
    const uint64_t dirty = looks_++ == 0 ? bytes_ : written_;
    look.tasks.push_back({.pid = 42, .container_pid = 1, .owned = {{kStart, kStart + bytes_}}});
    if (dirty > 0) look.tasks[0].dirty = {{kStart, kStart + dirty}};
    return look;
  }
  absl::StatusOr<memory::Look> Owned() override { return absl::UnimplementedError("nobody freezes"); }
  absl::StatusOr<memory::Look> Last() override { return absl::UnimplementedError("nobody freezes"); }
  const char* SharedMemory(pid_t) const override { return nullptr; }
  std::vector<memory::Pinned> FindPinned() const override { return {}; }

 private:
  const uint64_t bytes_, written_;
  int* const alive_;
  int looks_ = 0;
};

class RehearsalTest : public ::testing::Test {
 protected:
  RehearsalTest() : folder_(tls::TestFolder()) {
    here_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n1.agent.godwit"}));
    there_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n2.agent.godwit"}));
    server_ = *transfer::StreamServer::Start(
        *there_, "127.0.0.1", 0, [this](std::shared_ptr<transfer::Stream> stream) {
          const auto frame = stream->Receive(absl::Now() + absl::Seconds(5));
          const auto hello = transfer::DecodeMessage<transfer::Hello>(*frame);
          EXPECT_EQ(hello->role, transfer::Role::kRehearsal);
          absl::MutexLock lock(&mutex_);
          taken_ = transfer::TakeSample(*stream, *hello);
        });
    node_.node = "n1";
    node_.find_pod = [](const agent_api::RehearsalRequest&) -> absl::StatusOr<PodOnNode> {
      PodOnNode pod;
      pod.parts.push_back({.container = {.id = "c1", .name = "app", .cgroup = "/c1"}});
      return pod;
    };
    node_.memory.track = [this](const std::string& cgroup) -> absl::StatusOr<std::unique_ptr<TrackedMemory>> {
      EXPECT_EQ(cgroup, "/host/c1");
      return std::make_unique<FakeTracked>(memory_, written_, &alive_);
    };
    node_.memory.read = [](pid_t, uint64_t address, char* to, size_t size) -> absl::StatusOr<size_t> {
      for (size_t i = 0; i < size; i += 8) {
        const uint64_t word = (address + i) * 0x9e3779b97f4a7c15;
        memcpy(to + i, &word, 8);
      }
      return size;
    };
    node_.memory.weigh = [](const std::string&) { return agent_api::Weight{2, 7, 30, 90}; };
    node_.connect = [this](const std::string& address, const std::string& node, absl::Time deadline) {
      return transfer::Stream::Connect(*here_, address, node, deadline);
    };
    node_.cgroup_here = [](const std::string& cgroup) { return "/host" + cgroup; };
    request_ = {.pod = {"shop", "cache-0", "u1"},
                .target_node = "n2",
                .target_address = absl::StrCat("127.0.0.1:", server_->port()),
                .limits = {.freeze_budget = absl::Milliseconds(100), .pre_copy_timeout = absl::Minutes(1)},
                .memory_bytes = 64 * kMiB,
                .file_bytes = kMiB};
    pace_.pauses = {absl::Milliseconds(10), absl::Milliseconds(30)};
  }
  absl::StatusOr<agent_api::RehearsalReport> Run() {
    auto report = Rehearse(request_, node_, pace_);
    EXPECT_EQ(alive_, 0) << "a tracker was left";
    return report;
  }

  const std::string folder_;
  const tls::TestAuthority authority_;
  std::unique_ptr<tls::Identity> here_, there_;
  absl::Mutex mutex_;
  absl::Status taken_;
  std::unique_ptr<transfer::StreamServer> server_;
  RehearsalNode node_;
  agent_api::RehearsalRequest request_;
  RehearsalPace pace_;
  uint64_t memory_ = 64 * kMiB, written_ = 0;
  int alive_ = 0;
};

TEST_F(RehearsalTest, AnIdlePodIsPredictedToStandStillForItsWeight) {
  request_.limits.freeze_budget = absl::Milliseconds(120);
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->findings, ::testing::IsEmpty());
  EXPECT_TRUE(report->converges);
  EXPECT_EQ(report->weight, (agent_api::Weight{2, 7, 30, 90}));
  EXPECT_EQ(report->fixed, FixedPartFor(1, report->weight).freeze);
  EXPECT_EQ(report->freeze, report->fixed);
  EXPECT_EQ(report->memory_bytes, 64 * kMiB);
  EXPECT_EQ(report->dirty_bytes, 0);
  EXPECT_GT(report->throughput, kMiB);
  EXPECT_GT(report->round_trip, absl::ZeroDuration());
  EXPECT_GT(report->sampled, absl::Milliseconds(40));
  // About half of 64 MiB was sent, and what does not compress.
  EXPECT_GT(report->sampled_bytes, 24 * kMiB);
  EXPECT_LT(report->sampled_bytes, 40 * kMiB);
  EXPECT_GT(report->transfer_bytes, 60 * kMiB);
  server_.reset();
  EXPECT_TRUE(taken_.ok()) << taken_;
}

TEST_F(RehearsalTest, WhatIsWrittenIsInThePrediction) {
  written_ = 16 * kMiB;
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->dirty_bytes, 16 * kMiB);
  EXPECT_GT(report->dirty_rate, 16 * kMiB);
  EXPECT_GT(report->transfer_bytes, 75 * kMiB);
}

TEST_F(RehearsalTest, WhatOnlyCriuCopiesIsInThePrediction) {
  node_.memory.contents = [](const std::string& cgroup, absl::Duration) {
    EXPECT_EQ(cgroup, "/host/c1");
    return runtime::Contents{.processes = {{42, {"db", 164 * kMiB}}}, .files = 500 * kMiB};
  };
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->converges);
  EXPECT_GT(report->freeze, absl::Milliseconds(900)) << "600 MiB: 100 of them locked, in a process of 164";
}

TEST_F(RehearsalTest, ASmallPodsLinkIsMeasuredWithNoise) {
  memory_ = kMiB;
  request_.memory_bytes = kMiB;
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->throughput, kMiB);
  EXPECT_GT(report->sampled_bytes, pace_.filler_bytes);
  EXPECT_LT(report->transfer_bytes, 5 * kMiB) << "noise is no part of it";
}

TEST_F(RehearsalTest, MemoryThatCannotBeTrackedIsAFallback) {
  node_.memory.track = [](const std::string&) -> absl::StatusOr<std::unique_ptr<TrackedMemory>> {
    return absl::FailedPreconditionError("files open with O_DIRECT");
  };
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->fallback, HasSubstr("container app: files open with O_DIRECT"));
  EXPECT_GT(report->freeze, report->fixed) << "a stop-and-copy";
  EXPECT_GT(report->throughput, kMiB);
}

TEST_F(RehearsalTest, AStopAndCopyTracksNothing) {
  request_.mode = agent_api::CopyMode::kStopAndCopy;
  node_.memory.track = nullptr;
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->fallback, "");
  EXPECT_GT(report->freeze, report->fixed);
}

TEST_F(RehearsalTest, AnUnreachableTargetIsAFindingWithARemedy) {
  server_.reset();
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->findings.size(), 1u);
  EXPECT_EQ(report->findings[0].id, "StreamUnreachable");
  EXPECT_EQ(report->findings[0].severity, agent_api::Severity::kBlocking);
  EXPECT_THAT(report->findings[0].message, HasSubstr("node n1 cannot send to the agent of node n2"));
  EXPECT_NE(report->findings[0].evidence, "");
}

TEST_F(RehearsalTest, APodThatStillFillsIsRefused) {
  node_.filling = [](const std::vector<std::string>& ids) { return ids == std::vector<std::string>{"c1"}; };
  EXPECT_EQ(Run().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(SampleSinkTest, RefusesWhatIsNoSample) {
  const std::string folder = tls::TestFolder();
  const tls::TestAuthority authority;
  auto here = *tls::Identity::Load(tls::MakeIdentityFiles(folder, authority, {"n1.agent.godwit"}));
  auto there = *tls::Identity::Load(tls::MakeIdentityFiles(folder, authority, {"n2.agent.godwit"}));
  absl::Mutex mutex;
  std::vector<absl::Status> ends;
  auto server =
      *transfer::StreamServer::Start(*there, "127.0.0.1", 0, [&](std::shared_ptr<transfer::Stream> stream) {
        const auto frame = stream->Receive(absl::Now() + absl::Seconds(5));
        const absl::Status end =
            transfer::TakeSample(*stream, *transfer::DecodeMessage<transfer::Hello>(*frame));
        absl::MutexLock lock(&mutex);
        ends.push_back(end);
      });
  const auto end_of = [&](const std::string& from, transfer::FrameType type, const std::string& payload) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    size_t before = 0;
    {
      absl::MutexLock lock(&mutex);
      before = ends.size();
    }
    auto stream =
        *transfer::Stream::Connect(*here, absl::StrCat("127.0.0.1:", server->port()), "n2", deadline);
    const transfer::Hello hello{
        .role = transfer::Role::kRehearsal, .uid = "u", .from_node = from, .to_node = "n2"};
    EXPECT_TRUE(stream->SendMessage(transfer::FrameType::kHello, hello, deadline).ok());
    (void)stream->Send(type, {payload}, deadline);
    absl::MutexLock lock(&mutex);
    auto ended = [&] { return ends.size() > before; };
    mutex.AwaitWithTimeout(absl::Condition(&ended), absl::Seconds(10));
    return ends.empty() ? absl::OkStatus() : ends.back();
  };
  EXPECT_EQ(end_of("n3", transfer::FrameType::kPing, "").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(end_of("n1", transfer::FrameType::kFileBegin, "{}").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(end_of("n1", transfer::FrameType::kPages, "nonsense").code(), absl::StatusCode::kInvalidArgument);
}

TEST(EvenlyTest, TakesTheBeginningOfEveryPart) {
  const uint64_t page = memory::PageBytes();
  EXPECT_THAT(Evenly({{0, 4 * kSamplePiece}}, 2 * kSamplePiece),
              ElementsAre(memory::Range{0, kSamplePiece}, memory::Range{2 * kSamplePiece, 3 * kSamplePiece}));
  EXPECT_THAT(Evenly({{0, 4 * kSamplePiece}}, kSamplePiece), ElementsAre(memory::Range{0, 4 * kSamplePiece}));
  EXPECT_THAT(Evenly({}, kSamplePiece), ::testing::IsEmpty());
  // Single pages, one in ten of what is there.
  memory::Ranges pages;
  for (uint64_t i = 0; i < 16000; ++i) pages.push_back({2 * i * page, (2 * i + 1) * page});
  const double share = static_cast<double>(memory::Bytes(Evenly(pages, 10 * kSamplePiece))) /
                       static_cast<double>(memory::Bytes(pages));
  EXPECT_NEAR(share, 0.1, 0.01);
}

}  // namespace
}  // namespace godwit::migration
