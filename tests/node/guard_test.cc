// SPDX-License-Identifier: Apache-2.0
// godwit-guard with real containers: what it freezes goes on again, or is dead, whatever happens to its
// agent.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/criu/images.h"
#include "agent/guard/client.h"
#include "agent/journal/journal.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/freezer.h"
#include "agent/runtime/memory_folder.h"
#include "agent/runtime/processes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"

namespace godwit::node_test {
namespace {

using agent_api::GuardReply;
using agent_api::GuardSpec;
using agent_api::SourceState;
using guard::GuardClient;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// For the child between fork and exec, which may not allocate.
char agent_path[1024];
constexpr int kAgentProgram = 100;

bool Eventually(const std::function<bool()>& condition, absl::Duration limit = absl::Seconds(10)) {
  const absl::Time deadline = absl::Now() + limit;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

// Does it print more than it has?
bool GoesOn(Container& container) {
  return container.output().WaitLines(container.output().lines().size() + 20, absl::Seconds(10));
}

std::vector<SourceState> Journaled(const GuardSpec& spec) {
  std::vector<SourceState> states;
  const auto records = journal::ReplayJournal<SourceState>(spec.journal);
  EXPECT_TRUE(records.ok()) << records.status();
  if (!records.ok()) return states;
  for (const auto& record : *records) states.push_back(record.state);
  return states;
}

class GuardTest : public testing::Test {
 protected:
  Container& Started(std::vector<std::string> arguments) {
    containers_.push_back(std::make_unique<Container>("source", sandbox_, std::move(arguments)));
    containers_.back()->Start();
    EXPECT_TRUE(containers_.back()->output().WaitLines(10)) << containers_.back()->output().text();
    return *containers_.back();
  }
  GuardClient StartedGuard(const GuardSpec& spec) {
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
  static void Cede(GuardClient& client, const Container& container) {
    ExpectOk(client.Freeze());
    ExpectOk(client.Dump(container.id(), absl::Seconds(20)));
    ExpectOk(client.Cede());
  }
  // With the folder of its container's cgroup for the pod's.
  static GuardSpec HoldingSpecFor(Container& container) {
    GuardSpec spec = SpecFor({&container});
    spec.pod_cgroup = std::filesystem::path(container.cgroup()).parent_path();
    return spec;
  }
  // By SIGKILL, which no destructor sees; a dump that is on its way with it.
  static void KillGuard(const GuardSpec& spec, GuardClient& client) {
    const absl::Status killed =
        runtime::KillCgroup("/sys/fs/cgroup/godwit-guard/" + spec.migration_uid, absl::Seconds(5));
    ASSERT_TRUE(killed.ok()) << killed;
    EXPECT_TRUE(absl::IsUnavailable(client.Status().status()));
  }
  static std::string LogOf(const GuardSpec& spec) { return ReadFile(spec.log).value_or("no log"); }

  Sandbox sandbox_;
  std::vector<std::unique_ptr<Container>> containers_;
};

TEST_F(GuardTest, AFrozenPodStandsStillAndGoesOnAtTheNextNumberWhenThawed) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  const auto frozen = client.Freeze();
  ExpectOk(frozen);
  EXPECT_EQ(frozen->state, SourceState::kFrozen);
  EXPECT_TRUE(container.Frozen());
  ExpectOk(client.Dump(container.id(), absl::Seconds(20)));
  EXPECT_TRUE(container.Frozen()) << "CRIU thawed it";
  EXPECT_TRUE(criu::CheckImages(container.images()).ok()) << criu::CheckImages(container.images());
  const size_t lines = container.output().lines().size();
  const auto status = client.Status();
  ExpectOk(status);
  EXPECT_GT(status->frozen_for, absl::ZeroDuration());
  EXPECT_EQ(container.output().lines().size(), lines);
  ExpectOk(client.Thaw("test"));
  EXPECT_TRUE(GoesOn(container));
  const std::vector<long> numbers = container.output().numbers();
  for (size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], static_cast<long>(i + 1));
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kAborted));
}

