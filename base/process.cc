// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/status.h"

namespace godwit {
namespace {

// What the child reports when it cannot get as far as exec.
struct Failure {
  enum Step : int { kStdio, kSession, kCgroup, kNamespace, kCwd, kHook, kExec } step;
  int error;
};

absl::string_view StepName(int step) {
  switch (step) {
    case Failure::kStdio: return "setting up its descriptors";
    case Failure::kSession: return "making its process group";
    case Failure::kCgroup: return "moving into its cgroup";
    case Failure::kNamespace: return "entering a namespace";
    case Failure::kCwd: return "changing to its working folder";
    case Failure::kHook: return "preparing it";
    default: return "exec";
  }
}

// Everything the child needs, ready before the fork: after it only async-signal-safe calls may be made.
struct Prepared {
  std::vector<char*> argv;
  std::vector<char*> env;
  char** envp = nullptr;
  int stdio[3] = {-1, -1, -1};
  UniqueFd null;
  UniqueFd cgroup_procs;
  std::vector<UniqueFd> namespaces;
  pid_t parent = 0;
};

[[noreturn]] void Fail(int report, Failure::Step step, int error) {
  const Failure failure{step, error};
  [[maybe_unused]] ssize_t n = write(report, &failure, sizeof failure);
  _exit(127);
}

// By the system call: sigaction() refuses the two signals that the C library keeps for itself (32 and 33),
// and whoever started us may have left them ignored.
void ResetSignals() {
  // The kernel's struct sigaction (handler, flags, restorer, mask of 64 signals): all zero is SIG_DFL.
  constexpr uint64_t kByDefault[4] = {};
  constexpr size_t kMaskBytes = 8;
  for (int signal = 1; signal < _NSIG; ++signal)
    syscall(SYS_rt_sigaction, signal, kByDefault, nullptr, kMaskBytes);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// The three descriptors are first lifted above 2, so that none is overwritten before it is used.
int InstallStdio(const int (&wanted)[3]) {
  int lifted[3];
  for (int i = 0; i < 3; ++i) {
    lifted[i] = fcntl(wanted[i], F_DUPFD_CLOEXEC, 3);
    if (lifted[i] < 0) return errno;
  }
  for (int i = 0; i < 3; ++i) {
    if (dup2(lifted[i], i) < 0) return errno;
  }
  return 0;
}

[[noreturn]] void RunChild(const Prepared& prepared, const SpawnOptions& options, int report) {
  ResetSignals();
  if (options.die_with_parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != prepared.parent) _exit(127);
  }
  const int safe_report = fcntl(report, F_DUPFD_CLOEXEC, 10);
  if (safe_report < 0) Fail(report, Failure::kStdio, errno);
  if (int error = InstallStdio(prepared.stdio); error != 0) Fail(safe_report, Failure::kStdio, error);
  // Closed by exec, so that the report and the namespaces can still be used.
  if (syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) != 0) Fail(safe_report, Failure::kStdio, errno);
  if (options.new_session ? setsid() < 0 : setpgid(0, 0) != 0) Fail(safe_report, Failure::kSession, errno);
  if (prepared.cgroup_procs.ok() && write(prepared.cgroup_procs.get(), "0", 1) != 1) {
    Fail(safe_report, Failure::kCgroup, errno);
  }
  for (const UniqueFd& name_space : prepared.namespaces) {
    if (setns(name_space.get(), 0) != 0) Fail(safe_report, Failure::kNamespace, errno);
  }
  if (!options.cwd.empty() && chdir(options.cwd.c_str()) != 0) Fail(safe_report, Failure::kCwd, errno);
  if (options.before_exec) {
    if (int error = options.before_exec(); error != 0) Fail(safe_report, Failure::kHook, error);
  }
  execvpe(prepared.argv[0], prepared.argv.data(), prepared.envp);
  Fail(safe_report, Failure::kExec, errno);
}

absl::StatusOr<Prepared> Prepare(const std::vector<std::string>& argv, const SpawnOptions& options) {
  if (argv.empty() || argv[0].empty()) return absl::InvalidArgumentError("cannot run an empty command");
  Prepared prepared;
  for (const std::string& arg : argv) prepared.argv.push_back(const_cast<char*>(arg.c_str()));
  prepared.argv.push_back(nullptr);
  prepared.envp = environ;
  if (options.env.has_value()) {
    for (const std::string& entry : *options.env) prepared.env.push_back(const_cast<char*>(entry.c_str()));
    prepared.env.push_back(nullptr);
    prepared.envp = prepared.env.data();
  }
  GODWIT_ASSIGN_OR_RETURN(prepared.null, OpenFile("/dev/null", O_RDWR));
  const int wanted[3] = {options.stdin_fd, options.stdout_fd, options.stderr_fd};
  for (int i = 0; i < 3; ++i) prepared.stdio[i] = wanted[i] >= 0 ? wanted[i] : prepared.null.get();
  if (!options.cgroup.empty()) {
    GODWIT_ASSIGN_OR_RETURN(prepared.cgroup_procs, OpenFile(options.cgroup + "/cgroup.procs", O_WRONLY));
  }
  for (const std::string& path : options.namespaces) {
    GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY));
    prepared.namespaces.push_back(std::move(fd));
  }
  prepared.parent = getpid();
  return prepared;
}

