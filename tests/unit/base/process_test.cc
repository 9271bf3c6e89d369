// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

bool Gone(pid_t pid) {
  const auto stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  return !stat.ok() || stat->find(") Z ") != std::string::npos;  // a zombie waits for somebody else's wait
}

bool Eventually(const std::function<bool()>& condition) {
  for (const absl::Time deadline = absl::Now() + absl::Seconds(20); absl::Now() < deadline;
       absl::SleepFor(absl::Milliseconds(2))) {
    if (condition()) return true;
  }
  return condition();
}

TEST(ProcessTest, CapturesBothStreamsAndTheExitStatus) {
  auto result = godwit::Run({"sh", "-c", "echo out; echo err >&2; exit 3"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out, "out\n");
  EXPECT_EQ(result->err, "err\n");
  EXPECT_EQ(result->status.code, 3);
  EXPECT_FALSE(result->status.ok());
  EXPECT_EQ(result->status.ToString(), "exit status 3");
}

TEST(ProcessTest, TellsASignalFromAnExit) {
  auto result = godwit::Run({"sh", "-c", "kill -TERM $$"});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->status.signal, SIGTERM);
  EXPECT_THAT(result->status.ToString(), HasSubstr("killed by signal 15"));
}

TEST(ProcessTest, ArgumentsAreNotInterpreted) {
  EXPECT_EQ(*RunOrError({"printf", "%s|", "a b", "$HOME", "*", ""}), "a b|$HOME|*||");
}