TEST_F(GuardTest, TwoContainersFreezeTogetherAndAreDumpedOneAfterAnother) {
  Container& one = Started({"count"});
  Container& two = Started({"pair"});
  GuardClient client = StartedGuard(SpecFor({&one, &two}));
  ExpectOk(client.Freeze());
  EXPECT_TRUE(one.Frozen());
  EXPECT_TRUE(two.Frozen());
  ExpectOk(client.Dump(one.id(), absl::Seconds(20)));
  EXPECT_TRUE(two.Frozen());
  const auto early = client.Cede();
  ASSERT_TRUE(early.ok());
  EXPECT_EQ(early->reason, "NotDumped");
  ExpectOk(client.Dump(two.id(), absl::Seconds(20)));
  EXPECT_TRUE(one.Frozen());
  ExpectOk(client.Thaw("test"));
  EXPECT_TRUE(GoesOn(one));
  EXPECT_TRUE(GoesOn(two));
}

TEST_F(GuardTest, ThawsWhenTheAgentsConnectionEndsInTheFreeze) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  {
    GuardClient client = StartedGuard(spec);
    ExpectOk(client.Freeze());
    EXPECT_TRUE(container.Frozen());
  }
  const absl::Time lost = absl::Now();
  EXPECT_TRUE(Eventually([&] { return !container.Frozen(); }, absl::Seconds(5)));
  EXPECT_LT(absl::Now() - lost, absl::Seconds(5));
  EXPECT_TRUE(GoesOn(container));
  EXPECT_TRUE(Eventually([&] { return !FileExists(spec.socket); })) << LogOf(spec);
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kAborted));
  EXPECT_TRUE(Eventually([&] { return !FileExists("/sys/fs/cgroup/godwit-guard/" + spec.migration_uid); }))
      << "its cgroup is left behind";
}

// As the agent's container ends: everything in its cgroup is killed, in namespaces of its own.
TEST_F(GuardTest, OutlivesTheContainerOfTheAgentThatStartedItAndThaws) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  const std::string spec_file = spec.journal + ".spec";
  ASSERT_TRUE(WriteFileDurably(spec_file, json::Encode(spec)).ok());
  const std::string cgroup = "/sys/fs/cgroup/agent";
  ASSERT_TRUE(MakeFolders(cgroup).ok());
  Output output;
  SpawnOptions options;
  options.stdout_fd = output.write_end();
  options.cgroup = cgroup;
  options.before_exec = [] {
    if (unshare(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC) != 0)
      return errno;
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return errno;
    // The program is opened before its folder is covered.
    if (const int program = open(agent_path, O_PATH); program < 0 || dup2(program, kAgentProgram) < 0)
      return errno;
    for (const char* folder : {"/disk", "/usr", "/sys/fs/cgroup", "/run"}) {
      if (mount("tmpfs", folder, "tmpfs", 0, nullptr) != 0) return errno;
    }
    return 0;
  };
  snprintf(agent_path, sizeof(agent_path), "%s", Node::Get().agent.c_str());
  absl::StatusOr<Child> agent =
      Child::Spawn({absl::StrCat("/proc/self/fd/", kAgentProgram), Node::Get().guard, spec_file}, options);
  ASSERT_TRUE(agent.ok()) << agent.status();
  ASSERT_TRUE(output.WaitLines(1));
  ASSERT_EQ(output.text(), "frozen\n") << LogOf(spec);
  EXPECT_TRUE(container.Frozen());
  ASSERT_TRUE(WriteKernelFile(cgroup + "/cgroup.kill", "1").ok());
  ASSERT_TRUE(agent->Wait(absl::Seconds(5)).ok());
  output.CloseWriteEnd();
  EXPECT_TRUE(GoesOn(container)) << LogOf(spec);
  EXPECT_TRUE(Eventually([&] { return !FileExists(spec.socket); })) << LogOf(spec);
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kAborted));
  rmdir(cgroup.c_str());
}

