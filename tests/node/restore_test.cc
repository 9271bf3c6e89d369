// SPDX-License-Identifier: Apache-2.0
// Dumped by godwit-guard, restored as godwit-runtime does it: standing still, in its own cgroup, with its
// state.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "agent/criu/criu_environment.h"
#include "agent/criu/images.h"
#include "agent/guard/client.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/freezer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"

namespace godwit::node_test {
namespace {

using agent_api::GuardReply;
using agent_api::GuardSpec;
using guard::GuardClient;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class RestoreTest : public testing::Test {
 protected:
  // Dumps `source`, cedes it and kills it; its images stay.
  void DumpAndKill(Container& source) {
    const GuardSpec spec = SpecFor({&source});
    absl::StatusOr<GuardClient> client = guard::StartGuard(spec, {.binary = Node::Get().guard,
                                                                  .spec_file = spec.journal + ".spec",
                                                                  .host_root = "",
                                                                  .host_namespaces = ""});
    ASSERT_TRUE(client.ok()) << client.status();
    const absl::Time began = absl::Now();
    Expect(client->Freeze());
    frozen_ = absl::Now();
    Expect(client->Dump(source.id(), absl::Seconds(60)));
    dumped_ = absl::Now();
    Expect(client->Cede());
    ceded_ = absl::Now();
    const auto stats = criu::ReadDumpStats(source.images());
    std::cout << "freeze " << frozen_ - began << ", dump " << dumped_ - frozen_ << ", cede "
              << ceded_ - dumped_
              << (stats.ok() ? absl::StrCat("; CRIU held the tasks for ", absl::FormatDuration(stats->frozen),
                                            ", wrote ", stats->pages_written, " pages in ",
                                            absl::FormatDuration(stats->memory_write))
                             : "")
              << "\n";
    Expect(client->Kill());
  }
  static void Expect(const absl::StatusOr<GuardReply>& reply) {
    ASSERT_TRUE(reply.ok()) << reply.status();
    ASSERT_TRUE(reply->ok) << reply->reason << ": " << reply->message;
  }
  // Restores and checks that it stands still.
  static void RestoreStandingStill(Container& target, const std::string& images) {
    const absl::Time began = absl::Now();
    const absl::Status restored = target.Restore(images);
    ASSERT_TRUE(restored.ok()) << restored;
    std::cout << "restore to standing still " << absl::Now() - began << "\n";
    EXPECT_TRUE(target.Frozen());
    EXPECT_EQ(target.output().text(), "") << "it ran before it was thawed, or CRIU wrote into its output";
    const auto cgroup = runtime::CgroupOfProcess("/proc", target.init_pid());
    ASSERT_TRUE(cgroup.ok());
    EXPECT_EQ("/sys/fs/cgroup" + *cgroup, target.cgroup());
    const auto processes = runtime::ProcessesInCgroup(target.cgroup());
    ASSERT_TRUE(processes.ok());
    for (pid_t pid : *processes) {
      EXPECT_THAT(*ReadFile(absl::StrCat("/proc/", pid, "/status")), HasSubstr("TracerPid:\t0"))
          << "CRIU still holds it";
    }
  }
  // The second container goes on where the first stood still, with no number missing or twice.
  static void ExpectUnbroken(Container& before, Container& after) {
    ASSERT_TRUE(after.output().WaitLines(30)) << after.output().text();
    std::vector<long> numbers = before.output().numbers();
    const std::vector<long> rest = after.output().numbers();
    numbers.insert(numbers.end(), rest.begin(), rest.end());
    for (size_t i = 1; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], numbers[i - 1] + 1);
  }
  static long MonotonicOf(const std::string& line) {
    return atol(std::vector<std::string>(absl::StrSplit(line, ' '))[1].c_str());
  }

  Sandbox here_, there_;
  absl::Time frozen_, dumped_, ceded_;
};

TEST_F(RestoreTest, ACounterGoesOnAtTheNextNumber) {
  Container source("source", here_, {"count"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(20));
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(source));
  Container target("target", there_, {"count"});
  ASSERT_NO_FATAL_FAILURE(RestoreStandingStill(target, source.images()));
  target.Thaw();
  ExpectUnbroken(source, target);
}

// The second dump finds a process that lives in a time namespace of its own.
TEST_F(RestoreTest, ACounterGoesThereAndBack) {
  Container first("first", here_, {"count"});
  first.Start();
  ASSERT_TRUE(first.output().WaitLines(20));
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(first));
  Container second("second", there_, {"count"});
  ASSERT_NO_FATAL_FAILURE(RestoreStandingStill(second, first.images()));
  second.Thaw();
  ExpectUnbroken(first, second);
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(second));
  Container third("third", here_, {"count"});
  ASSERT_NO_FATAL_FAILURE(RestoreStandingStill(third, second.images()));
  third.Thaw();
  ExpectUnbroken(second, third);
  // Its clock has gone on, and not by more than the move took.
  const long step = MonotonicOf(third.output().lines()[0]) - MonotonicOf(second.output().lines().back());
  EXPECT_GT(step, 0);
  EXPECT_LT(step, absl::ToInt64Milliseconds(absl::Now() - frozen_));
}

TEST_F(RestoreTest, MemoryIsWholeAfterwards) {
  Container source("source", here_, {"memory", "512"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(20));
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(source));
  Container target("target", there_, {"memory", "512"});
  ASSERT_NO_FATAL_FAILURE(RestoreStandingStill(target, source.images()));
  target.Thaw();
  ExpectUnbroken(source, target);
  ASSERT_TRUE(target.output().WaitLines(250));
  EXPECT_THAT(target.output().text(), HasSubstr("sound"));
  EXPECT_THAT(target.output().text(), Not(HasSubstr("DAMAGED")));
}

