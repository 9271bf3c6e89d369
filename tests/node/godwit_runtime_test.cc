// SPDX-License-Identifier: Apache-2.0
// godwit-runtime as a shim calls it, with the agent's own permits at the other end of the socket, and real
// containers.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "agent/criu/gate.h"
#include "agent/criu/pagemap.h"
#include "agent/criu/plan.h"
#include "agent/guard/client.h"
#include "agent/permits/cgroup_end.h"
#include "agent/permits/permit_server.h"
#include "agent/permits/permit_table.h"
#include "agent/runtime/mounts.h"
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"
#include "tests/node/memory.h"

namespace godwit::node_test {
namespace {

using permits::PermitSpec;
using permits::PermitStore;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kInstalled[] = "/disk/opt";
constexpr char kRuncRoot[] = "/run/runc";
constexpr char kPermits[] = "/var/lib/godwit/permits";
constexpr char kMigration[] = "11111111-2222-3333-4444-555555555555";
constexpr char kPod[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
constexpr absl::Duration kSoon = absl::Seconds(30);

class GodwitRuntimeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    // As a shim is: what a runtime leaves behind comes here.
    ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    const Node& node = Node::Get();
    const std::string runtime = absl::StrCat(kInstalled, "/bin/godwit-runtime");
    ASSERT_TRUE(FileExists(runtime)) << "run these tests with tests/node/run";
    ASSERT_TRUE(MakeFolders(absl::StrCat(kInstalled, "/etc")).ok());
    ASSERT_TRUE(
        WriteFileDurably(absl::StrCat(kInstalled, "/etc/runtime.json"),
                         absl::StrCat("{\"runtime\":\"", node.runc, "\",\"cgroupRoot\":\"/sys/fs/cgroup\"}"))
            .ok());
    if (!FileExists(absl::StrCat(kInstalled, "/criu"))) {
      ASSERT_EQ(symlink(node.criu.c_str(), absl::StrCat(kInstalled, "/criu").c_str()), 0);
    }
  }
  void SetUp() override {
    ASSERT_TRUE(RemoveTree(kPermits).ok());
    StartAgent();
    SetHostname(here_, "source-pod");
    SetHostname(there_, "target-pod");
  }
  void StartAgent() {
    table_ = std::make_unique<permits::PermitTable>(
        PermitStore(kPermits),
        [](const std::string& cgroup) {
          return permits::KillCgroup("/sys/fs/cgroup", cgroup, absl::Seconds(10));
        },
        [](const std::string& cgroup) { return permits::CheckStandsFrozen("/sys/fs/cgroup", cgroup); });
    auto server = permits::PermitServer::Start(agent_api::kRuntimeSocket, table_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  static void SetHostname(const Sandbox& sandbox, const std::string& name) {
    ASSERT_TRUE(RunOrError({"nsenter", "-t", absl::StrCat(sandbox.pid()), "-u", "hostname", name}).ok());
  }
  static std::string Hostname(const Sandbox& sandbox) {
    return std::string(absl::StripAsciiWhitespace(
        RunOrError({"nsenter", "-t", absl::StrCat(sandbox.pid()), "-u", "hostname"}).value_or("?")));
  }

  // A source that counted and was dumped and killed.
  void MakeImages(bool without_memory = false, const std::string& mode = "count") {
    source_ = std::make_unique<Container>("source", here_, std::vector<std::string>{mode});
    source_->Start();
    ASSERT_TRUE(source_->output().WaitLines(20));
    agent_api::GuardSpec spec = SpecFor({source_.get()});
    if (without_memory) spec.containers[0].hidden = source_->work() + "/hidden";
    auto guard = guard::StartGuard(spec, {.binary = Node::Get().guard,
                                          .spec_file = spec.journal + ".spec",
                                          .host_root = "",
                                          .host_namespaces = ""});
    ASSERT_TRUE(guard.ok()) << guard.status();
    ASSERT_TRUE(guard->Freeze()->ok);
    if (without_memory) {
      memory_ = TakeMemory(source_->cgroup());
      WriteHidden(spec.containers[0].hidden, memory_);
    }
    ASSERT_TRUE(guard->Dump(source_->id(), absl::Seconds(60))->ok);
    ASSERT_TRUE(guard->Cede()->ok);
    ASSERT_TRUE(guard->Kill()->ok);
  }

  static std::string Bundle(const Container& container) {
    return container.rootfs().substr(0, container.rootfs().rfind('/'));
  }
  // Gives the bundle what containerd writes into it.
  static void Annotate(const Container& container, bool migration, bool terminal = false) {
    const std::string path = Bundle(container) + "/config.json";
    std::string config = *ReadFile(path);
    const std::string annotations = absl::StrCat(
        R"("annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "app",)",
        R"( "io.kubernetes.cri.sandbox-uid": ")", kPod, "\"",
        migration ? absl::StrCat(", \"godwit.io/migration\": \"", kMigration, "\"") : "", "}, ");
    config = absl::StrReplaceAll(config, {{"\"ociVersion\"", annotations + "\"ociVersion\""}});
    if (terminal) config = absl::StrReplaceAll(config, {{"\"terminal\": false", "\"terminal\": true"}});
    std::ofstream(path) << config;
  }
  static absl::StatusOr<Child> Spawn(Container& container, std::vector<std::string> command) {
    const std::string bundle = Bundle(container);
    std::vector<std::string> argv = {absl::StrCat(kInstalled, "/bin/godwit-runtime"),
                                     "--root",
                                     kRuncRoot,
                                     "--log",
                                     bundle + "/log.json",
                                     "--log-format",
                                     "json"};
    argv.insert(argv.end(), command.begin(), command.end());
    SpawnOptions options;
    options.stdout_fd = container.output().write_end();
    options.stderr_fd = container.output().write_end();
    return Child::Spawn(argv, options);
  }
  static Child Create(Container& container) {
    const std::string bundle = Bundle(container);
    auto child =
        Spawn(container, {"create", "--bundle", bundle, "--pid-file", bundle + "/init.pid", container.id()});
    EXPECT_TRUE(child.ok()) << child.status();
    return *std::move(child);
  }
  static bool Succeeds(Child& child) {
    auto end = child.Wait(kSoon);
    EXPECT_TRUE(end.ok()) << end.status();
    return end.ok() && end->ok();
  }
  static bool Does(Container& container, std::vector<std::string> command) {
    auto child = Spawn(container, std::move(command));
    EXPECT_TRUE(child.ok()) << child.status();
    return child.ok() && Succeeds(*child);
  }
  static std::string ErrorOf(const Container& container) {
    return ReadFile(Bundle(container) + "/log.json").value_or("");
  }
  absl::Status Add(absl::Duration create_limit = absl::Seconds(60)) {
    return table_->Add({.migration_uid = kMigration,
                        .sandbox_uid = kPod,
                        .containers = {"app"},
                        .create_limit = create_limit});
  }
  absl::StatusOr<permits::Restored> Restore(Container& target) {
    auto claim = table_->WaitForClaim(kMigration, "app", kSoon);
    if (!claim.ok()) return claim.status();
    return table_->Restore(kMigration, "app", source_->images(), target.work(), kSoon);
  }
  // What the commit does with a copy that stands restored.
  void LetRun(Container& target) {
    ASSERT_TRUE(table_->CheckStanding(kMigration).ok());
    table_->Spend({.migration_uid = kMigration, .sandbox_uid = kPod, .containers = {"app"}});
    target.Thaw();
    ASSERT_TRUE(target.output().WaitLines(20));
  }
  // Nothing of the container is left on the machine.
  static void ExpectGone(const Container& container) {
    EXPECT_FALSE(container.Running());
    EXPECT_FALSE(FileExists(absl::StrCat(kRuncRoot, "/", container.id()))) << "runc still knows it";
    EXPECT_EQ(RunOrError({"ps", "-e", "-o", "stat=,args="}).value_or("criu").find("criu swrk"),
              std::string::npos);
  }
  static void ExpectNeverRan(Container& container) {
    for (const std::string& line : container.output().lines()) {
      EXPECT_FALSE(absl::ascii_isdigit(static_cast<unsigned char>(line[0]))) << line;
    }
  }

