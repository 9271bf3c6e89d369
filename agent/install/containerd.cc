// SPDX-License-Identifier: Apache-2.0
#include "agent/install/containerd.h"

#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/install/cri_status.h"
#include "agent/install/host_tree.h"
#include "base/file.h"
#include "base/process.h"
#include "base/status.h"

namespace godwit::install {
namespace {

constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// The file that a command line like "containerd -c FILE" or "containerd --config=FILE" names.
std::string ConfigOf(const std::vector<std::string>& arguments) {
  for (size_t i = 1; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    const bool alone = argument == "-c" || argument == "--config" || argument == "-config";
    if (alone && i + 1 < arguments.size()) return arguments[i + 1];
    if (absl::ConsumePrefix(&argument, "--config=") || absl::ConsumePrefix(&argument, "-c="))
      return std::string(argument);
  }
  return "/etc/containerd/config.toml";
}

absl::StatusOr<std::vector<std::string>> ReadStrings(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::vector<std::string> strings = absl::StrSplit(text, '\0');
  if (!strings.empty() && strings.back().empty()) strings.pop_back();
  return strings;
}

// Field 22 of /proc/PID/stat (proc_pid_stat(5)); the command's name in parentheses may hold anything.
absl::StatusOr<int64_t> StartOf(const std::string& folder) {
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(folder + "/stat"));
  const std::vector<std::string> fields =
      absl::StrSplit(text.substr(text.rfind(')') + 1), ' ', absl::SkipEmpty());
  int64_t started = 0;
  if (fields.size() < 20 || !absl::SimpleAtoi(fields[19], &started)) {
    return absl::InternalError(absl::StrCat("cannot read ", folder, "/stat"));
  }
  return started;
}

class Host final : public Containerd {
 public:
  Host(std::string config, std::string restart_command)
      : config_(std::move(config)), restart_command_(std::move(restart_command)) {}

  absl::StatusOr<ContainerdProcess> Process() override { return FindContainerd("/proc", config_); }

  absl::StatusOr<std::string> ConfigDump() override {
    return RunOrError({Program(), "--config", config_, "config", "dump"},
                      {.spawn = {.env = Environment()}, .limit = absl::Seconds(30)});
  }

  absl::StatusOr<std::string> FindProgram(const std::string& name) override {
    if (absl::StartsWith(name, "/")) return name;
    for (absl::string_view folder : absl::StrSplit(Path(), ':', absl::SkipEmpty())) {
      const std::string path = absl::StrCat(folder, "/", name);
      if (access(path.c_str(), X_OK) == 0) return path;
    }
    return absl::NotFoundError(absl::StrCat("no program ", name, " in containerd's PATH ", Path()));
  }

  absl::StatusOr<std::vector<std::string>> Handlers(const std::string& socket) override {
    return RuntimeHandlers(socket, absl::Seconds(5));
  }

  absl::Status Restart() override {
    SpawnOptions spawn = {.env = Environment(), .new_session = true};
    // Out of this container's cgroup, for a command that starts containerd itself: it would end with this
    // pod.
    absl::StatusOr<std::string> cgroup = ReadFile("/proc/1/cgroup");
    for (absl::string_view line : absl::StrSplit(cgroup.ok() ? *cgroup : "", '\n')) {
      if (absl::ConsumePrefix(&line, "0::") && FileExists("/sys/fs/cgroup/cgroup.procs")) {
        spawn.cgroup = absl::StrCat("/sys/fs/cgroup", line);
      }
    }
    const absl::Status status =
        RunOrError({"/bin/sh", "-c", restart_command_}, {.spawn = spawn, .limit = absl::Minutes(2)}).status();
    return Annotate(status, "cannot restart containerd");
  }

 private:
  std::string Folder() {
    absl::StatusOr<ContainerdProcess> process = Process();
    return process.ok() ? absl::StrCat("/proc/", process->pid) : "";
  }
  std::string Program() {
    const std::string program = ReadLink(Folder() + "/exe");
    return program.empty() || access(program.c_str(), X_OK) != 0 ? "containerd" : program;
  }
  std::string Path() {
    absl::StatusOr<std::vector<std::string>> environment = ReadStrings(Folder() + "/environ");
    if (environment.ok()) {
      for (absl::string_view variable : *environment) {
        if (absl::ConsumePrefix(&variable, "PATH=")) return std::string(variable);
      }
    }
    return kDefaultPath;
  }
  std::vector<std::string> Environment() {
    return {absl::StrCat("PATH=", Path()), "HOME=/root", "LANG=C.UTF-8"};
  }

  const std::string config_;
  const std::string restart_command_;
};

}  // namespace

std::string ContainerdProcess::ToString() const { return absl::StrCat(pid, " ", started); }

absl::StatusOr<ContainerdProcess> FindContainerd(const std::string& proc, const std::string& config) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(proc));
  const std::string host = ReadLink(proc + "/1/ns/mnt");
  for (const std::string& name : names) {
    ContainerdProcess process;
    const std::string folder = absl::StrCat(proc, "/", name);
    if (!absl::SimpleAtoi(name, &process.pid)) continue;
    absl::StatusOr<std::string> command = ReadFile(folder + "/comm");
    if (!command.ok() || absl::StripAsciiWhitespace(*command) != "containerd") continue;
    if (ReadLink(folder + "/ns/mnt") != host) continue;
    absl::StatusOr<std::vector<std::string>> arguments = ReadStrings(folder + "/cmdline");
    if (!arguments.ok() || arguments->empty() || ConfigOf(*arguments) != config) continue;
    absl::StatusOr<int64_t> started = StartOf(folder);
    if (!started.ok()) continue;  // it ended meanwhile
    process.started = *started;
    return process;
  }
  return absl::UnavailableError(
      absl::StrCat("no containerd with the configuration ", config,
                   " runs on this node (with another one, give the chart's "
                   "containerd.config; another container runtime is set up by hand)"));
}

std::unique_ptr<Containerd> HostContainerd(std::string config, std::string restart_command) {
  return std::make_unique<Host>(std::move(config), std::move(restart_command));
}

}  // namespace godwit::install