TEST_F(RestoreTest, TwoProcessesKeepTheirPipe) {
  Container source("source", here_, {"pair"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(20));
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(source));
  Container target("target", there_, {"pair"});
  ASSERT_NO_FATAL_FAILURE(RestoreStandingStill(target, source.images()));
  target.Thaw();
  ExpectUnbroken(source, target);
  EXPECT_THAT(target.output().lines().back(), HasSubstr("child lives"));
}

TEST_F(RestoreTest, EstablishedConnectionsAreClosedAndListeningSocketsStay) {
  Container source("source", here_, {"tcp"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(20));
  ASSERT_THAT(source.output().lines().back(), HasSubstr("open listening"));
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(source));
  Container target("target", there_, {"tcp"});
  ASSERT_NO_FATAL_FAILURE(RestoreStandingStill(target, source.images()));
  target.Thaw();
  ExpectUnbroken(source, target);
  EXPECT_THAT(target.output().lines().back(), HasSubstr("closed listening"));
}

TEST_F(RestoreTest, ADeletedFileLargerThanCriusOwnLimitIsCarried) {
  Container source("source", here_, {"deleted-file", "8"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(20));
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(source));
  Container target("target", there_, {"deleted-file", "8"});
  ASSERT_NO_FATAL_FAILURE(RestoreStandingStill(target, source.images()));
  target.Thaw();
  ExpectUnbroken(source, target);
  EXPECT_THAT(target.output().lines().back(), HasSubstr("sound"));
}

TEST_F(RestoreTest, AHeldContainerCanBeKilledWithoutEverRunning) {
  Container source("source", here_, {"count"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(20));
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(source));
  Container target("target", there_, {"count"});
  ASSERT_NO_FATAL_FAILURE(RestoreStandingStill(target, source.images()));
  ASSERT_TRUE(runtime::KillCgroup(target.cgroup(), absl::Seconds(5)).ok());
  EXPECT_FALSE(target.Running());
  EXPECT_EQ(target.output().text(), "");
}

TEST_F(RestoreTest, ARestoreWaitsAtItsGateAndIsRefusedWhenTheGateIsClosed) {
  Container source("source", here_, {"count"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(20));
  ASSERT_NO_FATAL_FAILURE(DumpAndKill(source));
  const std::string gate = Node::Get().work + "/gate";
  unlink(gate.c_str());
  ASSERT_EQ(mkfifo(gate.c_str(), 0600), 0);
  {
    Container target("target", there_, {"count"});
    absl::Status restored = absl::UnknownError("not yet");
    std::thread restore([&] { restored = target.Restore(source.images(), gate); });
    UniqueFd open_gate(open(gate.c_str(), O_WRONLY | O_CLOEXEC));  // returns when CRIU waits at it
    EXPECT_FALSE(target.Frozen());
    const absl::Time released = absl::Now();
    EXPECT_EQ(write(open_gate.get(), "1", 1), 1);
    restore.join();
    std::cout << "restore from the gate to standing still " << absl::Now() - released << "\n";
    EXPECT_TRUE(restored.ok()) << restored;
    EXPECT_TRUE(target.Frozen());
    target.Thaw();
    ExpectUnbroken(source, target);
  }
  Container refused("refused", there_, {"count"});
  absl::Status restored;
  std::thread restore([&] { restored = refused.Restore(source.images(), gate); });
  UniqueFd(open(gate.c_str(), O_WRONLY | O_CLOEXEC)).Reset();
  restore.join();
  EXPECT_FALSE(restored.ok());
  EXPECT_THAT(std::string(restored.message()), HasSubstr("gate was closed"));
  EXPECT_FALSE(refused.Running());
}

class RestoreFailureTest : public RestoreTest {
 protected:
  // Restores a counter with a variable that asks for what cannot be, and returns why it failed.
  std::string WhyNotRestored(const std::string& name,
                             const std::function<std::string(const Container& target)>& value) {
    Container source("source", here_, {"count"});
    source.Start();
    EXPECT_TRUE(source.output().WaitLines(20));
    DumpAndKill(source);
    Container target("target", there_, {"count"});
    const absl::Status restored = target.RestoreWith(source.images(), name, value(target));
    EXPECT_FALSE(restored.ok());
    EXPECT_FALSE(target.Running());
    // runc itself says there that it failed; the workload says nothing.
    EXPECT_THAT(target.output().text(), Not(HasSubstr(" -\n")));
    return std::string(restored.message());
  }
};

TEST_F(RestoreFailureTest, ACriuThatCannotLeaveTheContainersCgroupRestoresNothing) {
  EXPECT_THAT(WhyNotRestored(criu::kOutsideCgroupVariable, [](const Container&) { return "/nowhere"; }),
              HasSubstr("cannot move CRIU out"));
}

// Where the tasks cannot be frozen they must not run either.
TEST_F(RestoreFailureTest, AContainerThatCannotBeHeldIsKilledBeforeItRuns) {
  const std::string folder = Node::Get().work + "/unfreezable";
  const auto unfreezable = [&](const Container& target) {
    std::filesystem::create_directory(folder);
    std::filesystem::create_symlink(target.cgroup() + "/cgroup.kill", folder + "/cgroup.kill");
    return folder;
  };
  EXPECT_THAT(WhyNotRestored(criu::kHoldCgroupVariable, unfreezable),
              AllOf(HasSubstr("cannot freeze"), HasSubstr("killing the restored container")));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace godwit::node_test
