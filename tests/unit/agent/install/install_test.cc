// SPDX-License-Identifier: Apache-2.0
#include "agent/install/install.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "agent/permits/permit_store.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/install/dumps.h"

namespace godwit::install {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Behaves as containerd does: its dump follows the files, what it knows follows them at its next start only.
class FakeContainerd final : public Containerd {
 public:
  explicit FakeContainerd(std::string drop_in_folder) : folder_(std::move(drop_in_folder)) { Start(); }

  absl::StatusOr<ContainerdProcess> Process() override {
    if (!runs) return absl::UnavailableError("containerd does not run");
    return process_;
  }
  absl::StatusOr<std::string> ConfigDump() override {
    std::string dump = kDump2;
    if (!imports || !DropInIsThere()) return dump;
    if (breaks_settings) dump = absl::StrReplaceAll(dump, {{"'overlayfs'", "'native'"}});
    return absl::StrCat(
        dump, "\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.godwit.options]\nBinaryName = '",
        binary, "'\n");
  }
  absl::StatusOr<std::string> FindProgram(const std::string& name) override {
    return absl::StartsWith(name, "/") ? name : absl::StrCat("/usr/bin/", name);
  }
  absl::StatusOr<std::vector<std::string>> Handlers(const std::string&) override {
    if (!runs) return absl::UnavailableError("connection refused");
    return handlers_;
  }
  absl::Status Restart() override {
    ++restarts;
    if (restart_does_nothing) return absl::OkStatus();
    runs = !(dies_of_drop_in && DropInIsThere());
    Start();
    return absl::OkStatus();
  }

  bool imports = true;
  bool breaks_settings = false;
  bool restart_does_nothing = false;
  bool dies_of_drop_in = false;
  bool runs = true;
  int restarts = 0;
  std::string binary;

 private:
  bool DropInIsThere() const { return FileExists(folder_ + "/godwit.toml"); }
  void Start() {
    ++process_.pid;
    handlers_ = {"runc"};
    if (imports && DropInIsThere()) handlers_.push_back("godwit");
  }

  const std::string folder_;
  ContainerdProcess process_{100, 5};
  std::vector<std::string> handlers_;
};

class InstallTest : public ::testing::Test {
 protected:
  InstallTest() {
    options_ = {.source = root_ + "/image",
                .folder = root_ + "/opt",
                .state = root_ + "/state",
                .run = root_ + "/run",
                .guards = root_ + "/guards",
                .pagers = root_ + "/pagers",
                .drop_in_folder = root_ + "/etc/conf.d",
                .config = root_ + "/etc/config.toml",
                .proc = root_ + "/proc",
                .tasks = root_ + "/tasks"};
    for (const char* folder : {"/image/bin", "/image/criu/lib", "/proc", "/state/checkpoints"}) {
      EXPECT_TRUE(MakeFolders(root_ + folder).ok());
    }
    for (const char* file : {"/image/bin/godwit-runtime", "/image/bin/godwit-guard",
                             "/image/bin/godwit-pager", "/image/criu/criu"}) {
      std::ofstream(root_ + file) << "program " << file;
      chmod((root_ + file).c_str(), 0755);
    }
    containerd_.binary = options_.folder + "/bin/godwit-runtime";
    Run(1, {"/sbin/init"});
  }
  std::string Read(const std::string& path) {
    auto text = ReadFile(root_ + path);
    return text.ok() ? *text : "";
  }
  bool Exists(const std::string& path) { return FileExists(root_ + path); }
  // A process in the folder that stands for /proc.
  void Run(int pid, const std::vector<std::string>& arguments, const std::string& exe = "/bin/true") {
    const std::string folder = absl::StrCat(root_, "/proc/", pid);
    EXPECT_TRUE(MakeFolders(folder).ok());
    std::ofstream(folder + "/status") << "Uid:\t0\t0\t0\t0\n";
    ASSERT_TRUE(MakeFolders(folder + "/ns").ok());
    ASSERT_EQ(symlink("mnt:[1]", (folder + "/ns/mnt").c_str()), 0);
    std::ofstream(folder + "/cmdline") << absl::StrJoin(arguments, std::string(1, '\0')) << '\0';
    EXPECT_EQ(symlink(exe.c_str(), (folder + "/exe").c_str()), 0);
  }

  static std::string MakeRoot() {
    std::string root = absl::StrCat(::testing::TempDir(), "/install-XXXXXX");
    EXPECT_NE(mkdtemp(root.data()), nullptr);
    return root;
  }