// The hard case: CRIU has code injected into the tasks at this moment.
TEST_F(GuardTest, TheApplicationSurvivesALostAgentInTheMiddleOfADump) {
  Container& container = Started({"memory", "600"});
  ASSERT_TRUE(GoesOn(container));
  const GuardSpec spec = SpecFor({&container});
  {
    GuardClient client = StartedGuard(spec);
    ExpectOk(client.Freeze());
    std::thread asking(
        [&] { EXPECT_FALSE(client.Dump(container.id(), absl::Seconds(30)).ok()) << "too late to end it"; });
    EXPECT_TRUE(Eventually([&] {
      const auto sizes = criu::MeasureImages(container.images());
      return sizes.ok() && sizes->pages > 0;
    }));
    client.Shutdown();
    asking.join();
  }
  const absl::Time lost = absl::Now();
  EXPECT_TRUE(Eventually([&] { return !FileExists(spec.socket); }, absl::Seconds(5))) << LogOf(spec);
  EXPECT_LT(absl::Now() - lost, absl::Seconds(5));
  EXPECT_FALSE(criu::CheckImages(container.images()).ok()) << "the dump was finished, so nothing was tested";
  EXPECT_TRUE(GoesOn(container)) << LogOf(spec);
  EXPECT_THAT(LogOf(spec), testing::Not(HasSubstr("killing a dump")));
  EXPECT_TRUE(container.output().WaitLines(container.output().lines().size() + 200));
  EXPECT_THAT(container.output().text(), testing::Not(HasSubstr("DAMAGED")));
}

// Pids in the cgroup of the guard: itself, and runc and CRIU that it has started.
std::vector<pid_t> GuardProcesses(const GuardSpec& spec) {
  std::vector<pid_t> pids;
  const auto processes = runtime::ReadProcesses("/proc", "/sys/fs/cgroup/godwit-guard/" + spec.migration_uid);
  if (!processes.ok()) return pids;
  for (const runtime::Process& process : *processes) {
    if (process.state != 'Z') pids.push_back(process.pid);
  }
  return pids;
}

std::vector<pid_t> CriuAmong(const std::vector<pid_t>& pids) {
  std::vector<pid_t> found;
  for (pid_t pid : pids) {
    if (absl::StrContains(ReadFile(absl::StrCat("/proc/", pid, "/cmdline")).value_or(""), "swrk"))
      found.push_back(pid);
  }
  return found;
}

// As the kernel's OOM killer may. CRIU goes on alone.
TEST_F(GuardTest, TheApplicationSurvivesARuncThatIsKilledInTheMiddleOfADump) {
  Container& container = Started({"memory", "600"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Freeze());
  std::thread asking([&] {
    const auto dumped = client.Dump(container.id(), absl::Seconds(30));
    EXPECT_TRUE(dumped.ok() && !dumped->ok) << "too late to kill anything";
  });
  EXPECT_TRUE(Eventually([&] {
    const auto sizes = criu::MeasureImages(container.images());
    return sizes.ok() && sizes->pages > 0;
  }));
  int killed = 0;
  for (const pid_t pid : GuardProcesses(spec)) {
    const std::string command = ReadFile(absl::StrCat("/proc/", pid, "/cmdline")).value_or("");
    if (absl::StrContains(command, "checkpoint") && !absl::StrContains(command, "swrk"))
      killed += kill(pid, SIGKILL) == 0 ? 1 : 0;
  }
  EXPECT_EQ(killed, 1) << "no runc was found";
  asking.join();
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kAborted));
  EXPECT_THAT(CriuAmong(GuardProcesses(spec)), testing::IsEmpty());
  EXPECT_TRUE(GoesOn(container)) << LogOf(spec);
  EXPECT_TRUE(container.output().WaitLines(container.output().lines().size() + 200)) << "frozen once more";
  EXPECT_THAT(container.output().text(), testing::Not(HasSubstr("DAMAGED")));
}

TEST_F(GuardTest, AContainerHasOneGuardAtATime) {
  Container& container = Started({"count"});
  GuardSpec second = SpecFor({&container});
  {
    GuardClient first = StartedGuard(SpecFor({&container}));
    ExpectOk(first.Freeze());
    const auto refused = guard::StartGuard(second, {.binary = Node::Get().guard,
                                                    .spec_file = second.journal + ".spec",
                                                    .host_root = "",
                                                    .host_namespaces = ""});
    EXPECT_FALSE(refused.ok());
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("another Migration or Checkpoint"));
    EXPECT_FALSE(GoesOn(container)) << "who was refused has thawed it";
    ExpectOk(first.Thaw("enough"));
  }
  EXPECT_TRUE(Eventually([&] {
    return guard::StartGuard(second, {.binary = Node::Get().guard,
                                      .spec_file = second.journal + ".spec",
                                      .host_root = "",
                                      .host_namespaces = ""})
        .ok();
  }));
}

