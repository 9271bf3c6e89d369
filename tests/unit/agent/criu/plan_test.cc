// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/plan.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::criu {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Programs Runc(Version version) {
  return {.runtime = "/usr/sbin/runc", .runtime_version = version, .criu_folder = "/opt/godwit/criu"};
}

agent_api::GuardContainer Container() {
  return {.name = "app",
          .id = "3f2a",
          .cgroup = "/sys/fs/cgroup/kubepods/x",
          .runc_root = "/run/containerd/runc/k8s.io",
          .init_pid = 77,
          .images = "/m/app/images",
          .work = "/m/app/work"};
}

RestoreRequest Restore() {
  return {.global_arguments = {"--root", "/run/runc", "--log", "/b/log.json"},
          .id = "9c",
          .bundle = "/b",
          .pid_file = "/b/init.pid",
          .images = "/m/app/images",
          .work = "/m/app/work",
          .cgroup = "/kubepods/podx/9c",
          .cgroup_root = "/sys/fs/cgroup",
          .own_cgroup = "/system.slice/containerd.service",
          .gate = ""};
}

TEST(ParseVersion, FindsTheFirstVersionInAText) {
  const struct {
    const char* text;
    Version want;
  } cases[] = {
      {"runc version 1.3.6+ds1\ncommit: 1.3.6\nspec: 1.2.1", {1, 3, 6}},
      {"runc version 1.1.15", {1, 1, 15}},
      {"Version: 4.2.1\nGitID: v4.2.1", {4, 2, 1}},
      {"Version: 4.2 (gitid 0)", {4, 2, 0}},
      {"crun version 1.21-dev", {1, 21, 0}},
      {"no number", {0, 0, 0}},
      {"only 7", {0, 0, 0}},
      {"", {0, 0, 0}},
      {"1.", {0, 0, 0}},
      {"99999999999999.1", {0, 0, 0}},
  };
  for (const auto& c : cases) EXPECT_EQ(ParseVersion(c.text), c.want) << c.text;
}

TEST(PlanDump, IsWhatRunc13Understands) {
  const Plan plan = PlanDump(Runc({1, 3, 6}), Container());
  EXPECT_THAT(plan.argv,
              ElementsAre("/usr/sbin/runc", "--root", "/run/containerd/runc/k8s.io", "checkpoint",
                          "--leave-running", "--image-path", "/m/app/images", "--work-path", "/m/app/work",
                          "--tcp-established", "--file-locks", "--tcp-skip-in-flight", "3f2a"));
  EXPECT_EQ(plan.config, "network-lock nftables\nghost-limit 256M\ncgroup-dump-controller \"\"\n");
  EXPECT_EQ(plan.log_file, "/m/app/work/dump.log");
}

TEST(PlanDump, LeavesTheNetworkAloneBehindAFence) {
  const Plan plan = PlanDump(Runc({1, 3, 6}), Container(), {.fenced = true});
  EXPECT_EQ(plan.config, "network-lock skip\nghost-limit 256M\ncgroup-dump-controller \"\"\n");
}

TEST(PlanDump, HidesPagesAndWaitsAtItsGate) {
  agent_api::GuardContainer container = Container();
  EXPECT_THAT(PlanDump(Runc({1, 3, 6}), container).env, Not(Contains(HasSubstr("HIDDEN"))));
  container.hidden = "/m/app/hidden";
  container.smaps = "/m/app/smaps";
  const Plan plan = PlanDump(Runc({1, 3, 6}), container, {.gate = "/m/app/work/gate"});
  EXPECT_THAT(plan.env, Contains("GODWIT_CRIU_HIDDEN_PAGES=/m/app/hidden"));
  EXPECT_THAT(plan.env, Contains("GODWIT_CRIU_SMAPS=/m/app/smaps"));
  EXPECT_THAT(plan.env, Contains("GODWIT_CRIU_GATE=/m/app/work/gate"));
  EXPECT_EQ(plan.gate, "/m/app/work/gate");
}

// runc 1.1 has no flag for it and does not mention it in its request: CRIU's config decides.
TEST(PlanDump, TellsCriuItselfToSkipConnectionsInFlightUnderRunc11) {
  const Plan plan = PlanDump(Runc({1, 1, 15}), Container());
  EXPECT_THAT(plan.argv, Not(Contains("--tcp-skip-in-flight")));
  EXPECT_THAT(plan.config, HasSubstr("skip-in-flight\n"));
}