  const std::string root_ = MakeRoot();
  Options options_;
  FakeContainerd containerd_{root_ + "/etc/conf.d"};
  FakeClock clock_;
};

TEST_F(InstallTest, PutsTheTreeAndTheHandlerOnTheNodeAndRestartsContainerdOnce) {
  auto report = Install(options_, containerd_, clock_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->handler_live);
  EXPECT_EQ(containerd_.restarts, 1);
  EXPECT_THAT(Read("/opt/bin/godwit-runtime"), HasSubstr("program"));
  EXPECT_EQ(Read("/opt/etc/runtime.json"),
            R"({"runtime":"/usr/local/sbin/runc","cgroupRoot":"/sys/fs/cgroup","systemdCgroup":true})");
  EXPECT_THAT(Read("/etc/conf.d/godwit.toml"), HasSubstr("BinaryName"));
  EXPECT_EQ(access((options_.folder + "/bin/godwit-runtime").c_str(), X_OK), 0);
}

TEST_F(InstallTest, ASecondRunChangesNothing) {
  ASSERT_TRUE(Install(options_, containerd_, clock_).ok());
  const std::string drop_in = Read("/etc/conf.d/godwit.toml");
  auto again = Install(options_, containerd_, clock_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->handler_live);
  EXPECT_EQ(containerd_.restarts, 1);
  EXPECT_EQ(Read("/etc/conf.d/godwit.toml"), drop_in);
}

TEST_F(InstallTest, NeverLeavesTheRestartToOthersAndSaysSo) {
  options_.may_restart = false;
  auto report = Install(options_, containerd_, clock_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->handler_live);
  EXPECT_EQ(containerd_.restarts, 0);
  EXPECT_THAT(report->lines.back(), HasSubstr("restart it"));
  ASSERT_TRUE(containerd_.Restart().ok());
  EXPECT_TRUE(Install(options_, containerd_, clock_)->handler_live);
}

TEST_F(InstallTest, SaysWhatToWriteWhenTheDropInIsNotImportedAndTakesItBack) {
  containerd_.imports = false;
  const absl::Status status = Install(options_, containerd_, clock_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("imports = [\"" + root_ + "/etc/conf.d/*.toml\"]"));
  EXPECT_FALSE(Exists("/etc/conf.d"));
  EXPECT_EQ(containerd_.restarts, 0);
}

TEST_F(InstallTest, TakesTheDropInBackWhenItWouldChangeSomethingElse) {
  containerd_.breaks_settings = true;
  const absl::Status status = Install(options_, containerd_, clock_).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("snapshotter = 'native'"));
  EXPECT_FALSE(Exists("/etc/conf.d/godwit.toml"));
  EXPECT_EQ(containerd_.restarts, 0);
}

TEST_F(InstallTest, LeavesAForeignFileOfThatNameAlone) {
  ASSERT_TRUE(MakeFolders(options_.drop_in_folder).ok());
  std::ofstream(options_.drop_in_folder + "/godwit.toml") << "version = 3\n";
  EXPECT_EQ(Install(options_, containerd_, clock_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Read("/etc/conf.d/godwit.toml"), "version = 3\n");
  ASSERT_TRUE(Uninstall(options_, containerd_, clock_).ok());
  EXPECT_EQ(Read("/etc/conf.d/godwit.toml"), "version = 3\n");
}

TEST_F(InstallTest, DoesNotRestartWhileAContainerIsBeingCreated) {
  Run(7, {"/usr/local/sbin/runc", "--root", "/r", "create", "--bundle", "/b", "abc"});
  const absl::Status status = Install(options_, containerd_, clock_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("container abc is being created"));
  EXPECT_EQ(containerd_.restarts, 0);
  ASSERT_TRUE(RemoveTree(root_ + "/proc/7").ok());
  EXPECT_TRUE(Install(options_, containerd_, clock_).ok());
  EXPECT_EQ(containerd_.restarts, 1) << "the next run goes on where this one stopped";
}

TEST_F(InstallTest, DoesNotRestartWhileAMigrationIsOnTheNode) {
  ASSERT_TRUE(permits::PermitStore(options_.state + "/permits")
                  .Write("uid-1", "app", {.state = agent_api::PermitState::kWaiting, .migration_uid = "m-1"})
                  .ok());
  EXPECT_THAT(std::string(Install(options_, containerd_, clock_).status().message()),
              HasSubstr("migration m-1"));
  EXPECT_EQ(containerd_.restarts, 0);
  ASSERT_TRUE(permits::PermitStore(options_.state + "/permits")
                  .Write("uid-1", "app", {.state = agent_api::PermitState::kSpent, .migration_uid = "m-1"})
                  .ok());
  EXPECT_TRUE(Install(options_, containerd_, clock_).ok());
}

TEST_F(InstallTest, ARestartThatDoesNotHelpIsAnErrorAndTheHandlerIsTakenBack) {
  containerd_.restart_does_nothing = true;
  const absl::Status status = Install(options_, containerd_, clock_).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("containerd was restarted, but"));
  EXPECT_FALSE(Exists("/etc/conf.d/godwit.toml"));
}