TEST_F(GuardTest, AnArmedDumpWaitsWhileThePodRunsAndIsWholeAfterTheFreeze) {
  Container& one = Started({"count"});
  Container& two = Started({"pair"});
  const GuardSpec spec = SpecFor({&one, &two});
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Arm());
  EXPECT_EQ(CriuAmong(GuardProcesses(spec)).size(), 2u);
  ExpectOk(client.Arm());  // repeated
  EXPECT_EQ(CriuAmong(GuardProcesses(spec)).size(), 2u);
  EXPECT_TRUE(GoesOn(one));
  EXPECT_TRUE(GoesOn(two));
  EXPECT_FALSE(FileExists(one.images() + "/inventory.img"));
  ExpectOk(client.Freeze());
  for (Container* container : {&one, &two}) {
    const absl::Time began = absl::Now();
    ExpectOk(client.Dump(container->id(), absl::Seconds(20)));
    std::cout << "dump from the gate on " << absl::Now() - began << "\n";
    EXPECT_TRUE(criu::CheckImages(container->images()).ok()) << criu::CheckImages(container->images());
    EXPECT_TRUE(container->Frozen());
  }
  ExpectOk(client.Thaw("test"));
  EXPECT_TRUE(GoesOn(one));
  EXPECT_TRUE(GoesOn(two));
}

TEST_F(GuardTest, AnArmedDumpThatIsNotBegunLeavesNothing) {
  const struct {
    const char* name;
    std::function<void(GuardClient&)> end;
  } cases[] = {
      {"thawed while open", [](GuardClient& client) { ExpectOk(client.Thaw("test")); }},
      {"thawed after the freeze",
       [](GuardClient& client) {
         ExpectOk(client.Freeze());
         ExpectOk(client.Thaw("test"));
       }},
      {"agent gone", [](GuardClient& client) { client.Shutdown(); }},
  };
  Container& container = Started({"count"});
  for (const auto& c : cases) {
    const GuardSpec spec = SpecFor({&container});
    GuardClient client = StartedGuard(spec);
    ExpectOk(client.Arm());
    c.end(client);
    client.Shutdown();
    EXPECT_TRUE(Eventually([&] { return GuardProcesses(spec).empty(); })) << c.name << LogOf(spec);
    EXPECT_FALSE(FileExists(container.work() + "/gate")) << c.name;
    EXPECT_FALSE(FileExists(container.images() + "/inventory.img")) << c.name;
    EXPECT_THAT(LogOf(spec), testing::Not(HasSubstr("killing"))) << c.name;
    EXPECT_TRUE(GoesOn(container)) << c.name;
  }
}

TEST_F(GuardTest, ArmedDumpsEndWithAGuardThatIsKilled) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  const std::vector<pid_t> guard = GuardProcesses(spec);
  ASSERT_EQ(guard.size(), 1u);
  ExpectOk(client.Arm());
  ASSERT_EQ(kill(guard[0], SIGKILL), 0);
  EXPECT_TRUE(Eventually([&] { return GuardProcesses(spec).empty(); }));
  EXPECT_TRUE(GoesOn(container));
}

TEST_F(GuardTest, AnArmedDumpThatHasDiedIsStartedAnew) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Arm());
  const std::vector<pid_t> criu = CriuAmong(GuardProcesses(spec));
  ASSERT_EQ(criu.size(), 1u);
  ASSERT_EQ(kill(criu[0], SIGKILL), 0);
  ASSERT_TRUE(Eventually([&] { return CriuAmong(GuardProcesses(spec)).empty(); }));
  ExpectOk(client.Freeze());
  ExpectOk(client.Dump(container.id(), absl::Seconds(20)));
  EXPECT_TRUE(criu::CheckImages(container.images()).ok()) << criu::CheckImages(container.images());
  ExpectOk(client.Thaw("test"));
  EXPECT_TRUE(GoesOn(container));
}