TEST(PlanDump, FindsTheBundledCriuFirstAndHandsNothingElseOn) {
  const Plan plan = PlanDump(Runc({1, 3, 6}), Container());
  EXPECT_THAT(plan.env, ElementsAre(HasSubstr("PATH=/opt/godwit/criu:"), "HOME=/nonexistent",
                                    "CRIU_CONFIG_FILE=/m/app/work/criu.conf",
                                    "GODWIT_CRIU_MESSAGES=/m/app/work/criu-messages.log",
                                    "GODWIT_CRIU_LOG_LEVEL=2", "GODWIT_CRIU_ABORT=/m/app/work/abort",
                                    "GODWIT_CRIU_DONE=/m/app/work/done", "GODWIT_CRIU_NO_CONNTRACK=1"));
}

TEST(PlanRestore, HoldsTheContainerInItsOwnCgroup) {
  const Plan plan = PlanRestore(Runc({1, 3, 6}), Restore());
  EXPECT_THAT(plan.argv,
              ElementsAre("/usr/sbin/runc", "--root", "/run/runc", "--log", "/b/log.json", "restore",
                          "--detach", "--bundle", "/b", "--image-path", "/m/app/images", "--work-path",
                          "/m/app/work", "--pid-file", "/b/init.pid", "--file-locks", "9c"));
  EXPECT_EQ(plan.config, "tcp-close\ncgroup-root :/kubepods/podx/9c\n");
  EXPECT_THAT(plan.env, Contains("GODWIT_CRIU_HOLD_CGROUP=/sys/fs/cgroup/kubepods/podx/9c"));
  EXPECT_THAT(plan.env,
              Contains("GODWIT_CRIU_OUTSIDE_CGROUP=/sys/fs/cgroup/system.slice/containerd.service"));
  EXPECT_THAT(plan.env, Not(Contains(HasSubstr("GODWIT_CRIU_GATE"))));
  EXPECT_THAT(plan.env, Not(Contains(HasSubstr("GODWIT_CRIU_ABORT"))));
}

TEST(PlanRestore, WaitsAtAGateWhenGivenOne) {
  RestoreRequest request = Restore();
  request.gate = "/run/godwit/gate";
  EXPECT_THAT(PlanRestore(Runc({1, 1, 15}), request).env, Contains("GODWIT_CRIU_GATE=/run/godwit/gate"));
}

TEST(PlanRestore, LeavesMemoryToTheLazyPagesDaemon) {
  RestoreRequest request = Restore();
  EXPECT_THAT(PlanRestore(Runc({1, 1, 15}), request).argv, Not(Contains("--lazy-pages")));
  request.lazy_pages = true;
  const Plan plan = PlanRestore(Runc({1, 1, 15}), request);
  EXPECT_THAT(plan.argv, Contains("--lazy-pages"));
  EXPECT_EQ(plan.argv.back(), "9c");
  EXPECT_EQ(LazyPagesSocket(request.work), "/m/app/work/lazy-pages.socket");
}

TEST(PlanRestore, NamesTheSharedMemoryThatIsThere) {
  RestoreRequest request = Restore();
  EXPECT_THAT(PlanRestore(Runc({1, 1, 15}), request).env, Not(Contains(HasSubstr("SHARED_MEMORY"))));
  request.shared_memory = "/m/app/work/shared-memory";
  EXPECT_THAT(PlanRestore(Runc({1, 1, 15}), request).env,
              Contains("GODWIT_CRIU_SHARED_MEMORY=/m/app/work/shared-memory"));
}

TEST(Prepare, WritesConfigAndAbortFileAndMakesTheGate) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/prepare");
  std::filesystem::create_directories(folder);
  agent_api::GuardContainer container = Container();
  container.work = folder;
  const Plan plan = PlanDump(Runc({1, 3, 6}), container, {.gate = folder + "/gate"});
  ASSERT_TRUE(Prepare(plan).ok());
  EXPECT_TRUE(std::filesystem::is_fifo(folder + "/gate"));
  EXPECT_TRUE(std::filesystem::is_fifo(plan.done));
  EXPECT_EQ(*ReadFile(plan.config_file), plan.config);
  EXPECT_EQ(*ReadFile(plan.abort_file), std::string(1, '\0'));
  container.work = "/nonexistent";
  EXPECT_THAT(std::string(Prepare(PlanDump(Runc({1, 3, 6}), container)).message()),
              HasSubstr("/nonexistent/criu.conf"));
}

}  // namespace
}  // namespace godwit::criu