  Sandbox here_, there_;
  std::unique_ptr<Container> source_;
  std::vector<TaskMemory> memory_;  // of the source, when it was dumped without
  std::unique_ptr<permits::PermitTable> table_;
  std::unique_ptr<permits::PermitServer> server_;
};

TEST_F(GodwitRuntimeTest, WithoutAPermitItIsTheOrdinaryRuntimeAlsoWithoutAnAgent) {
  server_.reset();
  Container container("plain", there_, {"count"});
  Annotate(container, /*migration=*/false);
  Child create = Create(container);
  ASSERT_TRUE(Succeeds(create)) << ErrorOf(container);
  EXPECT_TRUE(Does(container, {"start", container.id()}));
  EXPECT_TRUE(container.output().WaitLines(5));
  EXPECT_TRUE(Does(container, {"kill", container.id(), "KILL"}));
}

TEST_F(GodwitRuntimeTest, AnAnnotationWithoutAPermitIsRefused) {
  Container container("liar", there_, {"count"});
  Annotate(container, /*migration=*/true);
  Child create = Create(container);
  EXPECT_FALSE(Succeeds(create));
  EXPECT_THAT(ErrorOf(container), HasSubstr("no state to be restored from"));
  ExpectGone(container);
}

TEST_F(GodwitRuntimeTest, ACreateBecomesARestoreThatStandsStillAndItsStartDoesNothing) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  const auto restored = Restore(target);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->pid, target.init_pid());
  ASSERT_TRUE(table_->Confirm(kMigration, "app", kSoon).ok());
  EXPECT_TRUE(Succeeds(create)) << ErrorOf(target);
  EXPECT_TRUE(target.Frozen());
  EXPECT_TRUE(Does(target, {"start", target.id()}));
  EXPECT_TRUE(target.Frozen());
  EXPECT_EQ(target.output().text(), "");
  EXPECT_EQ(Hostname(there_), "target-pod");
  EXPECT_THAT(*ReadFile(absl::StrCat("/proc/", restored->pid, "/status")),
              HasSubstr(absl::StrCat("PPid:\t", getpid(), "\n")));
  ASSERT_NO_FATAL_FAILURE(LetRun(target));
  EXPECT_EQ(target.output().numbers()[0], source_->output().numbers().back() + 1);
}

