// SPDX-License-Identifier: Apache-2.0
// A rehearsal of real processes: what it says of them, and that it leaves nothing.
#include "agent/migration/rehearsal.h"

#include <dirent.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/runtime/cgroup.h"
#include "agent/transfer/sample_sink.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"
#include "tests/unit/agent/tls/test_authority.h"

namespace godwit::node_test {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A target's agent, as far as a rehearsal meets it.
class Agents {
 public:
  Agents() : folder_(tls::TestFolder()) {
    here_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n1.agent.godwit"}));
    there_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n2.agent.godwit"}));
    server_ =
        *transfer::StreamServer::Start(*there_, "127.0.0.1", 0, [](std::shared_ptr<transfer::Stream> stream) {
          const auto frame = stream->Receive(absl::Now() + absl::Seconds(5));
          const auto hello = transfer::DecodeMessage<transfer::Hello>(*frame);
          const absl::Status taken = transfer::TakeSample(*stream, *hello);
          EXPECT_TRUE(taken.ok()) << taken;
        });
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }
  migration::RehearsalNode NodeOf(const Container& container) {
    migration::RehearsalNode node{.node = "n1",
                                  .memory = migration::RealMemory("/proc", {.shared_memory = true})};
    node.find_pod = [&container](const agent_api::RehearsalRequest&) -> absl::StatusOr<migration::PodOnNode> {
      migration::PodOnNode pod;
      pod.parts.push_back({.container = {.id = container.id(), .name = "app", .cgroup = container.cgroup()}});
      return pod;
    };
    node.connect = [this](const std::string& address, const std::string& peer, absl::Time deadline) {
      return transfer::Stream::Connect(*here_, address, peer, deadline);
    };
    node.cgroup_here = [](const std::string& cgroup) { return cgroup; };
    return node;
  }

 private:
  const std::string folder_;
  const tls::TestAuthority authority_;
  std::unique_ptr<tls::Identity> here_, there_;
  std::unique_ptr<transfer::StreamServer> server_;
};

// Descriptors of the container's processes that lead to a userfaultfd.
int Userfaultfds(const Container& container) {
  int count = 0;
  const std::vector<pid_t> pids = *runtime::ProcessesInCgroup(container.cgroup());
  for (const pid_t pid : pids) {
    const std::string folder = absl::StrCat("/proc/", pid, "/fd");
    DIR* dir = opendir(folder.c_str());
    while (const dirent* entry = dir == nullptr ? nullptr : readdir(dir)) {
      char target[64] = {};
      if (readlink(absl::StrCat(folder, "/", entry->d_name).c_str(), target, sizeof(target) - 1) > 0)
        count += absl::StrContains(target, "userfaultfd") ? 1 : 0;
    }
    if (dir != nullptr) closedir(dir);
  }
  return count;
}

TEST(RehearsalOnANode, TellsHowFastAPodWritesAndLeavesNothing) {
  Agents agents;
  const Sandbox sandbox;
  Container container("rehearsed", sandbox, {"rewrite", "256"});
  container.Start();
  ASSERT_TRUE(container.output().WaitLines(10));
  const agent_api::RehearsalRequest request{
      .pod = {"shop", "cache-0", kPodUid},
      .target_node = "n2",
      .target_address = agents.address(),
      .limits = {.freeze_budget = absl::Milliseconds(100), .pre_copy_timeout = absl::Minutes(1)},
      .memory_bytes = 257 * kMiB};
  const absl::Time began = absl::Now();
  const auto report = migration::Rehearse(request, agents.NodeOf(container));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_LT(absl::Now() - began, absl::Seconds(10));
  EXPECT_EQ(report->fallback, "");
  EXPECT_TRUE(report->findings.empty());
  EXPECT_EQ(report->weight.processes, 1);
  EXPECT_GE(report->memory_bytes, 256 * kMiB);
  // Some 50 MB/s; less where the machine has other work.
  EXPECT_GT(report->dirty_rate, 10'000'000);
  EXPECT_LT(report->dirty_rate, 100'000'000);
  EXPECT_GT(report->throughput, 20'000'000);
  EXPECT_GE(report->transfer_bytes, 100 * kMiB);
  EXPECT_GE(report->freeze, report->fixed);
  EXPECT_LT(report->freeze, absl::Seconds(2));
  EXPECT_GT(report->sampled_bytes, 0);
  EXPECT_LT(report->sampled_bytes, transfer::kMaxSampleBytes);

  EXPECT_EQ(Userfaultfds(container), 0);
  EXPECT_FALSE(container.Frozen());
  const size_t lines = container.output().lines().size();
  ASSERT_TRUE(container.output().WaitLines(lines + 200)) << "it does not go on";
  EXPECT_THAT(container.output().text(), testing::Not(testing::HasSubstr("DAMAGED")));
  // It can be tracked again, by a migration.
  EXPECT_TRUE(memory::Tracker::Attach("/proc", container.cgroup()).ok());
}

TEST(RehearsalOnANode, AnUnreachableTargetIsAFinding) {
  Agents agents;
  const Sandbox sandbox;
  Container container("rehearsed", sandbox, {"memory", "16"});
  container.Start();
  ASSERT_TRUE(container.output().WaitLines(10));
  const auto report =
      migration::Rehearse({.target_node = "n2", .target_address = "127.0.0.1:9"}, agents.NodeOf(container));
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->findings.size(), 1u);
  EXPECT_EQ(report->findings[0].id, "StreamUnreachable");
  EXPECT_EQ(Userfaultfds(container), 0);
}

}  // namespace
}  // namespace godwit::node_test
