// SPDX-License-Identifier: Apache-2.0
// The fence around a pod that stands still, with real packets.
#include "agent/runtime/fence.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/guard/client.h"
#include "agent/runtime/processes.h"
#include "base/process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"

namespace godwit::node_test {
namespace {

using agent_api::GuardReply;
using agent_api::GuardSpec;
using guard::GuardClient;
using runtime::Fence;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kPod[] = "10.9.0.2", kNode[] = "10.9.0.1";
constexpr int kSilence = 400;  // ms without an answer, beyond a first retransmission

class FenceTest : public testing::Test {
 protected:
  // A pod's network as a CNI plugin makes it: an interface pair, one end in the sandbox.
  FenceTest() : nft_(Node::Get().criu + "/bin/nft") {
    const std::string pid = absl::StrCat(sandbox_.pid());
    Run({"ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", pid});
    Run({"ip", "address", "add", absl::StrCat(kNode, "/24"), "dev", "pod0"});
    Run({"ip", "link", "set", "pod0", "up"});
    Run({"nsenter", "-t", pid, "-n", "ip", "address", "add", absl::StrCat(kPod, "/24"), "dev", "eth0"});
    Run({"nsenter", "-t", pid, "-n", "ip", "link", "set", "eth0", "up"});
    pod_ = std::make_unique<Container>("echo", sandbox_, std::vector<std::string>{"echo"});
    pod_->Start();
    EXPECT_TRUE(pod_->output().WaitLines(10)) << pod_->output().text();
  }
  ~FenceTest() override {
    pod_.reset();
    Run({"ip", "link", "delete", "pod0"});
  }
  static std::string Run(std::vector<std::string> command) {
    const auto done = RunOrError(command);
    EXPECT_TRUE(done.ok()) << done.status();
    return done.value_or("");
  }
  std::string Tables() const { return Run({nft_, "list", "ruleset"}); }
  UniqueFd Connect() const {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(7000);
    inet_pton(AF_INET, kPod, &address.sin_addr);
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  static void Say(const UniqueFd& connection, char word) {
    EXPECT_EQ(send(connection.get(), &word, 1, MSG_NOSIGNAL), 1);
  }
  // The next byte; '!' for none in the time, '.' for an end.
  static char Hear(const UniqueFd& connection, int ms = 20'000) {
    pollfd source{connection.get(), POLLIN, 0};
    if (poll(&source, 1, ms) <= 0) return '!';
    char word = 0;
    return recv(connection.get(), &word, 1, 0) == 1 ? word : '.';
  }
  GuardSpec Spec() const {
    GuardSpec spec = SpecFor({pod_.get()});
    spec.addresses = {kPod};
    return spec;
  }
  static GuardClient StartedGuard(const GuardSpec& spec) {
    absl::StatusOr<GuardClient> client = guard::StartGuard(spec, {.binary = Node::Get().guard,
                                                                  .spec_file = spec.journal + ".spec",
                                                                  .host_root = "",
                                                                  .host_namespaces = ""});
    EXPECT_TRUE(client.ok()) << client.status();
    if (!client.ok()) abort();
    return *std::move(client);
  }
  static void ExpectOk(const absl::StatusOr<GuardReply>& reply) {
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_TRUE(reply->ok) << reply->reason << ": " << reply->message;
  }

  const std::string nft_;
  Sandbox sandbox_;
  std::unique_ptr<Container> pod_;
};

TEST_F(FenceTest, NothingPassesWhileItIsRaised) {
  const UniqueFd connection = Connect();
  Say(connection, 'a');
  EXPECT_EQ(Hear(connection), 'a');
  {
    absl::StatusOr<Fence> fence = Fence::Make(nft_, "test", {kPod, "fd00::2"}, absl::Seconds(60));
    ASSERT_TRUE(fence.ok()) << fence.status();
    Say(connection, 'b');
    EXPECT_EQ(Hear(connection), 'b') << "it is not raised yet";
    for (char word : {'c', 'd'}) {
      const absl::Time began = absl::Now();
      ASSERT_TRUE(fence->Raise().ok());
      std::cout << "raised in " << absl::Now() - began << "\n";
      ASSERT_TRUE(fence->Raise().ok());
      Say(connection, word);
      EXPECT_EQ(Hear(connection, kSilence), '!');
      ASSERT_TRUE(fence->Lower().ok());
      ASSERT_TRUE(fence->Lower().ok());
      EXPECT_EQ(Hear(connection), word) << "sent again by TCP";
    }
    ASSERT_TRUE(fence->Raise().ok());
    EXPECT_THAT(Tables(), HasSubstr("fd00::2"));
  }
  EXPECT_THAT(Tables(), Not(HasSubstr("godwit")));
}

TEST_F(FenceTest, TheKernelLiftsItWhenItsTimeIsOver) {
  absl::StatusOr<Fence> fence = Fence::Make(nft_, "test", {kPod}, absl::Milliseconds(kSilence * 2));
  ASSERT_TRUE(fence.ok()) << fence.status();
  const UniqueFd connection = Connect();
  ASSERT_TRUE(fence->Raise().ok());
  Say(connection, 'a');
  EXPECT_EQ(Hear(connection, kSilence), '!');
  EXPECT_EQ(Hear(connection), 'a');
}

TEST_F(FenceTest, WhatIsNoPodsAddressIsRefused) {
  EXPECT_THAT(std::string(Fence::Make(nft_, "test", {kNode}, absl::Seconds(1)).status().message()),
              HasSubstr("10.9.0.1: it is an address of the node itself"));
  EXPECT_THAT(std::string(Fence::Make(nft_, "test", {"10.9.0"}, absl::Seconds(1)).status().message()),
              HasSubstr("it is no IP address"));
  EXPECT_THAT(std::string(Fence::Make(nft_, "a; b", {kPod}, absl::Seconds(1)).status().message()),
              HasSubstr("cannot name a fence"));
  EXPECT_THAT(Tables(), Not(HasSubstr("godwit")));
}

TEST_F(FenceTest, AConnectionOutlivesACheckpointBehindIt) {
  const UniqueFd connection = Connect();
  Say(connection, 'a');
  EXPECT_EQ(Hear(connection), 'a');
  const GuardSpec spec = Spec();
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Arm());
  ExpectOk(client.Freeze());
  EXPECT_THAT(Tables(), HasSubstr(kPod));
  Say(connection, 'b');
  ExpectOk(client.Dump(pod_->id(), absl::Seconds(20)));
  EXPECT_THAT(ReadFile(pod_->work() + "/criu.conf").value_or(""), HasSubstr("network-lock skip"));
  EXPECT_EQ(Hear(connection, kSilence), '!');
  ExpectOk(client.Thaw("the end of a checkpoint"));
  EXPECT_EQ(Hear(connection), 'b');
  Say(connection, 'c');
  EXPECT_EQ(Hear(connection), 'c');
  client.Shutdown();
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (FileExists(spec.socket) && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_THAT(Tables(), Not(HasSubstr("godwit")));
}

TEST_F(FenceTest, ThePeersOfAKilledPodHearThatItsConnectionsEnd) {
  const UniqueFd connection = Connect();
  GuardClient client = StartedGuard(Spec());
  ExpectOk(client.Freeze());
  ExpectOk(client.Dump(pod_->id(), absl::Seconds(20)));
  ExpectOk(client.Cede());
  EXPECT_EQ(Hear(connection, kSilence), '!');
  ExpectOk(client.Kill());
  EXPECT_EQ(Hear(connection), '.');
  EXPECT_THAT(Tables(), Not(HasSubstr(kPod)));
}

// By SIGKILL: whoever comes next lifts it, be it a guard of the same spec or an agent that starts.
TEST_F(FenceTest, AFenceDoesNotOutliveItsGuardForLong) {
  const UniqueFd connection = Connect();
  const GuardSpec spec = Spec();
  const auto kill_guard = [&](GuardClient& client) {
    const auto pids = runtime::ReadProcesses("/proc", "/sys/fs/cgroup/godwit-guard/" + spec.migration_uid);
    ASSERT_TRUE(pids.ok() && pids->size() == 1);
    ASSERT_EQ(kill((*pids)[0].pid, SIGKILL), 0);
    EXPECT_TRUE(absl::IsUnavailable(client.Status().status()));
    EXPECT_THAT(Tables(), HasSubstr(kPod));
  };
  const guard::GuardLaunch launch = {.binary = Node::Get().guard};
  {
    GuardClient client = StartedGuard(spec);
    ExpectOk(client.Freeze());
    const absl::Status lifted = guard::LiftFencesLeft(launch, Node::Get().criu);
    EXPECT_TRUE(lifted.ok()) << lifted;
    EXPECT_THAT(Tables(), HasSubstr(kPod)) << "its guard lives";
    kill_guard(client);
  }
  {
    GuardClient second = StartedGuard(spec);
    EXPECT_THAT(Tables(), Not(HasSubstr(kPod)));
    Say(connection, 'a');
    EXPECT_EQ(Hear(connection), 'a');
  }
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (FileExists("/sys/fs/cgroup/godwit-guard/" + spec.migration_uid) && absl::Now() < deadline)
    absl::SleepFor(absl::Milliseconds(5));
  unlink(spec.journal.c_str());
  GuardClient third = StartedGuard(spec);
  ExpectOk(third.Freeze());
  kill_guard(third);
  const absl::Status lifted = guard::LiftFencesLeft(launch, Node::Get().criu);
  EXPECT_TRUE(lifted.ok()) << lifted;
  EXPECT_THAT(Tables(), Not(HasSubstr("godwit")));
}

TEST_F(FenceTest, WhereNoFenceCanBeMadeCriuLocksConnectionsItself) {
  GuardSpec spec = Spec();
  spec.addresses = {kPod, kNode};
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Freeze());
  ExpectOk(client.Dump(pod_->id(), absl::Seconds(20)));
  EXPECT_THAT(ReadFile(pod_->work() + "/criu.conf").value_or(""), HasSubstr("network-lock nftables"));
  EXPECT_THAT(ReadFile(spec.log).value_or(""), HasSubstr("an address of the node itself"));
  ExpectOk(client.Thaw("test"));
}

}  // namespace
}  // namespace godwit::node_test