// runc binds the node's over what a container may not see, and in a restore it can be written.
TEST_F(GodwitRuntimeTest, ARestoredContainerCannotChangeTheNodesNull) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  const auto restored = Restore(target);
  ASSERT_TRUE(restored.ok()) << restored.status();
  int found = 0;
  const auto mounts = runtime::ReadContainerMounts("/proc", static_cast<pid_t>(restored->pid));
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  for (const runtime::Mount& mount : *mounts) {
    if (mount.device != *runtime::DeviceOf("/dev") || mount.root != "/null") continue;
    ++found;
    EXPECT_TRUE(absl::StartsWith(mount.options, "ro")) << mount.point << " " << mount.options;
    const std::string path = absl::StrCat("/proc/", restored->pid, "/root", mount.point);
    EXPECT_NE(chmod(path.c_str(), 0666), 0);
    EXPECT_EQ(errno, EROFS);
    std::ofstream null(path);
    EXPECT_TRUE(null << "goes nowhere" << std::flush) << mount.point;
  }
  EXPECT_GT(found, 0) << "runc masks otherwise: is KeepNodesNull still needed?";
  ASSERT_TRUE(table_->Confirm(kMigration, "app", kSoon).ok());
  EXPECT_TRUE(Succeeds(create)) << ErrorOf(target);
}