TEST_F(GuardTest, ArmingAContainerThatRuncDoesNotKnowSaysWhy) {
  Container& container = Started({"count"});
  GuardSpec spec = SpecFor({&container});
  spec.containers[0].id = "nobody";
  GuardClient client = StartedGuard(spec);
  const auto reply = client.Arm();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->reason, "ArmFailed");
  EXPECT_THAT(reply->message, HasSubstr("does not exist"));
  EXPECT_EQ(reply->state, SourceState::kOpen);
  EXPECT_EQ(GuardProcesses(spec).size(), 1u) << "the guard alone";
}

TEST_F(GuardTest, ThawsAtTheFreezeLimitAndSaysSo) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container}, absl::Milliseconds(300));
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Freeze());
  EXPECT_TRUE(Eventually([&] { return !container.Frozen(); }, absl::Seconds(3)));
  EXPECT_TRUE(GoesOn(container));
  const auto late = client.Cede();
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_FALSE(late->ok);
  EXPECT_EQ(late->state, SourceState::kAborted);
  const auto status = client.Status();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->reason, "FreezeLimit");
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kAborted));
}

TEST_F(GuardTest, ADumpThatWouldPassTheLimitIsEndedAndTheApplicationLives) {
  Container& container = Started({"memory", "600"});
  ASSERT_TRUE(GoesOn(container));
  const GuardSpec spec = SpecFor({&container}, absl::Milliseconds(150));
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Freeze());
  const auto reply = client.Dump(container.id(), absl::Seconds(10));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_FALSE(reply->ok);
  EXPECT_EQ(reply->reason, "FreezeLimit");
  EXPECT_LT(reply->frozen_for, absl::Seconds(2));
  EXPECT_TRUE(GoesOn(container)) << LogOf(spec);
}

TEST_F(GuardTest, OnceCededThePodStaysFrozenWithoutAnAgentAndANewOneMayKillIt) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container}, absl::Milliseconds(1500));
  {
    GuardClient client = StartedGuard(spec);
    Cede(client, container);
    const auto thaw = client.Thaw("too late");
    ASSERT_TRUE(thaw.ok());
    EXPECT_EQ(thaw->reason, "Ceded");
  }
  const absl::Time past_the_limit = absl::Now() + absl::Seconds(2);
  while (absl::Now() < past_the_limit) {
    ASSERT_TRUE(container.Frozen()) << "ceded and thawed: two copies could run";
    absl::SleepFor(absl::Milliseconds(10));
  }
  absl::StatusOr<GuardClient> again = GuardClient::Connect(spec.socket);
  ASSERT_TRUE(again.ok()) << again.status();
  const auto status = again->Status();
  ExpectOk(status);
  EXPECT_EQ(status->state, SourceState::kCeded);
  const size_t lines = container.output().lines().size();
  ExpectOk(again->Kill());
  EXPECT_FALSE(container.Running());
  EXPECT_EQ(container.output().lines().size(), lines) << "it ran once more";
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kCeded, SourceState::kDone));
}

TEST_F(GuardTest, ACededPodGoesOnWhenTheTargetHasAborted) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  Cede(client, container);
  ExpectOk(client.TargetAborted("kubelet killed it"));
  EXPECT_TRUE(GoesOn(container));
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kCeded, SourceState::kAborted));
}

// As the kernel's OOM killer or a forced deletion would, after the last page was read.
TEST_F(GuardTest, WhatWasKilledWhileItStoodStillIsNotHandedOver) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Freeze());
  ExpectOk(client.Dump(container.id(), absl::Seconds(20)));
  ASSERT_EQ(kill(static_cast<pid_t>(spec.containers[0].init_pid), SIGKILL), 0);
  ASSERT_TRUE(Eventually([&] { return !container.Running(); }));
  const auto reply = client.Cede();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_FALSE(reply->ok);
  EXPECT_EQ(reply->reason, "ContainerGone") << reply->message;
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kAborted));
}

