// SPDX-License-Identifier: Apache-2.0
#include "agent/install/in_flight.h"

#include <algorithm>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/install/host_tree.h"
#include "agent/permits/permit_store.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::install {
namespace {

bool Has(const std::vector<absl::string_view>& words, absl::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Root's, and in the mount namespace of the host's first process: what the kernel says of it. Names,
// arguments and files of a process in a container are that container's to choose, and could hold up an
// installation.
bool IsTheHosts(const std::string& proc, const std::string& pid, const std::string& host) {
  if (host.empty() || ReadLink(absl::StrCat(proc, "/", pid, "/ns/mnt")) != host) return false;
  const absl::StatusOr<std::string> status = ReadFile(absl::StrCat(proc, "/", pid, "/status"));
  if (!status.ok()) return false;
  // "Uid:", the real, the effective, the saved and the file system's.
  for (absl::string_view line : absl::StrSplit(*status, '\n')) {
    if (!absl::ConsumePrefix(&line, "Uid:")) continue;
    const std::vector<absl::string_view> uids =
        absl::StrSplit(line, absl::ByAnyChar("\t "), absl::SkipEmpty());
    return uids.size() == 4 && uids[1] == "0";
  }
  return false;
}

// An OCI runtime that makes or restores a container, whatever its name, or a guard of a frozen pod.
std::string Describe(const std::vector<absl::string_view>& arguments) {
  if (arguments.empty()) return "";
  if (absl::EndsWith(arguments[0], "/godwit-guard")) return "a pod of this node is being dumped";
  const bool makes = (Has(arguments, "create") || Has(arguments, "restore")) && Has(arguments, "--bundle");
  return makes ? absl::StrCat("container ", arguments[arguments.size() - 2], " is being created") : "";
}

}  // namespace

absl::StatusOr<std::string> WhatIsInFlight(const std::string& permits, const std::string& proc) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<permits::StoredPermit> stored,
                          permits::PermitStore(permits).List());
  for (const permits::StoredPermit& permit : stored) {
    if (permit.permit.state == agent_api::PermitState::kWaiting) {
      return absl::StrCat("migration ", permit.permit.migration_uid, " to this node is under way");
    }
  }
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(proc));
  const std::string host = ReadLink(absl::StrCat(proc, "/1/ns/mnt"));
  for (const std::string& name : names) {
    int pid = 0;
    if (!absl::SimpleAtoi(name, &pid)) continue;
    absl::StatusOr<std::string> command = ReadFile(absl::StrCat(proc, "/", name, "/cmdline"));
    if (!command.ok()) continue;  // it ended meanwhile
    // Ends with a '\0', so that the last word is empty.
    const std::string what = Describe(absl::StrSplit(*command, '\0'));
    if (!what.empty() && IsTheHosts(proc, name, host)) return what;
  }
  return std::string();
}

absl::StatusOr<int> TasksOfRuntime(const std::string& tasks, const std::string& binary) {
  int count = 0;
  absl::StatusOr<std::vector<std::string>> spaces = ListFolder(tasks);
  if (absl::IsNotFound(spaces.status())) return 0;
  GODWIT_RETURN_IF_ERROR(spaces.status());
  for (const std::string& space : *spaces) {
    GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> bundles,
                            ListFolder(absl::StrCat(tasks, "/", space)));
    for (const std::string& bundle : bundles) {
      // Written by containerd's shim for runc.
      absl::StatusOr<std::string> runtime =
          ReadFile(absl::StrCat(tasks, "/", space, "/", bundle, "/runtime"));
      if (runtime.ok() && absl::StripAsciiWhitespace(*runtime) == binary) ++count;
    }
  }
  return count;
}

}  // namespace godwit::install
