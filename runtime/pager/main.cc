// SPDX-License-Identifier: Apache-2.0
// godwit-pager --spec FILE: reads a PagerSpec, becomes a process of its own, listens for CRIU, and returns to
// its parent: exit code 0 when it serves, else 1 and the reason on stderr. Where its input is a pipe, that is
// its leash: it ends when the last writer closes it before CRIU has come.
// godwit-pager --resume LEDGER: what a keeper becomes when its pager has died.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/api/host_protocol.h"
#include "agent/runtime/freezer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock_order.h"
#include "base/log.h"
#include "base/socket.h"
#include "base/status.h"
#include "runtime/detached/detached.h"
#include "runtime/pager/agent_pages.h"
#include "runtime/pager/ledger.h"
#include "runtime/pager/server.h"

namespace godwit::pager {
namespace {

using agent_api::PagerSpec;

constexpr char kBinary[] = "godwit-pager";

absl::StatusOr<PagerSpec> DecodeSpec(absl::string_view text) {
  GODWIT_ASSIGN_OR_RETURN(PagerSpec spec, json::Decode<PagerSpec>(text));
  const bool plain = std::all_of(spec.container_id.begin(), spec.container_id.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_';
  });
  if (!plain || spec.container_id.empty())
    return absl::InvalidArgumentError("containerID must be of letters, digits, '-' and '_'");
  for (const std::string& path : {spec.socket, spec.pages_socket, spec.cgroup, spec.status, spec.log}) {
    if (path.empty() || path[0] != '/')
      return absl::InvalidArgumentError(absl::StrCat("\"", path, "\" is no absolute path"));
  }
  return spec;
}

absl::StatusOr<PagerSpec> ReadSpec(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, size_t{1} << 16));
  absl::StatusOr<PagerSpec> spec = DecodeSpec(text);
  return spec.ok() ? spec : Annotate(spec.status(), path);
}

// The last to be killed when memory is short, and with room for the descriptors of many tasks.
void ClaimResources() {
  WriteKernelFile("/proc/self/oom_score_adj", "-1000").IgnoreError();  // it fills without, too
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 1 << 18);
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

UniqueFd TakeLeash() {
  struct stat info;
  const bool pipe = fstat(STDIN_FILENO, &info) == 0 && S_ISFIFO(info.st_mode);
  return UniqueFd(pipe ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : -1);
}

absl::Status Serve(const PagerSpec& spec, const detached::Ready& ready) {
  UniqueFd leash = TakeLeash();
  GODWIT_ASSIGN_OR_RETURN(
      const std::unique_ptr<detached::OwnCgroup> own_cgroup,
      detached::OwnCgroup::Enter(spec.cgroup, agent_api::kPagersFamily, spec.container_id));
  ClaimResources();
  GODWIT_RETURN_IF_ERROR(AskForPages(spec).status());  // better refused now than in the freeze
  GODWIT_RETURN_IF_ERROR(MakeFolders(std::filesystem::path(spec.status).parent_path(), 0755));
  GODWIT_RETURN_IF_ERROR(detached::OpenLog(spec.log));
  InitLog(kBinary);
  InitLockOrder();
  GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<Ledger> ledger, Ledger::Make(json::Encode(spec)));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenUnix(spec.socket));
  GODWIT_ASSIGN_OR_RETURN(
      const std::unique_ptr<Server> server,
      Server::Make(spec, std::move(ledger), {.leash = std::move(leash), .listener = std::move(listener)}));
  LOG(INFO)
      << Log("waits for CRIU").With("migration", spec.migration_uid).With("container", spec.container_id);
  if (absl::Status told = ready(); !told.ok()) {
    unlink(spec.status.c_str());
    return told;
  }
  const absl::Status served = server->Run();
  LOG(INFO) << Log("done").With("migration", spec.migration_uid);
  return served;
}

// Whether this is the end of a connection that was made to `path`.
bool ConnectedTo(int fd, const std::string& path) {
  sockaddr_un peer = {};
  socklen_t size = sizeof peer;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0 || peer.sun_family != AF_UNIX)
    return false;
  return path == absl::string_view(peer.sun_path, strnlen(peer.sun_path, sizeof peer.sun_path));
}