// A process that enters this cgroup and then writes a byte: what a container runtime does that starts a pod
// anew.
class Starting {
 public:
  explicit Starting(const std::string& cgroup) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    out_ = UniqueFd(ends[0]);
    const UniqueFd in(ends[1]);
    const UniqueFd procs(open((cgroup + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_TRUE(procs.ok());
    pid_ = fork();
    if (pid_ == 0) {
      if (write(procs.get(), "0", 1) == 1 && write(in.get(), "x", 1) == 1) pause();
      _exit(1);
    }
  }
  ~Starting() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  bool Runs() const {
    char byte;
    return read(out_.get(), &byte, 1) == 1;
  }
  bool Dead() const {
    siginfo_t info = {};
    return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT | WNOHANG) == 0 &&
           info.si_pid == pid_;
  }

 private:
  UniqueFd out_;
  pid_t pid_;
};

TEST_F(GuardTest, WhatIsStartedInAPodThatWasCededStandsStillAndDiesWithIt) {
  Container& container = Started({"count"});
  const GuardSpec spec = HoldingSpecFor(container);
  GuardClient client = StartedGuard(spec);
  Cede(client, container);
  const std::string fresh = spec.pod_cgroup + "/fresh";
  ASSERT_TRUE(MakeFolders(fresh, 0755).ok());
  {
    const Starting starting(fresh);
    absl::SleepFor(absl::Milliseconds(300));
    EXPECT_FALSE(starting.Runs()) << "a second copy of the pod";
    ExpectOk(client.Kill());
    EXPECT_TRUE(starting.Dead());
    EXPECT_FALSE(starting.Runs()) << "it ran once more";
  }
  EXPECT_EQ(ReadFile(spec.pod_cgroup + "/cgroup.freeze").value_or(""), "0\n");
  rmdir(fresh.c_str());
}

TEST_F(GuardTest, APodThatWasHeldIsLetGoWithItsContainersWhenTheTargetHasAborted) {
  Container& container = Started({"count"});
  const GuardSpec spec = HoldingSpecFor(container);
  GuardClient client = StartedGuard(spec);
  Cede(client, container);
  EXPECT_EQ(ReadFile(spec.pod_cgroup + "/cgroup.freeze").value_or(""), "1\n");
  ExpectOk(client.TargetAborted("kubelet killed it"));
  EXPECT_TRUE(GoesOn(container));
  EXPECT_EQ(ReadFile(spec.pod_cgroup + "/cgroup.freeze").value_or(""), "0\n");
}

// The next guard reads the journal.
TEST_F(GuardTest, AGuardThatIsKilledIsReplacedAndThePodGoesOn) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Freeze());
  KillGuard(spec, client);
  EXPECT_TRUE(container.Frozen());
  GuardClient second = StartedGuard(spec);
  EXPECT_TRUE(GoesOn(container));
  const auto status = second.Status();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->reason, "GuardGone");
  EXPECT_THAT(Journaled(spec), ElementsAre(SourceState::kFrozen, SourceState::kAborted));
}

// The images are in memory of the agent's, which has ended too.
TEST_F(GuardTest, AGuardIsReplacedAlsoWhenTheImagesHaveGoneWithTheAgent) {
  for (const bool ceded : {false, true}) {
    Container& container = Started({"count"});
    GuardSpec spec = SpecFor({&container});
    absl::StatusOr<runtime::MemoryFolder> folder = runtime::MemoryFolder::Make(int64_t{64} << 20);
    ASSERT_TRUE(folder.ok()) << folder.status();
    spec.containers[0].images = folder->path() + "/app/images";
    GuardClient client = StartedGuard(spec);
    if (ceded) {
      Cede(client, container);
    } else {
      ExpectOk(client.Freeze());
      ExpectOk(client.Dump(container.id(), absl::Seconds(20)));
    }
    EXPECT_TRUE(FileExists(spec.containers[0].images + "/inventory.img"));
    folder = absl::CancelledError("as if its process had ended");
    KillGuard(spec, client);
    GuardClient second = StartedGuard(spec);
    if (ceded) {
      EXPECT_TRUE(container.Frozen());
      ExpectOk(second.TargetAborted("kubelet killed it"));
    }
    EXPECT_TRUE(GoesOn(container)) << (ceded ? "ceded" : "frozen");
    EXPECT_EQ(Journaled(spec).back(), SourceState::kAborted);
  }
}

