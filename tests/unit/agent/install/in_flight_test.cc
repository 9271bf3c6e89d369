// SPDX-License-Identifier: Apache-2.0
#include "agent/install/in_flight.h"

#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/install/containerd.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::install {
namespace {

using ::testing::HasSubstr;

class InFlightTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = absl::StrCat(::testing::TempDir(), "/flight-XXXXXX");
    ASSERT_NE(mkdtemp(root_.data()), nullptr);
    ASSERT_TRUE(MakeFolders(root_ + "/proc").ok());
    Process(1, {"/sbin/init"}, "init", "mnt:[1]");
  }
  void Process(int pid, const std::vector<std::string>& arguments, const std::string& name,
               const std::string& mounts, int uid = 0) {
    const std::string folder = absl::StrCat(root_, "/proc/", pid);
    ASSERT_TRUE(MakeFolders(folder + "/ns").ok());
    std::ofstream(folder + "/cmdline") << absl::StrJoin(arguments, std::string(1, '\0')) << '\0';
    std::ofstream(folder + "/comm") << name << "\n";
    std::ofstream(folder + "/stat") << pid << " (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 "
                                    << pid * 10 << " 20\n";
    std::ofstream(folder + "/status") << "Name:\t" << name << "\nUid:\t1000\t" << uid << "\t0\t0\nGid:\t0\n";
    ASSERT_EQ(symlink(mounts.c_str(), (folder + "/ns/mnt").c_str()), 0);
  }
  std::string What() {
    auto what = WhatIsInFlight(root_ + "/permits", root_ + "/proc");
    EXPECT_TRUE(what.ok()) << what.status();
    return what.ok() ? *what : "error";
  }
  std::string root_;
};

TEST_F(InFlightTest, AnIdleNodeIsQuiet) {
  Process(20, {"/usr/bin/runc", "--root", "/r", "kill", "abc", "9"}, "runc", "mnt:[1]");
  Process(21, {"vi", "create"}, "vi", "mnt:[1]");
  EXPECT_EQ(What(), "");
}

TEST_F(InFlightTest, SeesAGuard) {
  Process(20, {"/opt/godwit/bin/godwit-guard", "--spec", "/x"}, "godwit-guard", "mnt:[1]");
  EXPECT_THAT(What(), HasSubstr("dumped"));
}

TEST_F(InFlightTest, SeesARuntimeThatMakesAContainer) {
  Process(20, {"/usr/bin/runc", "create", "--bundle", "/b", "abc"}, "runc", "mnt:[1]");
  EXPECT_THAT(What(), HasSubstr("container abc is being created"));
}

TEST_F(InFlightTest, NoContainerAndNoOrdinaryUserCanHoldUpARestart) {
  Process(20, {"/opt/godwit/bin/godwit-guard", "--spec", "/x"}, "godwit-guard", "mnt:[7]");
  Process(21, {"/usr/bin/runc", "create", "--bundle", "/b", "abc"}, "runc", "mnt:[7]");
  Process(22, {"/home/eve/godwit-guard", "--spec", "/x"}, "godwit-guard", "mnt:[1]", 1000);
  Process(23, {"runc", "create", "--bundle", "/b", "abc"}, "runc", "mnt:[1]", 1000);
  EXPECT_EQ(What(), "");
}

TEST_F(InFlightTest, FindsTheContainerdOfTheHostAndOfThatConfiguration) {
  Process(20, {"containerd", "--config", "/var/run/docker/containerd/containerd.toml"}, "containerd",
          "mnt:[1]");
  Process(21, {"/usr/bin/containerd"}, "containerd", "mnt:[2]");  // of a nested cluster
  EXPECT_EQ(FindContainerd(root_ + "/proc", "/etc/containerd/config.toml").status().code(),
            absl::StatusCode::kUnavailable);
  Process(22, {"/usr/bin/containerd"}, "containerd", "mnt:[1]");
  Process(23, {"/k3s/containerd", "-c", "/k3s/config.toml"}, "containerd", "mnt:[1]");
  auto found = FindContainerd(root_ + "/proc", "/etc/containerd/config.toml");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->pid, 22);
  EXPECT_EQ(found->started, 220);
  EXPECT_EQ(FindContainerd(root_ + "/proc", "/k3s/config.toml")->pid, 23);
}

}  // namespace
}  // namespace godwit::install
