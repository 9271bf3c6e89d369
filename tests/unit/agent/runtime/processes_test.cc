// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/processes.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

Process P(pid_t pid, pid_t parent, uint64_t pending = 0) {
  Process process;
  process.pid = pid;
  process.parent = parent;
  process.command = "c";
  process.pending = pending;
  return process;
}

std::vector<pid_t> Pids(const std::vector<Process>& processes) {
  std::vector<pid_t> pids;
  for (const Process& process : processes) pids.push_back(process.pid);
  return pids;
}

TEST(Processes, WhatDoesNotDescendFromInitIsAnExec) {
  EXPECT_TRUE(OutsideTree({P(10, 1), P(11, 10), P(12, 11)}, 10).empty());
  EXPECT_THAT(Pids(OutsideTree({P(10, 1), P(11, 10), P(20, 1), P(21, 20)}, 10)),
              testing::ElementsAre(20, 21));
  EXPECT_THAT(Pids(OutsideTree({P(10, 1), P(20, 21), P(21, 20)}, 10)), testing::ElementsAre(20, 21))
      << "a circle";
}

TEST(Processes, PendingTermAndKillMeanTheEnd) {
  const uint64_t term = 1u << (SIGTERM - 1), kill = 1u << (SIGKILL - 1), usr1 = 1u << (SIGUSR1 - 1);
  EXPECT_THAT(Pids(BeingEnded({P(1, 0, term), P(2, 1, kill | usr1), P(3, 1, usr1), P(4, 1)})),
              testing::ElementsAre(1, 2));
}

TEST(Processes, ReadsARealProcess) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, nullptr);
    raise(SIGTERM);
    (void)!write(ready[1], "x", 1);
    while (true) pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const auto process = ReadProcess("/proc", child);
  EXPECT_TRUE(process.ok()) << process.status();
  if (process.ok()) {
    EXPECT_EQ(process->parent, getpid());
    EXPECT_EQ(process->tracer, 0);
    EXPECT_GT(process->resident_bytes, 0);
    EXPECT_EQ(BeingEnded({*process}).size(), 1u) << "raise() makes it pending for the thread";
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(absl::IsNotFound(ReadProcess("/proc", child).status()));
}

TEST(Processes, NamesAtMostFive) {
  EXPECT_EQ(Describe({P(1, 0), P(2, 0)}), "1 (c), 2 (c)");
  EXPECT_EQ(Describe({P(1, 0), P(2, 0), P(3, 0), P(4, 0), P(5, 0), P(6, 0), P(7, 0)}),
            "1 (c), 2 (c), 3 (c), 4 (c), 5 (c) and 2 more");
}

}  // namespace
}  // namespace godwit::runtime