TEST_F(InstallTest, AContainerdThatDoesNotComeBackIsStartedWithoutTheHandler) {
  containerd_.dies_of_drop_in = true;
  EXPECT_FALSE(Install(options_, containerd_, clock_).ok());
  EXPECT_TRUE(containerd_.runs);
  EXPECT_EQ(containerd_.restarts, 2);
  EXPECT_FALSE(Exists("/etc/conf.d/godwit.toml"));
}

TEST_F(InstallTest, ANewVersionBecomesCurrentAndOneInUseIsKept) {
  ASSERT_TRUE(Install(options_, containerd_, clock_).ok());
  char old[4096] = "";
  ASSERT_GT(readlink((options_.folder + "/current").c_str(), old, sizeof(old) - 1), 0);
  Run(9, {"/opt/godwit/bin/other"}, absl::StrCat(options_.folder, "/", old, "/bin/godwit-guard"));
  std::ofstream(options_.source + "/bin/godwit-guard") << "newer";
  ASSERT_TRUE(Install(options_, containerd_, clock_).ok());
  EXPECT_EQ(Read("/opt/bin/godwit-guard"), "newer");
  EXPECT_TRUE(FileExists(absl::StrCat(options_.folder, "/", old, "/bin/godwit-guard")));
  EXPECT_EQ(containerd_.restarts, 1) << "programs alone need no restart";
  ASSERT_TRUE(RemoveTree(root_ + "/proc/9").ok());
  ASSERT_TRUE(Install(options_, containerd_, clock_).ok());
  EXPECT_FALSE(FileExists(absl::StrCat(options_.folder, "/", old)));
}

TEST_F(InstallTest, UninstallLeavesTheNodeAsItWas) {
  ASSERT_TRUE(Install(options_, containerd_, clock_).ok());
  ASSERT_TRUE(MakeFolders(options_.state + "/permits/uid").ok());
  ASSERT_TRUE(MakeFolders(options_.state + "/identity/key").ok());
  ASSERT_TRUE(MakeFolders(options_.guards).ok());
  ASSERT_TRUE(MakeFolders(options_.pagers).ok());
  auto report = Uninstall(options_, containerd_, clock_);
  ASSERT_TRUE(report.ok()) << report.status();
  for (const char* path : {"/opt", "/state", "/run", "/etc/conf.d", "/guards", "/pagers"})
    EXPECT_FALSE(Exists(path)) << path;
  EXPECT_EQ(containerd_.restarts, 2);
  EXPECT_THAT(*containerd_.Handlers(""), ::testing::ElementsAre("runc"));
  EXPECT_TRUE(Uninstall(options_, containerd_, clock_).ok()) << "may be repeated";
  EXPECT_EQ(containerd_.restarts, 2);
}

TEST_F(InstallTest, UninstallKeepsArchivesOfCheckpoints) {
  ASSERT_TRUE(Install(options_, containerd_, clock_).ok());
  std::ofstream(options_.state + "/checkpoints/archive.tar") << "x";
  ASSERT_TRUE(Uninstall(options_, containerd_, clock_).ok());
  EXPECT_TRUE(Exists("/state/checkpoints/archive.tar"));
}

TEST_F(InstallTest, UninstallKeepsRuntimeAndHandlerForPodsThatUseThem) {
  ASSERT_TRUE(Install(options_, containerd_, clock_).ok());
  ASSERT_TRUE(MakeFolders(options_.tasks + "/k8s.io/abc").ok());
  std::ofstream(options_.tasks + "/k8s.io/abc/runtime") << options_.folder << "/bin/godwit-runtime";
  ASSERT_TRUE(MakeFolders(options_.state + "/identity/key").ok());
  auto report = Uninstall(options_, containerd_, clock_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->lines.back(), HasSubstr("kept"));
  EXPECT_TRUE(Exists("/opt/bin/godwit-runtime"));
  EXPECT_TRUE(Exists("/opt/etc/runtime.json"));
  EXPECT_TRUE(Exists("/etc/conf.d/godwit.toml"));
  EXPECT_FALSE(Exists("/opt/bin/godwit-guard"));
  EXPECT_FALSE(Exists("/opt/criu"));
  EXPECT_FALSE(Exists("/state/identity"));
  EXPECT_EQ(containerd_.restarts, 1);
  ASSERT_TRUE(Install(options_, containerd_, clock_).ok()) << "and Godwit can be installed again";
  EXPECT_TRUE(Exists("/opt/criu/criu"));
}

}  // namespace
}  // namespace godwit::install
