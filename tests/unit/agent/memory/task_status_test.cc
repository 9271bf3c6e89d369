// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/task_status.h"

#include <unistd.h>

#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

TEST(TaskStatusTest, ReadsWhatTheTrackerNeeds) {
  const TaskStatus status = ParseTaskStatus(
      "Name:\tredis\\n\x01server\nPid:\t812\nTracerPid:\t7\nNSpid:\t812\t44\t1\nVmSize:\t  9000 kB\nVmLck:\t "
      "      8 "
      "kB\nSeccomp:\t2\nSeccomp_filters:\t1\nx86_Thread_features:\tshstk wrss "
      "\nx86_Thread_features_locked:\t\n");
  EXPECT_EQ(status.command, "redis\\n?server");
  EXPECT_EQ(status.container_pid, 1);
  EXPECT_EQ(status.tracer, 7);
  EXPECT_TRUE(status.has_memory);
  EXPECT_TRUE(status.locked);
  EXPECT_TRUE(status.seccomp);
  EXPECT_TRUE(status.shadow_stack);
}

TEST(TaskStatusTest, AnOrdinaryProcessHasNoneOfIt) {
  const TaskStatus status = ParseTaskStatus(
      "Name:\tsh\nTracerPid:\t0\nNSpid:\t5\nVmSize:\t 90 kB\nVmLck:\t       0 "
      "kB\nSeccomp:\t0\nx86_Thread_features:\t\n");
  EXPECT_EQ(status.container_pid, 5);
  EXPECT_EQ(status.tracer, 0);
  EXPECT_FALSE(status.locked);
  EXPECT_FALSE(status.seccomp);
  EXPECT_FALSE(status.shadow_stack);
}

TEST(TaskStatusTest, AZombieHasNoMemory) {
  EXPECT_FALSE(ParseTaskStatus("Name:\tsh\nState:\tZ (zombie)\nNSpid:\t5\n").has_memory);
  EXPECT_FALSE(ParseTaskStatus("").has_memory);
}

TEST(TaskStatusTest, ThisProcessIsRead) {
  const auto status = ReadTaskStatus("/proc", getpid());
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_TRUE(status->has_memory);
  EXPECT_GT(status->container_pid, 0);
  EXPECT_TRUE(absl::IsNotFound(ReadTaskStatus("/proc", 1 << 22).status()));
}

}  // namespace
}  // namespace godwit::memory