// What lies in root's session keyring, or in that of another pod, is not for what comes back.
TEST_F(GodwitRuntimeTest, ARestoredContainerHasASessionKeyringOfItsOwn) {
  ASSERT_NO_FATAL_FAILURE(MakeImages(/*without_memory=*/false, "keyring"));
  if (absl::EndsWith(source_->output().lines().back(), " none")) GTEST_SKIP() << "a kernel without keys";
  Container target("target", there_, {"keyring"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  ASSERT_TRUE(Restore(target).ok());
  ASSERT_TRUE(table_->Confirm(kMigration, "app", kSoon).ok());
  ASSERT_TRUE(Succeeds(create)) << ErrorOf(target);
  ASSERT_NO_FATAL_FAILURE(LetRun(target));
  EXPECT_THAT(source_->output().lines().back(), testing::EndsWith(absl::StrCat(" _ses.", source_->id())));
  EXPECT_THAT(target.output().lines().back(), testing::EndsWith(absl::StrCat(" _ses.", target.id())));
}

TEST_F(GodwitRuntimeTest, AfterSpentEveryCreateIsAFreshStartAlsoWithoutAnAgent) {
  ASSERT_TRUE(
      table_->WriteSpent({.migration_uid = kMigration, .sandbox_uid = kPod, .containers = {"app"}}).ok());
  server_.reset();
  Container container("fresh", there_, {"count"});
  Annotate(container, true);
  Child create = Create(container);
  ASSERT_TRUE(Succeeds(create)) << ErrorOf(container);
  EXPECT_TRUE(Does(container, {"start", container.id()}));
  EXPECT_TRUE(container.output().WaitLines(5));
}

TEST_F(GodwitRuntimeTest, AnAbortFailsTheCreateThatWaitsAndEachOneAfterItAlsoWithoutAnAgent) {
  Container first("first", there_, {"count"});
  Annotate(first, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(first);
  ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
  ASSERT_TRUE(table_->Abort(kMigration, "the source went away", kSoon).ok());
  EXPECT_FALSE(Succeeds(create));
  EXPECT_THAT(ErrorOf(first), HasSubstr("the source went away"));
  server_.reset();
  for (int i = 0; i < 2; ++i) {
    Container again("again", there_, {"count"});
    Annotate(again, true);
    Child next = Create(again);
    EXPECT_FALSE(Succeeds(next));
    EXPECT_THAT(ErrorOf(again), HasSubstr("the source went away"));
    ExpectGone(again);
  }
}

TEST_F(GodwitRuntimeTest, AnAbortOfWhatStandsRestoredDestroysIt) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  ASSERT_TRUE(Restore(target).ok());
  EXPECT_TRUE(target.Frozen());
  ASSERT_TRUE(table_->Abort(kMigration, "no room", kSoon).ok());
  EXPECT_FALSE(target.Running()) << "OK means that nothing is left";
  EXPECT_FALSE(Succeeds(create));
  ExpectGone(target);
  ExpectNeverRan(target);
}

TEST_F(GodwitRuntimeTest, ARuntimeThatIsKilledTakesItsRestoreAlong) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  ASSERT_TRUE(Restore(target).ok());
  ASSERT_EQ(kill(create.pid(), SIGKILL), 0);  // as the shim does at kubelet's deadline: the process alone
  EXPECT_FALSE(table_->Confirm(kMigration, "app", kSoon).ok());
  EXPECT_FALSE(Succeeds(create));
  ASSERT_TRUE(table_->Abort(kMigration, "killed", kSoon).ok());
  ExpectGone(target);
  ExpectNeverRan(target);
}

TEST_F(GodwitRuntimeTest, ARuntimeThatIsKilledInTheMiddleOfARestoreTakesItAlong) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  // At different moments of runc and CRIU.
  for (int milliseconds : {1, 10, 25, 40, 60, 90}) {
    SCOPED_TRACE(milliseconds);
    ASSERT_TRUE(RemoveTree(kPermits).ok());
    server_.reset();
    StartAgent();
    Container target("target", there_, {"count"});
    Annotate(target, true);
    std::ofstream(Bundle(target) + "/data/kept") << "of a volume";
    ASSERT_TRUE(Add().ok());
    Child create = Create(target);
    ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
    std::thread kills([&] {
      absl::SleepFor(absl::Milliseconds(milliseconds));
      kill(create.pid(), SIGKILL);
    });
    const auto restored = table_->Restore(kMigration, "app", source_->images(), target.work(), kSoon);
    kills.join();
    EXPECT_FALSE(Succeeds(create));
    if (restored.ok()) {
      EXPECT_FALSE(table_->Confirm(kMigration, "app", kSoon).ok());
    }
    ASSERT_TRUE(table_->Abort(kMigration, "killed", kSoon).ok());
    ExpectGone(target);
    ExpectNeverRan(target);
    EXPECT_TRUE(FileExists(Bundle(target) + "/data/kept")) << "runc removed what a left mount showed it";
    EXPECT_EQ(ReadFile("/proc/self/mountinfo")->find(Bundle(target) + "/rootfs/"), std::string::npos);
  }
}