TEST(ProcessTest, MissingProgramIsAnErrorThatNamesIt) {
  const absl::Status status = godwit::Run({"/nowhere/program"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot run /nowhere/program: exec"));
  EXPECT_EQ(godwit::Run({}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ProcessTest, FailureQuotesCommandAndStderr) {
  const absl::Status status = RunOrError({"sh", "-c", "echo too bad >&2; exit 4"}).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("exit status 4"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("too bad"));
}

TEST(ProcessTest, InputArrivesWholeAlsoWhenItIsLargeOrNotRead) {
  RunOptions options;
  options.input = std::string(3'000'000, 'x');
  EXPECT_EQ(*RunOrError({"wc", "-c"}, options), "3000000\n");
  EXPECT_EQ(*RunOrError({"echo", "deaf"}, options), "deaf\n");
}

TEST(ProcessTest, OutputBeyondTheLimitIsDroppedAndTheProgramGoesOn) {
  RunOptions options;
  options.max_output = 1000;
  auto result = godwit::Run({"sh", "-c", "head -c 500000 /dev/zero; echo done >&2"}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out.size(), 1000u);
  EXPECT_TRUE(result->truncated);
  EXPECT_EQ(result->err, "done\n");
}

TEST(ProcessTest, TheLimitKillsTheWholeGroup) {
  char pattern[] = "/tmp/godwit-process-XXXXXX";
  ASSERT_NE(mkdtemp(pattern), nullptr);
  const std::string pids = absl::StrCat(pattern, "/pids");
  RunOptions options;
  options.limit = absl::Seconds(1);
  const absl::Status status =
      godwit::Run({"sh", "-c", absl::StrCat("sleep 1000 & echo $! $$ > ", pids, "; wait")}, options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  const std::string content = *ReadFile(pids);
  ASSERT_TRUE(RemoveTree(pattern).ok());
  for (const absl::string_view text : absl::StrSplit(absl::StripSuffix(content, "\n"), ' ')) {
    int pid = 0;
    ASSERT_TRUE(absl::SimpleAtoi(text, &pid));
    EXPECT_TRUE(Eventually([pid] { return Gone(pid); })) << pid;
  }
}

TEST(ProcessTest, ABackgroundProcessThatKeepsTheOutputOpenIsNotWaitedFor) {
  auto result = godwit::Run({"sh", "-c", "sleep 1000 & echo $!"});
  ASSERT_TRUE(result.ok()) << result.status();
  int pid = 0;
  ASSERT_TRUE(absl::SimpleAtoi(result->out, &pid));
  EXPECT_EQ(kill(pid, SIGKILL), 0);
}

TEST(ProcessTest, NoOtherDescriptorIsInherited) {
  const int leaked = open("/dev/null", O_RDONLY);  // without O_CLOEXEC on purpose
  const std::string listed = *RunOrError({"sh", "-c", "ls /proc/self/fd"});
  close(leaked);
  EXPECT_EQ(listed, "0\n1\n2\n3\n");  // 3 is ls' own, on the folder it lists
}

// Ignores a signal, or not, by the system call: the C library's own (32, 33) too. Fields as the kernel's.
void SetIgnored(int signal, bool ignored) {
  const uint64_t action[4] = {ignored ? reinterpret_cast<uint64_t>(SIG_IGN) : 0, 0, 0, 0};
  ASSERT_EQ(syscall(SYS_rt_sigaction, signal, action, nullptr, 8), 0);
}

TEST(ProcessTest, SignalsAreAtTheirDefaultsInTheChild) {
  for (int signal : {SIGPIPE, 32, 33}) SetIgnored(signal, true);
  const std::string status = *RunOrError({"grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"});
  for (int signal : {SIGPIPE, 32, 33}) SetIgnored(signal, false);
  EXPECT_EQ(status, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST(ProcessTest, EnvironmentAndFolderAreWhatWasAsked) {
  RunOptions options;
  options.spawn.env = std::vector<std::string>{"ONLY=this", "PATH=/usr/bin:/bin"};
  options.spawn.cwd = "/proc";
  EXPECT_EQ(*RunOrError({"sh", "-c", "env | grep -v ^PWD= | grep -v ^_= | sort; pwd"}, options),
            "ONLY=this\nPATH=/usr/bin:/bin\n/proc\n");
  options.spawn.cwd = "/nowhere";
  EXPECT_THAT(std::string(godwit::Run({"true"}, options).status().message()),
              HasSubstr("changing to its working folder"));
}

TEST(ProcessTest, EntersNamespaces) {
  auto stranger = Child::Spawn({"unshare", "--uts", "sh", "-c", "hostname elsewhere && exec sleep 1000"});
  ASSERT_TRUE(stranger.ok()) << stranger.status();
  const std::string name_space = absl::StrCat("/proc/", stranger->pid(), "/ns/uts");
  RunOptions options;
  options.spawn.namespaces = {name_space};
  EXPECT_TRUE(Eventually([&] {
    auto name = RunOrError({"hostname"}, options);
    return name.ok() && *name == "elsewhere\n";
  }));
  EXPECT_NE(*RunOrError({"hostname"}), "elsewhere\n");
}

TEST(ProcessTest, TheHookRunsLastAndItsErrorIsReported) {
  RunOptions options;
  options.spawn.before_exec = [] { return setenv("IGNORED", "x", 1) == 0 ? EXDEV : 0; };
  EXPECT_THAT(std::string(godwit::Run({"true"}, options).status().message()), HasSubstr("preparing it"));
}

TEST(ChildTest, WaitTellsRunningFromEnded) {
  auto child = Child::Spawn({"sleep", "1000"});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(child->Wait(absl::ZeroDuration()).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(child->Signal(SIGTERM).ok());
  auto ended = child->Wait(absl::Seconds(20));
  ASSERT_TRUE(ended.ok()) << ended.status();
  EXPECT_EQ(ended->signal, SIGTERM);
  EXPECT_EQ(child->Wait(absl::ZeroDuration())->signal, SIGTERM);
  EXPECT_TRUE(child->Signal(SIGTERM).ok());
}

TEST(ChildTest, AForgottenChildIsKilledAndReaped) {
  pid_t pid;
  {
    auto child = Child::Spawn({"sleep", "1000"});
    ASSERT_TRUE(child.ok());
    pid = child->pid();
    Child moved = *std::move(child);
    EXPECT_EQ(moved.pid(), pid);
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST(ChildTest, AReleasedChildLives) {
  auto child = Child::Spawn({"sleep", "1000"}, {.new_session = true});
  ASSERT_TRUE(child.ok());
  const pid_t pid = child->Release();
  *child = *Child::Spawn({"true"});
  EXPECT_EQ(kill(pid, 0), 0);
  EXPECT_EQ(getsid(pid), pid);
  kill(pid, SIGKILL);
  EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
}

}  // namespace
}  // namespace godwit
