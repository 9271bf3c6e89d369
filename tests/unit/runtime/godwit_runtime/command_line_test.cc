// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/command_line.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::godwit_runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(CommandLineTest, ReadsCreateAsContainerdsShimCallsIt) {
  auto line = ParseCommandLine({"--root", "/run/containerd/runc/k8s.io", "--log", "/b/log.json",
                                "--log-format", "json", "--systemd-cgroup", "create", "--bundle", "/b",
                                "--pid-file", "/b/init.pid", "abc"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->command, "create");
  EXPECT_EQ(line->root, "/run/containerd/runc/k8s.io");
  EXPECT_EQ(line->log, "/b/log.json");
  EXPECT_TRUE(line->log_json);
  EXPECT_TRUE(line->systemd_cgroup);
  EXPECT_EQ(line->bundle, "/b");
  EXPECT_EQ(line->pid_file, "/b/init.pid");
  EXPECT_EQ(line->console_socket, "");
  EXPECT_EQ(line->id, "abc");
  EXPECT_THAT(line->global, ElementsAre("--root", "/run/containerd/runc/k8s.io", "--log", "/b/log.json",
                                        "--log-format", "json", "--systemd-cgroup"));
}

TEST(CommandLineTest, ReadsCreateAsConmonCallsIt) {
  auto line = ParseCommandLine({"--root=/run/runc", "create", "--bundle", "/b", "--pid-file", "/p",
                                "--no-pivot", "--console-socket=/s", "--preserve-fds", "2", "abc"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->root, "/run/runc");
  EXPECT_FALSE(line->systemd_cgroup);
  EXPECT_FALSE(line->log_json);
  EXPECT_EQ(line->console_socket, "/s");
  EXPECT_EQ(line->id, "abc");
}

TEST(CommandLineTest, ReadsStart) {
  auto line = ParseCommandLine({"--root", "/r", "start", "abc"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->command, "start");
  EXPECT_EQ(line->id, "abc");
}

TEST(CommandLineTest, ReadsKillAndLeavesWhatItDoesNotUnderstand) {
  auto line = ParseCommandLine({"--root", "/r", "kill", "--all", "abc", "KILL"});
  ASSERT_TRUE(line.ok());
  EXPECT_EQ(line->id, "abc");
  EXPECT_EQ(line->signal, "KILL");
  EXPECT_EQ(ParseCommandLine({"kill", "abc"})->signal, "SIGTERM");
  EXPECT_EQ(ParseCommandLine({"kill", "../abc", "9"})->id, "");
  EXPECT_TRUE(ParseCommandLine({"kill"}).ok());
}

TEST(CommandLineTest, LeavesOtherCommandsAlone) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--root", "/r", "kill", "--all", "abc", "9"},
        {"--version"},
        {},
        {"features"},
        {"--some-new-flag", "value", "exec", "-d", "abc", "sh"},
        {"--root", "/r", "delete", "--force", "abc"},
        {"--root", "/r", "state", "../x"}}) {
    EXPECT_TRUE(ParseCommandLine(arguments).ok()) << arguments.size();
  }
  EXPECT_THAT(ParseCommandLine({"--version"})->command, IsEmpty());
}

TEST(CommandLineTest, WhatMightBeACreateButIsNotUnderstoodIsAnError) {
  EXPECT_FALSE(ParseCommandLine({"--some-new-flag", "value", "create", "--bundle", "/b", "abc"}).ok());
  EXPECT_FALSE(ParseCommandLine({"create", "--some-new-flag", "value", "abc"}).ok());
  EXPECT_FALSE(ParseCommandLine({"create", "--bundle"}).ok());
  EXPECT_FALSE(ParseCommandLine({"create", "--bundle", "/b"}).ok());
  EXPECT_FALSE(ParseCommandLine({"create", "--bundle", "/b", "abc", "def"}).ok());
  EXPECT_FALSE(ParseCommandLine({"--root"}).ok());
}

TEST(CommandLineTest, AnIdCannotLeadOutOfTheRoot) {
  for (const char* id : {"..", ".", "../x", "a/b", "/etc"}) {
    EXPECT_FALSE(ParseCommandLine({"start", id}).ok()) << id;
    EXPECT_FALSE(ParseCommandLine({"create", "--bundle", "/b", id}).ok()) << id;
  }
}

}  // namespace
}  // namespace godwit::godwit_runtime
