// SPDX-License-Identifier: Apache-2.0
// godwit-guard --lift-fences NFT: lifts the fences of guards that died, and ends.
// godwit-guard --spec FILE: reads a GuardSpec, becomes a process of its own (session, cgroup, no descriptors
// of its parent), listens, and returns to its parent: exit code 0 when it serves, else 1 and the reason on
// stderr.
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/api/host_protocol.h"
#include "agent/runtime/fence.h"
#include "agent/runtime/mounts.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/socket.h"
#include "base/status.h"
#include "runtime/detached/detached.h"
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

absl::Status Serve(const GuardSpec& spec, const detached::Ready& ready) {
  GODWIT_ASSIGN_OR_RETURN(
      const std::unique_ptr<detached::OwnCgroup> own_cgroup,
      detached::OwnCgroup::Enter(spec.containers[0].cgroup, "godwit-guard", spec.migration_uid));
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd end_signal, detached::EndSignal());
  GODWIT_ASSIGN_OR_RETURN(const std::unique_ptr<HostActs> acts, HostActs::Make(spec));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenUnix(spec.socket));
  GODWIT_RETURN_IF_ERROR(detached::OpenLog(spec.log));
  InitLog("godwit-guard");
  LOG(INFO) << Log("guarding")
                   .With("migration", spec.migration_uid)
                   .With("containers", spec.containers.size())
                   .With("freezeLimit", spec.freeze_limit)
                   .With("journal", json::Name(acts->journaled()))
                   .With("fence", acts->fence_status().ToString());
  GODWIT_RETURN_IF_ERROR(ready());
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
  return detached::Detach("godwit-guard", [&](const detached::Ready& ready) { return Serve(*spec, ready); });
}

// A guard that lives is alone in its cgroup.
absl::Status LiftFences(const std::string& nft) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<runtime::Mount> mounts, runtime::ReadMounts("/proc", getpid()));
  std::vector<std::string> roots;
  for (const runtime::Mount& mount : mounts) {
    if (mount.type == "cgroup2") roots.push_back(mount.point);
  }
  if (roots.empty()) return absl::FailedPreconditionError("no cgroup2 is mounted");
  return runtime::LiftFencesLeft(nft, [&](const std::string& name) {
    return std::any_of(roots.begin(), roots.end(), [&](const std::string& root) {
      const auto events = ReadFile(absl::StrCat(root, "/godwit-guard/", name, "/cgroup.events"));
      return events.ok() && absl::StrContains(*events, "populated 1");
    });
  });
}

}  // namespace
}  // namespace godwit::guard

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--version") == 0) {
    printf("godwit-guard %s\n", GODWIT_VERSION);
    return 0;
  }
  if (argc == 3 && strcmp(argv[1], "--lift-fences") == 0) {
    const absl::Status lifted = godwit::guard::LiftFences(argv[2]);
    if (!lifted.ok()) fprintf(stderr, "godwit-guard: %s\n", std::string(lifted.message()).c_str());
    return lifted.ok() ? 0 : 1;
  }
  if (argc != 3 || strcmp(argv[1], "--spec") != 0) {
    fprintf(stderr, "usage: godwit-guard --spec FILE | --lift-fences NFT\n");
    return 2;
  }
  return godwit::guard::Main(argv[2]);
}
