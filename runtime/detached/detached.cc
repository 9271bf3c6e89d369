// SPDX-License-Identifier: Apache-2.0
#include "runtime/detached/detached.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/runtime/mounts.h"
#include "base/status.h"

namespace godwit::detached {
namespace {

constexpr int kEnterAttempts = 5;

// The cgroup2 mount that a folder lies in.
absl::StatusOr<std::string> CgroupMountOf(const std::string& folder) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<runtime::Mount> mounts, runtime::ReadMounts("/proc", getpid()));
  for (const runtime::Mount& mount : mounts) {
    if (mount.type == "cgroup2" && absl::StartsWith(folder, mount.point + "/")) return mount.point;
  }
  return absl::FailedPreconditionError(absl::StrCat("no cgroup2 mount holds ", folder));
}

// The exit code of the child. Who serves tells of its errors itself, once it was ready.
int Serve(const std::function<absl::Status(const Ready&)>& serve, UniqueFd parent) {
  const Ready ready = [&parent]() -> absl::Status {
    GODWIT_RETURN_IF_ERROR(WriteAll(parent.get(), "ok", "the parent's pipe"));
    parent.Reset();
    return absl::OkStatus();
  };
  const absl::Status status = setsid() < 0 ? ErrnoStatus("setsid") : serve(ready);
  if (!status.ok() && parent.ok())
    WriteAll(parent.get(), status.message(), "the parent's pipe").IgnoreError();  // nobody else to tell
  return status.ok() ? 0 : 1;
}

// What the child said until it closed its end.
std::string Answer(int child) {
  std::string answer(2048, '\0');
  size_t size = 0;
  for (ssize_t n = 0;
       size < answer.size() && (n = read(child, answer.data() + size, answer.size() - size)) > 0;)
    size += static_cast<size_t>(n);
  answer.resize(size);
  return answer;
}

}  // namespace

int Detach(absl::string_view binary, const std::function<absl::Status(const Ready&)>& serve) {
  const std::string name(binary);
  umask(0077);
  syscall(SYS_close_range, 3u, ~0u, 0u);
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0 || chdir("/") != 0) {
    perror((name + ": pipe").c_str());
    return 1;
  }
  const pid_t child = fork();
  if (child < 0) {
    perror((name + ": fork").c_str());
    return 1;
  }
  if (child == 0) {
    close(ready[0]);
    return Serve(serve, UniqueFd(ready[1]));
  }
  close(ready[1]);
  const std::string answer = Answer(ready[0]);
  if (answer == "ok") return 0;
  fprintf(stderr, "%s: %s\n", name.c_str(), answer.empty() ? "ended before it could serve" : answer.c_str());
  return 1;
}

OwnCgroup::OwnCgroup(std::string root, absl::string_view family, absl::string_view name)
    : root_(std::move(root)),
      parent_(absl::StrCat(root_, "/", family)),
      folder_(absl::StrCat(parent_, "/", name)) {}

absl::StatusOr<std::unique_ptr<OwnCgroup>> OwnCgroup::Enter(const std::string& beside,
                                                            absl::string_view family,
                                                            absl::string_view name) {
  GODWIT_ASSIGN_OR_RETURN(const std::string root, CgroupMountOf(beside));
  std::unique_ptr<OwnCgroup> own(new OwnCgroup(root, family, name));
  // Another of the same name, or the last of the family, may be removing the folder at this moment.
  absl::Status entered;
  for (int attempt = 0; attempt < kEnterAttempts; ++attempt) {
    entered = MakeFolders(own->folder_);
    if (entered.ok()) entered = WriteKernelFile(absl::StrCat(own->folder_, "/cgroup.procs"), "0");
    if (entered.ok()) return own;
  }
  return Annotate(entered, "cannot leave the cgroup of who started this");
}

// A process cannot remove the cgroup it is in: it goes up as far as it may first. Where the root takes no
// processes (it is no real root, as in a container), the empty common folder stays.
OwnCgroup::~OwnCgroup() {
  if (!WriteKernelFile(absl::StrCat(root_, "/cgroup.procs"), "0").ok()) {
    WriteKernelFile(absl::StrCat(parent_, "/cgroup.procs"), "0").IgnoreError();
  }
  rmdir(folder_.c_str());
  rmdir(parent_.c_str());  // refused while another of the family is in it
}

absl::Status OpenLog(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd log, OpenFile(path, O_WRONLY | O_CREAT | O_APPEND, 0600));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd null, OpenFile("/dev/null", O_RDONLY));
  if (dup2(null.get(), 0) < 0 || dup2(log.get(), 1) < 0 || dup2(log.get(), 2) < 0)
    return ErrnoStatus("cannot redirect to the log");
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> EndSignal() {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  UniqueFd fd(signalfd(-1, &ends, SFD_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus("signalfd");
  return fd;
}

}  // namespace godwit::detached