// poll(2) timeout that never ends before `deadline`.
int PollTimeout(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return -1;
  const int64_t left = absl::ToInt64Milliseconds(deadline - SteadyNow()) + 1;
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60 * 60 * 1000));
}

// Reads what is there now. False at the end of the stream.
bool Drain(int fd, size_t limit, std::string& into, bool& truncated) {
  while (true) {
    char buffer[16384];
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;
    const size_t keep = std::min(limit - std::min(limit, into.size()), static_cast<size_t>(n));
    into.append(buffer, keep);
    truncated = truncated || keep < static_cast<size_t>(n);
  }
}

// Input as an anonymous file: it can be as long as it likes, and a child that does not read it harms nobody.
absl::StatusOr<UniqueFd> InputFile(const std::string& input) {
  UniqueFd file(memfd_create("stdin", MFD_CLOEXEC));
  if (!file.ok()) return ErrnoStatus("cannot make a memory file for stdin");
  GODWIT_RETURN_IF_ERROR(WriteAll(file.get(), input, "stdin"));
  if (lseek(file.get(), 0, SEEK_SET) != 0) return ErrnoStatus("cannot rewind stdin");
  return file;
}

// Collects both streams until the child itself has ended; false when the deadline passes first.
bool Collect(const Child& child, int out, int err, size_t limit, absl::Time deadline, RunResult& result) {
  fcntl(out, F_SETFL, O_NONBLOCK);
  fcntl(err, F_SETFL, O_NONBLOCK);
  pollfd sources[3] = {{child.pidfd(), POLLIN, 0}, {out, POLLIN, 0}, {err, POLLIN, 0}};
  while (true) {
    const int ready = poll(sources, 3, PollTimeout(deadline));
    if (ready < 0 && errno != EINTR) return false;
    if (sources[1].fd >= 0 && !Drain(out, limit, result.out, result.truncated)) sources[1].fd = -1;
    if (sources[2].fd >= 0 && !Drain(err, limit, result.err, result.truncated)) sources[2].fd = -1;
    // The streams were drained after poll saw the end, so all that the child wrote itself is in.
    if (ready > 0 && sources[0].revents != 0) return true;
    if (SteadyNow() >= deadline) return false;
  }
}

}  // namespace

std::string ExitStatus::ToString() const {
  if (signal != 0) return absl::StrCat("killed by signal ", signal, " (", strsignal(signal), ")");
  return absl::StrCat("exit status ", code);
}