TEST_F(GodwitRuntimeTest, TheEndOfItsTimeIsAClearFailure) {
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add(absl::Seconds(2)).ok());
  Child create = Create(target);
  EXPECT_FALSE(Succeeds(create));
  EXPECT_THAT(ErrorOf(target), HasSubstr("nothing to restore came in the time"));
  EXPECT_EQ(table_->WaitForClaim(kMigration, "app", kSoon).status().code(), absl::StatusCode::kAborted);
}

TEST_F(GodwitRuntimeTest, AnAgentThatEndsFailsTheCreateThatWaits) {
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
  server_.reset();
  EXPECT_FALSE(Succeeds(create));
  EXPECT_THAT(ErrorOf(target), HasSubstr("closed the connection"));
}

TEST_F(GodwitRuntimeTest, BadImagesFailTheMigrationWithCriusReason) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  ASSERT_TRUE(RemoveTree(source_->images() + "/core-1.img").ok());
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  const absl::Status failed = Restore(target).status();
  EXPECT_THAT(std::string(failed.message()), HasSubstr("empty-image"))
      << "CRIU says so of a file that is missing";
  EXPECT_FALSE(Succeeds(create));
  EXPECT_THAT(ErrorOf(target), HasSubstr("empty-image"));
  ExpectGone(target);
}

TEST_F(GodwitRuntimeTest, ATerminalIsRefusedAndTheAgentToldWhy) {
  Container target("target", there_, {"count"});
  Annotate(target, true, /*terminal=*/true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  EXPECT_FALSE(Succeeds(create));
  EXPECT_THAT(std::string(table_->WaitForClaim(kMigration, "app", kSoon).status().message()),
              HasSubstr("terminal"));
}

// The images come while CRIU waits at the gate, and the memory by a pager that was started before.
TEST_F(GodwitRuntimeTest, ARestoreWaitsAtItsGateForTheImagesAndLeavesTheMemoryToThePager) {
  ASSERT_NO_FATAL_FAILURE(MakeImages(/*without_memory=*/true));
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  const std::string pager = absl::StrCat(kInstalled, "/bin/godwit-pager");
  ASSERT_TRUE(WriteFileDurably(pager, "#!/bin/sh\ncp \"$2\" /tmp/pager.json\n", 0755).ok());
  const LazyPages daemon(criu::LazyPagesSocket(target.work()), &memory_);
  Child create = Create(target);
  ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
  const std::string gate = target.work() + "/gate", images = target.work() + "/images";
  ASSERT_TRUE(criu::MakeGate(gate).ok());
  ASSERT_TRUE(MakeFolders(images).ok());
  std::filesystem::copy(source_->images() + "/descriptors.json", images + "/descriptors.json");
  absl::StatusOr<permits::Restored> restored = absl::UnknownError("not yet");
  std::thread restore([&] {
    restored =
        table_->Restore(kMigration, "app", images, target.work(), kSoon, {.gate = gate, .lazy_pages = true});
  });
  const absl::StatusOr<UniqueFd> reached = criu::ReachGate(gate, kSoon);
  EXPECT_TRUE(reached.ok()) << reached.status();
  std::filesystem::copy(
      source_->images(), images,
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::skip_existing);
  for (const TaskMemory& task : memory_) {
    const absl::Status added = criu::AddLazyPages(images, task.container_pid, task.populated).status();
    EXPECT_TRUE(added.ok()) << added;
  }
  const absl::Time opened = absl::Now();
  EXPECT_TRUE(reached.ok() && criu::OpenGate(*reached).ok());
  restore.join();
  ASSERT_TRUE(restored.ok()) << restored.status() << ErrorOf(target);
  std::cout << "restore from the gate to standing still " << absl::Now() - opened << "\n";
  const auto spec = json::Decode<agent_api::PagerSpec>(ReadFile("/tmp/pager.json").value_or(""));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->sandbox_uid, kPod);
  EXPECT_EQ(spec->container, "app");
  EXPECT_EQ(spec->container_id, target.id());
  EXPECT_EQ(spec->socket, target.work() + "/lazy-pages.socket");
  EXPECT_EQ(spec->cgroup, target.cgroup());
  ASSERT_TRUE(table_->Confirm(kMigration, "app", kSoon).ok());
  ASSERT_TRUE(Succeeds(create));
  target.Thaw();
  EXPECT_TRUE(target.output().WaitLines(20)) << target.output().text();
  EXPECT_EQ(target.output().numbers()[0], source_->output().numbers().back() + 1);
  EXPECT_GT(daemon.faults(), 0);
}

