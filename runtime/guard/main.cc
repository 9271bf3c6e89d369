// SPDX-License-Identifier: Apache-2.0
// godwit-guard --spec FILE: reads a GuardSpec, becomes a process of its own (session, cgroup, no descriptors
// of its parent), listens, and returns to its parent: exit code 0 when it serves, else 1 and the reason on
// stderr.
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/api/host_protocol.h"
#include "agent/runtime/mounts.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/socket.h"
#include "base/status.h"
#include "runtime/guard/acts.h"
#include "runtime/guard/server.h"

namespace godwit::guard {
namespace {

absl::StatusOr<GuardSpec> ReadSpec(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, size_t{1} << 20));
  absl::StatusOr<GuardSpec> spec = json::Decode<GuardSpec>(text);
  if (!spec.ok()) return Annotate(spec.status(), path);
  const bool plain = std::all_of(spec->migration_uid.begin(), spec->migration_uid.end(),
                                 [](unsigned char c) { return std::isalnum(c) != 0 || c == '-'; });
  if (!plain || spec->migration_uid.empty() || spec->containers.empty() ||
      spec->freeze_limit <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": migrationUID must be of letters, digits and '-', containers not empty, freezeLimit above zero"));
  }
  return spec;
}

// The cgroup2 mount that the containers' cgroups lie in.
absl::StatusOr<std::string> CgroupRoot(const GuardSpec& spec) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<runtime::Mount> mounts, runtime::ReadMounts("/proc", getpid()));
  for (const runtime::Mount& mount : mounts) {
    if (mount.type == "cgroup2" && absl::StartsWith(spec.containers[0].cgroup, mount.point + "/"))
      return mount.point;
  }
  return absl::FailedPreconditionError(absl::StrCat("no cgroup2 mount holds ", spec.containers[0].cgroup));
}

// A cgroup of its own, outside of the agent's: ending the agent's container must not end this process.
class OwnCgroup {
 public:
  static absl::StatusOr<std::unique_ptr<OwnCgroup>> Enter(const GuardSpec& spec) {
    GODWIT_ASSIGN_OR_RETURN(const std::string root, CgroupRoot(spec));
    std::unique_ptr<OwnCgroup> own(new OwnCgroup(root, spec.migration_uid));
    GODWIT_RETURN_IF_ERROR(MakeFolders(own->folder_));
    GODWIT_RETURN_IF_ERROR(Annotate(WriteKernelFile(absl::StrCat(own->folder_, "/cgroup.procs"), "0"),
                                    "cannot leave the agent's cgroup"));
    return own;
  }
  // A process cannot remove the cgroup it is in: it goes up as far as it may first. Where the root takes no
  // processes (it is no real root, as in a container), the empty common folder stays.
  ~OwnCgroup() {
    if (!WriteKernelFile(absl::StrCat(root_, "/cgroup.procs"), "0").ok()) {
      WriteKernelFile(absl::StrCat(parent_, "/cgroup.procs"), "0").IgnoreError();
    }
    rmdir(folder_.c_str());
    rmdir(parent_.c_str());  // refused while another guard is in it
  }

 private:
  OwnCgroup(std::string root, absl::string_view name)
      : root_(std::move(root)),
        parent_(absl::StrCat(root_, "/godwit-guard")),
        folder_(absl::StrCat(parent_, "/", name)) {}
  std::string root_, parent_, folder_;
};

// Standard output and error to the log, input from nowhere.
absl::Status OpenLog(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd log, OpenFile(path, O_WRONLY | O_CREAT | O_APPEND, 0600));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd null, OpenFile("/dev/null", O_RDONLY));
  if (dup2(null.get(), 0) < 0 || dup2(log.get(), 1) < 0 || dup2(log.get(), 2) < 0)
    return ErrnoStatus("cannot redirect to the log");
  return absl::OkStatus();
}

// Readable when SIGTERM or SIGINT has come.
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

// Everything after the fork; `ready` is told when the socket listens.
absl::Status Serve(const GuardSpec& spec, int ready) {
  if (setsid() < 0) return ErrnoStatus("setsid");
  GODWIT_ASSIGN_OR_RETURN(const std::unique_ptr<OwnCgroup> own_cgroup, OwnCgroup::Enter(spec));
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd end_signal, EndSignal());
  GODWIT_ASSIGN_OR_RETURN(const std::unique_ptr<HostActs> acts, HostActs::Make(spec));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenUnix(spec.socket));
  GODWIT_RETURN_IF_ERROR(OpenLog(spec.log));
  InitLog("godwit-guard");
  LOG(INFO) << Log("guarding")
                   .With("migration", spec.migration_uid)
                   .With("containers", spec.containers.size())
                   .With("freezeLimit", spec.freeze_limit)
                   .With("journal", json::Name(acts->journaled()));
  GODWIT_RETURN_IF_ERROR(WriteAll(ready, "ok", "the parent's pipe"));
  close(ready);
  Server(spec, *acts, std::move(listener), end_signal.get()).Run();
  unlink(spec.socket.c_str());
  LOG(INFO) << Log("done").With("migration", spec.migration_uid);
  return absl::OkStatus();
}

int Main(const std::string& spec_path) {
  const absl::StatusOr<GuardSpec> spec = ReadSpec(spec_path);
  if (!spec.ok()) {
    fprintf(stderr, "godwit-guard: %s\n", std::string(spec.status().message()).c_str());
    return 1;
  }
  umask(0077);
  syscall(SYS_close_range, 3u, ~0u, 0u);
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0 || chdir("/") != 0) {
    perror("godwit-guard: pipe");
    return 1;
  }
  const pid_t child = fork();
  if (child < 0) {
    perror("godwit-guard: fork");
    return 1;
  }
  if (child == 0) {
    close(ready[0]);
    const absl::Status status = Serve(*spec, ready[1]);
    if (!status.ok())
      WriteAll(ready[1], status.message(), "the parent's pipe").IgnoreError();  // nobody else to tell
    return status.ok() ? 0 : 1;
  }
  close(ready[1]);
  std::string answer(2048, '\0');
  size_t size = 0;
  for (ssize_t n = 0;
       size < answer.size() && (n = read(ready[0], answer.data() + size, answer.size() - size)) > 0;)
    size += static_cast<size_t>(n);
  answer.resize(size);
  if (answer == "ok") return 0;
  fprintf(stderr, "godwit-guard: %s\n", answer.empty() ? "ended before it could serve" : answer.c_str());
  return 1;
}

}  // namespace
}  // namespace godwit::guard

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--version") == 0) {
    printf("godwit-guard %s\n", GODWIT_VERSION);
    return 0;
  }
  if (argc != 3 || strcmp(argv[1], "--spec") != 0) {
    fprintf(stderr, "usage: godwit-guard --spec FILE\n");
    return 2;
  }
  return godwit::guard::Main(argv[2]);
}