absl::StatusOr<Child> Child::Spawn(const std::vector<std::string>& argv, const SpawnOptions& options) {
  GODWIT_ASSIGN_OR_RETURN(const Prepared prepared, Prepare(argv, options));
  UniqueFd report, report_write;
  GODWIT_RETURN_IF_ERROR(MakePipe(report, report_write));
  // No handler of this process may run in the child.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = fork();
  if (pid == 0) RunChild(prepared, options, report_write.get());
  const int fork_error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return ErrnoStatus(fork_error, absl::StrCat("cannot run ", argv[0], ": fork"));
  report_write.Reset();

  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  const int pidfd_error = errno;
  Child child(pid, std::move(pidfd));
  if (!child.pidfd_.ok())
    return ErrnoStatus(pidfd_error, absl::StrCat("cannot watch ", argv[0], ": pidfd_open"));
  Failure failure;
  ssize_t n;
  do n = read(report.get(), &failure, sizeof failure);
  while (n < 0 && errno == EINTR);
  if (n == sizeof failure) {
    return ErrnoStatus(failure.error, absl::StrCat("cannot run ", argv[0], ": ", StepName(failure.step)));
  }
  return child;
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      ended_(std::exchange(other.ended_, std::nullopt)) {}

Child& Child::operator=(Child&& other) noexcept {
  if (this != &other) {
    KillAndReap();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
    ended_ = std::exchange(other.ended_, std::nullopt);
  }
  return *this;
}

Child::~Child() { KillAndReap(); }

void Child::KillAndReap() {
  if (pid_ < 0 || ended_.has_value()) return;
  kill(-pid_, SIGKILL);
  kill(pid_, SIGKILL);  // it may not have its own group yet
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

absl::StatusOr<ExitStatus> Child::Wait(absl::Duration limit) {
  if (ended_.has_value()) return *ended_;
  if (pid_ < 0) return absl::FailedPreconditionError("cannot wait for a child that was released");
  const absl::Time deadline = SteadyNow() + limit;
  while (true) {
    pollfd source = {pidfd_.get(), POLLIN, 0};
    const int ready = poll(&source, 1, PollTimeout(deadline));
    if (ready > 0) break;
    if (ready < 0 && errno != EINTR) return ErrnoStatus("cannot wait for a child");
    if (SteadyNow() >= deadline)
      return absl::DeadlineExceededError(
          absl::StrCat("process ", pid_, " still runs after ", absl::FormatDuration(limit)));
  }
  int raw = 0;
  while (waitpid(pid_, &raw, 0) < 0) {
    if (errno != EINTR) return ErrnoStatus(absl::StrCat("cannot learn how process ", pid_, " ended"));
  }
  ended_ = WIFSIGNALED(raw) ? ExitStatus{0, WTERMSIG(raw)} : ExitStatus{WEXITSTATUS(raw), 0};
  return *ended_;
}

absl::Status Child::Signal(int signal) {
  if (pid_ < 0 || ended_.has_value()) return absl::OkStatus();
  if (kill(-pid_, signal) == 0 || errno == ESRCH) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("cannot send signal ", signal, " to process group ", pid_));
}

pid_t Child::Release() {
  pidfd_.Reset();
  return std::exchange(pid_, -1);
}

absl::StatusOr<RunResult> Run(const std::vector<std::string>& argv, const RunOptions& options) {
  const absl::Time deadline = SteadyNow() + options.limit;
  UniqueFd out, out_write, err, err_write;
  GODWIT_RETURN_IF_ERROR(MakePipe(out, out_write));
  GODWIT_RETURN_IF_ERROR(MakePipe(err, err_write));
  SpawnOptions spawn = options.spawn;
  UniqueFd input;
  if (!options.input.empty()) {
    GODWIT_ASSIGN_OR_RETURN(input, InputFile(options.input));
    spawn.stdin_fd = input.get();
  }
  spawn.stdout_fd = out_write.get();
  spawn.stderr_fd = err_write.get();
  GODWIT_ASSIGN_OR_RETURN(Child child, Child::Spawn(argv, spawn));
  out_write.Reset();
  err_write.Reset();
  RunResult result;
  if (!Collect(child, out.get(), err.get(), options.max_output, deadline, result)) {
    return absl::DeadlineExceededError(absl::StrCat("`", absl::StrJoin(argv, " "), "` did not end within ",
                                                    absl::FormatDuration(options.limit), " and was killed"));
  }
  GODWIT_ASSIGN_OR_RETURN(result.status, child.Wait(absl::InfiniteDuration()));
  return result;
}

absl::StatusOr<std::string> RunOrError(const std::vector<std::string>& argv, const RunOptions& options) {
  GODWIT_ASSIGN_OR_RETURN(RunResult result, Run(argv, options));
  if (result.status.ok()) return std::move(result.out);
  constexpr size_t kQuoted = 2048;  // the end tells more than the beginning
  if (result.err.size() > kQuoted) result.err.erase(0, result.err.size() - kQuoted);
  return absl::InternalError(
      absl::StrCat("`", absl::StrJoin(argv, " "), "` failed (", result.status.ToString(), "): ", result.err));
}

}  // namespace godwit
