// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/cgroup.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

constexpr int kMaxDepth = 32;

bool HasParts(absl::string_view path, absl::string_view part) {
  for (absl::string_view piece : absl::StrSplit(path, '/')) {
    if (piece == part) return true;
  }
  return false;
}

// systemd.slice(5): "a-b.slice" lies in "a.slice"; "-.slice" is the root.
absl::StatusOr<std::string> ExpandSlice(absl::string_view slice) {
  if (slice == "-.slice") return std::string();
  absl::string_view name = slice;
  if (!absl::ConsumeSuffix(&name, ".slice") || name.empty() || absl::StartsWith(name, "-") ||
      absl::EndsWith(name, "-") || absl::StrContains(name, "--") || absl::StrContains(name, "/")) {
    return absl::InvalidArgumentError(absl::StrCat("\"", slice, "\" is no systemd slice"));
  }
  std::string path, prefix;
  for (absl::string_view part : absl::StrSplit(name, '-')) {
    absl::StrAppend(&prefix, prefix.empty() ? "" : "-", part);
    absl::StrAppend(&path, "/", prefix, ".slice");
  }
  return path;
}

absl::Status Collect(const std::string& folder, int depth, std::vector<pid_t>& pids) {
  if (depth > kMaxDepth)
    return absl::ResourceExhaustedError(absl::StrCat("cgroups below ", folder, " are nested too deep"));
  GODWIT_ASSIGN_OR_RETURN(const std::string procs, ReadFile(absl::StrCat(folder, "/cgroup.procs")));
  for (absl::string_view line : absl::StrSplit(procs, '\n', absl::SkipEmpty())) {
    pid_t pid = 0;
    // 0 stands for a process outside of the reader's pid namespace.
    if (!absl::SimpleAtoi(line, &pid) || pid <= 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          folder, " holds a process that cannot be seen from here (is hostPID set for the agent?)"));
    }
    pids.push_back(pid);
  }
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return ErrnoStatus(absl::StrCat("list ", folder));
  absl::Status status;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
    status = Collect(absl::StrCat(folder, "/", entry->d_name), depth + 1, pids);
    if (absl::IsNotFound(status)) status = absl::OkStatus();  // removed meanwhile
    if (!status.ok()) break;
  }
  closedir(dir);
  return status;
}

}  // namespace

absl::StatusOr<std::string> ResolveCgroupsPath(absl::string_view cgroups_path) {
  if (absl::StartsWith(cgroups_path, "/")) {
    if (HasParts(cgroups_path, "..") || cgroups_path.size() < 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("linux.cgroupsPath \"", cgroups_path, "\" is no container's cgroup"));
    }
    return absl::StrCat("/", absl::StrJoin(absl::StrSplit(cgroups_path, '/', absl::SkipEmpty()), "/"));
  }
  const std::vector<absl::string_view> parts = absl::StrSplit(cgroups_path, ':');
  if (parts.size() != 3 || parts[2].empty() || HasParts(cgroups_path, "..") ||
      absl::StrContains(parts[2], "/") || absl::StrContains(parts[1], "/")) {
    return absl::InvalidArgumentError(absl::StrCat("linux.cgroupsPath \"", cgroups_path,
                                                   "\" is neither an absolute path nor slice:prefix:name"));
  }
  GODWIT_ASSIGN_OR_RETURN(const std::string slice, ExpandSlice(parts[0].empty() ? "system.slice" : parts[0]));
  if (absl::EndsWith(parts[2], ".slice")) return absl::StrCat(slice, "/", parts[2]);
  return absl::StrCat(slice, "/", parts[1], parts[1].empty() ? "" : "-", parts[2], ".scope");
}

absl::StatusOr<std::string> CgroupOfProcess(const std::string& proc, pid_t pid) {
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(absl::StrCat(proc, "/", pid, "/cgroup")));
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, "0::")) continue;
    if (HasParts(line, "..")) {
      return absl::FailedPreconditionError(absl::StrCat("process ", pid,
                                                        " lies outside of this cgroup namespace: ", line,
                                                        " (the agent needs the host's cgroup namespace)"));
    }
    return std::string(line);
  }
  return absl::FailedPreconditionError(
      absl::StrCat("process ", pid, " has no cgroup v2: Godwit needs cgroup v2 on the node"));
}

std::string PodCgroup(absl::string_view container_cgroup, absl::string_view pod_uid) {
  const size_t end = container_cgroup.rfind('/');
  if (pod_uid.empty() || end == absl::string_view::npos) return "";
  const absl::string_view folder = container_cgroup.substr(0, end);
  const absl::string_view name = folder.substr(folder.rfind('/') + 1);
  const bool is_pods =
      name == absl::StrCat("pod", pod_uid) ||
      absl::EndsWith(name, absl::StrCat("-pod", absl::StrReplaceAll(pod_uid, {{"-", "_"}}), ".slice"));
  return is_pods ? std::string(folder) : "";
}

absl::StatusOr<std::vector<pid_t>> ProcessesInCgroup(const std::string& folder) {
  std::vector<pid_t> pids;
  GODWIT_RETURN_IF_ERROR(Collect(folder, 0, pids));
  std::sort(pids.begin(), pids.end());
  pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
  return pids;
}

}  // namespace godwit::runtime