// What an earlier pager has left open: it listens at a socket, or CRIU is connected to one. Closes what is
// neither a socket nor in use: the leash too, which is no more than a help; and its connection to the agent,
// in the middle of whose lines it may have died.
absl::StatusOr<Links> TakeLinks(const PagerSpec& spec, const std::set<int>& in_use) {
  Links links;
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder("/proc/self/fd"));
  for (const std::string& name : names) {
    int fd = -1;
    if (!absl::SimpleAtoi(name, &fd) || fd < 3 || in_use.contains(fd)) continue;
    UniqueFd owned(fd);
    int listens = 0;
    socklen_t size = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) continue;
    if (ConnectedTo(fd, spec.pages_socket)) continue;
    (listens != 0 ? links.listener : links.criu) = std::move(owned);
  }
  return links;
}

absl::StatusOr<std::unique_ptr<Server>> TakeOver(const PagerSpec& spec, std::unique_ptr<Ledger> ledger) {
  std::set<int> in_use = ledger->Descriptors();
  in_use.insert(ledger->fd());
  GODWIT_ASSIGN_OR_RETURN(Links links, TakeLinks(spec, in_use));
  return Server::Make(spec, std::move(ledger), std::move(links));
}

// Nobody is left to answer for the container's memory: it must not run on.
void KillContainer(const PagerSpec& spec, const absl::Status& why) {
  absl::Status killed;
  do {
    LOG(ERROR) << Log("kills the container: nobody can fill its memory")
                      .With("migration", spec.migration_uid)
                      .With("container", spec.container_id)
                      .With(why);
    killed = runtime::KillCgroup(spec.cgroup, absl::Seconds(10));
  } while (!killed.ok());
}

absl::Status Resume(const PagerSpec& spec, std::unique_ptr<Ledger> ledger) {
  LOG(ERROR) << Log("goes on for a pager that has died").With("migration", spec.migration_uid);
  const absl::StatusOr<std::unique_ptr<Server>> server = TakeOver(spec, std::move(ledger));
  if (!server.ok()) {
    KillContainer(spec, server.status());
    return server.status();
  }
  // It is in that cgroup already, and is to remove it.
  const auto own_cgroup =
      detached::OwnCgroup::Enter(spec.cgroup, agent_api::kPagersFamily, spec.container_id);
  if (!own_cgroup.ok()) LOG(ERROR) << Log("leaves its cgroup behind").With(own_cgroup.status());
  const absl::Status served = (*server)->Run();
  LOG(INFO) << Log("done").With("migration", spec.migration_uid);
  return served;
}

int ResumeFrom(int ledger_fd) {
  InitLog(kBinary);
  InitLockOrder();
  absl::StatusOr<std::unique_ptr<Ledger>> ledger = Ledger::Open(UniqueFd(ledger_fd));
  const absl::StatusOr<PagerSpec> spec =
      ledger.ok() ? DecodeSpec((*ledger)->spec()) : absl::StatusOr<PagerSpec>(ledger.status());
  if (!spec.ok()) {
    LOG(ERROR) << Log("cannot go on for a pager that has died").With(spec.status());
    return 1;
  }
  return Resume(*spec, *std::move(ledger)).ok() ? 0 : 1;
}

int Main(const std::string& spec_path) {
  const absl::StatusOr<PagerSpec> spec = ReadSpec(spec_path);
  if (!spec.ok()) {
    fprintf(stderr, "%s: %s\n", kBinary, std::string(spec.status().message()).c_str());
    return 1;
  }
  return detached::Detach(kBinary, [&](const detached::Ready& ready) { return Serve(*spec, ready); });
}

}  // namespace
}  // namespace godwit::pager

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--version") == 0) {
    printf("godwit-pager %s\n", GODWIT_VERSION);
    return 0;
  }
  int ledger = -1;
  if (argc == 3 && strcmp(argv[1], "--resume") == 0 && absl::SimpleAtoi(argv[2], &ledger))
    return godwit::pager::ResumeFrom(ledger);
  if (argc != 3 || strcmp(argv[1], "--spec") != 0) {
    fprintf(stderr, "usage: godwit-pager --spec FILE\n");
    return 2;
  }
  return godwit::pager::Main(argv[2]);
}