// With its tasks forked: they hold CRIU's connection to runc open, so that runc never hears of it.
TEST_F(GodwitRuntimeTest, ACriuThatIsKilledInTheMiddleOfARestoreIsNoticed) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
  const std::string gate = target.work() + "/gate";
  ASSERT_TRUE(criu::MakeGate(gate).ok());
  std::atomic<bool> killed = false;
  std::thread kills([&] {
    const absl::StatusOr<UniqueFd> reached = criu::ReachGate(gate, kSoon);
    EXPECT_TRUE(reached.ok()) << reached.status();
    pid_t criu = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      pid_t pid = 0;
      const std::string command = ReadFile(entry.path().string() + "/cmdline").value_or("");
      if (absl::SimpleAtoi(entry.path().filename().string(), &pid) && absl::StrContains(command, "swrk"))
        criu = pid;
    }
    ASSERT_GT(criu, 1);
    EXPECT_TRUE(criu::OpenGate(*reached).ok());
    for (const absl::Time end = absl::Now() + absl::Seconds(5); !target.Running() && absl::Now() < end;) {
    }
    killed = kill(criu, SIGKILL) == 0;
  });
  const absl::Time began = absl::Now();
  const auto restored =
      table_->Restore(kMigration, "app", source_->images(), target.work(), absl::Seconds(60), {.gate = gate});
  kills.join();
  EXPECT_TRUE(killed);
  EXPECT_FALSE(restored.ok());
  EXPECT_LT(absl::Now() - began, absl::Seconds(20)) << restored.status();
  EXPECT_FALSE(Succeeds(create));
  ExpectGone(target);
  ExpectNeverRan(target);
}

TEST_F(GodwitRuntimeTest, APagerThatDoesNotStartFailsTheMigrationBeforeTheRestore) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  ASSERT_TRUE(WriteFileDurably(absl::StrCat(kInstalled, "/bin/godwit-pager"),
                               "#!/bin/sh\necho no pages for this pod >&2\nexit 1\n", 0755)
                  .ok());
  Child create = Create(target);
  ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
  const absl::Status failed =
      table_->Restore(kMigration, "app", source_->images(), target.work(), kSoon, {.lazy_pages = true})
          .status();
  EXPECT_THAT(std::string(failed.message()), HasSubstr("no pages for this pod"));
  EXPECT_FALSE(Succeeds(create));
  ExpectGone(target);
}

TEST_F(GodwitRuntimeTest, AKillOfWhatStandsStillNeverLetsItRun) {
  ASSERT_NO_FATAL_FAILURE(MakeImages());
  Container target("target", there_, {"count"});
  Annotate(target, true);
  ASSERT_TRUE(Add().ok());
  Child create = Create(target);
  ASSERT_TRUE(Restore(target).ok());
  ASSERT_TRUE(table_->Confirm(kMigration, "app", kSoon).ok());
  ASSERT_TRUE(Succeeds(create));
  Does(target, {"kill", target.id(), "KILL"});  // runc finds nothing to kill any more, and says so
  EXPECT_FALSE(target.Running());
  ExpectNeverRan(target);
  EXPECT_FALSE(table_->CheckStanding(kMigration).ok());
  EXPECT_TRUE(Does(target, {"delete", target.id()})) << ErrorOf(target);
}

}  // namespace
}  // namespace godwit::node_test