TEST_F(GuardTest, WhatCriuCannotSaveIsNamedAndThePodGoesOn) {
  const struct {
    const char* mode;
    const char* words;
  } cases[] = {
      {"io-uring", "io_uring"},
      {"nested-pid", "pid namespace"},
  };
  for (const auto& c : cases) {
    Container& container = Started({c.mode});
    const GuardSpec spec = SpecFor({&container});
    GuardClient client = StartedGuard(spec);
    ExpectOk(client.Freeze());
    const auto reply = client.Dump(container.id(), absl::Seconds(20));
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_FALSE(reply->ok);
    EXPECT_EQ(reply->reason, "DumpFailed");
    EXPECT_EQ(reply->state, SourceState::kAborted);
    EXPECT_THAT(reply->message, HasSubstr(c.words));
    EXPECT_THAT(reply->message, HasSubstr(container.id()));
    std::cout << c.mode << ": " << reply->message << "\n";
    EXPECT_TRUE(GoesOn(container)) << c.mode;
  }
}

TEST_F(GuardTest, APodThatIsBeingEndedIsNotFrozen) {
  Container& container = Started({"pending-term"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  const auto reply = client.Freeze();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_FALSE(reply->ok);
  EXPECT_EQ(reply->reason, "PendingSignal");
  EXPECT_THAT(reply->message, HasSubstr("SIGTERM"));
  EXPECT_FALSE(container.Frozen());
  EXPECT_TRUE(GoesOn(container));
}

// It passes every check that is made while it runs, and makes a namespace of its own just before the freeze.
TEST_F(GuardTest, APodThatMadeAUserNamespaceMeanwhileIsNotTakenAlong) {
  for (const bool child : {false, true}) {
    Container& container = Started({child ? "nested-user-child" : "nested-user"});
    GuardClient client = StartedGuard(SpecFor({&container}));
    const auto processes = runtime::ProcessesInCgroup(container.cgroup());
    ASSERT_TRUE(processes.ok()) << processes.status();
    for (const pid_t pid : *processes) ASSERT_EQ(kill(pid, SIGUSR1), 0);
    absl::SleepFor(absl::Milliseconds(200));
    if (absl::StrContains(container.output().text(), "unshare user"))
      GTEST_SKIP() << "no user namespaces here";
    const auto reply = client.Freeze();
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_FALSE(reply->ok);
    EXPECT_EQ(reply->reason, "NestedNamespace") << reply->message;
    EXPECT_THAT(reply->message,
                HasSubstr(child ? "user namespace that it made" : "user namespace of its own"));
    EXPECT_FALSE(container.Frozen());
    EXPECT_TRUE(GoesOn(container));
  }
}

TEST_F(GuardTest, AnExecInFlightIsWaitedForAndRefusedWhenItStays) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  const auto exec = godwit::Run({Node::Get().runc, "--root", "/run/runc", "exec", "--detach", "--pid-file",
                                 "/tmp/exec.pid", container.id(), "/workload", "sleep"});
  ASSERT_TRUE(exec.ok() && exec->status.ok()) << (exec.ok() ? exec->err : exec.status().ToString());
  const auto reply = client.Freeze();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->reason, "ExecInFlight");
  EXPECT_THAT(reply->message, HasSubstr("workload"));
  EXPECT_EQ(reply->state, SourceState::kOpen) << "nothing was frozen, so it may be tried again";
  EXPECT_FALSE(container.Frozen());
  ASSERT_EQ(kill(atoi(ReadFile("/tmp/exec.pid")->c_str()), SIGKILL), 0);
  ExpectOk(client.Freeze());
  ExpectOk(client.Thaw("test"));
}

TEST_F(GuardTest, ASecondAgentIsTurnedAwayWhileTheFirstIsThere) {
  Container& container = Started({"count"});
  const GuardSpec spec = SpecFor({&container});
  GuardClient client = StartedGuard(spec);
  ExpectOk(client.Freeze());
  absl::StatusOr<GuardClient> second = GuardClient::Connect(spec.socket);
  ASSERT_TRUE(second.ok());
  const auto reply = second->Status();
  EXPECT_TRUE(reply.ok() && reply->reason == "Busy") << reply.status();
  EXPECT_TRUE(container.Frozen());
  ExpectOk(client.Thaw("test"));
}

}  // namespace
}  // namespace godwit::node_test
