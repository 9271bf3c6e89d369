// SPDX-License-Identifier: Apache-2.0
#include "agent/install/install.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/api/host_protocol.h"
#include "agent/install/containerd_config.h"
#include "agent/install/host_tree.h"
#include "agent/install/in_flight.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::install {
namespace {

constexpr absl::Duration kLookAgain = absl::Seconds(1);

// One installer at a time on a node: an old pod's and a new pod's may overlap.
absl::StatusOr<UniqueFd> Lock(const Options& options) {
  GODWIT_RETURN_IF_ERROR(MakeFolders(options.run));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd lock, OpenFile(options.run + "/install.lock", O_RDWR | O_CREAT));
  if (flock(lock.get(), LOCK_EX) != 0) return ErrnoStatus("cannot lock the installation");
  return lock;
}

std::string Binary(const Options& options) { return options.folder + "/bin/godwit-runtime"; }
std::string DropInFile(const Options& options) {
  return absl::StrCat(options.drop_in_folder, "/godwit.toml");
}
// The containerd that ran when the drop-in was changed: as long as it runs, it does not know the change.
std::string StaleFile(const Options& options) { return options.run + "/containerd-before-change"; }

absl::StatusOr<ConfigDump> Dump(const Options& options, Containerd& containerd, std::string* text = nullptr) {
  absl::StatusOr<std::string> dump = containerd.ConfigDump();
  if (!dump.ok()) return Annotate(dump.status(), "cannot read containerd's configuration");
  if (text != nullptr) *text = *dump;
  return ParseConfigDump(*dump, options.handler);
}

// The file of the drop-in, and how it was before.
class DropIn {
 public:
  explicit DropIn(const Options& options) : options_(options), path_(DropInFile(options)) {}

  // OK when it is ours or absent; true when the text is new.
  absl::StatusOr<bool> Write(const std::string& text) {
    absl::StatusOr<std::string> old = ReadFile(path_);
    if (!old.ok() && !absl::IsNotFound(old.status())) return old.status();
    if (old.ok() && !absl::StartsWith(*old, kDropInMark)) {
      return absl::FailedPreconditionError(absl::StrCat(
          path_, " was not written by Godwit: move it away, or give another containerd.dropInFolder"));
    }
    before_ = old.ok() ? *old : "";
    if (before_ == text) return false;
    if (!FileExists(options_.drop_in_folder)) {
      GODWIT_RETURN_IF_ERROR(MakeFolders(options_.drop_in_folder));
      GODWIT_RETURN_IF_ERROR(WriteFileDurably(MadeFolderFile(), "", 0644));
    }
    GODWIT_RETURN_IF_ERROR(WriteFileDurably(path_, text, 0644));
    return true;
  }
  absl::Status TakeBack() {
    if (!before_.empty()) return WriteFileDurably(path_, before_, 0644);
    return Remove();
  }
  absl::Status Remove() {
    absl::StatusOr<std::string> text = ReadFile(path_);
    if (text.ok() && !absl::StartsWith(*text, kDropInMark)) return absl::OkStatus();
    GODWIT_RETURN_IF_ERROR(RemoveTree(path_));
    if (FileExists(MadeFolderFile())) {
      rmdir(options_.drop_in_folder.c_str());  // stays when somebody put something there
      return RemoveTree(MadeFolderFile());
    }
    return absl::OkStatus();
  }
  bool Exists() const {
    absl::StatusOr<std::string> text = ReadFile(path_);
    return text.ok() && absl::StartsWith(*text, kDropInMark);
  }
  const std::string& path() const { return path_; }

 private:
  std::string MadeFolderFile() const { return options_.folder + "/made-drop-in-folder"; }

  const Options& options_;
  const std::string path_;
  std::string before_;
};

// containerd reads the drop-in, and nothing but the handler has come by it.
absl::Status CheckMerged(const Options& options, const ConfigDump& before, const ConfigDump& after,
                         const DropIn& drop_in) {
  if (after.handler_binary != Binary(options)) {
    const std::string pattern = options.drop_in_folder + "/*.toml";
    return absl::FailedPreconditionError(absl::StrCat(
        "containerd does not read ", drop_in.path(), ": ", options.config,
        FileExists(options.config) ? " must"
                                   : " is not there, and this containerd has no default for it; it must",
        " hold the line  imports = [\"", pattern, "\"]  before its first table"));
  }
  const std::vector<std::string> differences = Differences(before, after);
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      drop_in.path(), " would change other settings of containerd: ", absl::StrJoin(differences, "; ")));
}

absl::StatusOr<std::string> RuntimeJson(const ConfigDump& dump, Containerd& containerd) {
  const std::string name = dump.ordinary.binary.empty() ? "runc" : dump.ordinary.binary;
  GODWIT_ASSIGN_OR_RETURN(const std::string runtime, containerd.FindProgram(name));
  return json::Encode(agent_api::RuntimeConfig{
      .runtime = runtime, .cgroup_root = "/sys/fs/cgroup", .systemd_cgroup = dump.ordinary.systemd_cgroup});
}

// Whether the containerd that runs has `handler` exactly when `wanted`, as the drop-in says now.
absl::StatusOr<bool> IsLive(const Options& options, Containerd& containerd, const std::string& socket,
                            bool wanted) {
  GODWIT_ASSIGN_OR_RETURN(const ContainerdProcess process, containerd.Process());
  absl::StatusOr<std::string> stale = ReadFile(StaleFile(options));
  if (stale.ok() && *stale == process.ToString()) return false;
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> handlers, containerd.Handlers(socket));
  return (std::find(handlers.begin(), handlers.end(), options.handler) != handlers.end()) == wanted;
}

absl::Status RememberStale(const Options& options, Containerd& containerd) {
  absl::StatusOr<ContainerdProcess> process = containerd.Process();
  if (!process.ok()) return absl::OkStatus();  // it will read the change when it comes
  return WriteFileDurably(StaleFile(options), process->ToString(), 0600);
}

absl::Status WaitUntilQuiet(const Options& options, Clock& clock) {
  const absl::Duration deadline = clock.Monotonic() + options.quiet_limit;
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(const std::string what, WhatIsInFlight(options.state + "/permits", options.proc));
    if (what.empty()) return absl::OkStatus();
    if (clock.Monotonic() >= deadline) {
      return absl::UnavailableError(absl::StrCat(
          "containerd must be restarted for the runtime handler, but the node is busy for ",
          absl::FormatDuration(options.quiet_limit), " already: ", what, "; this is tried again"));
    }
    clock.SleepFor(kLookAgain);
  }
}

// Waits until a containerd that was restarted answers, with or without the handler as `wanted`.
absl::Status WaitUntilBack(const Options& options, Containerd& containerd, const std::string& socket,
                           bool wanted, Clock& clock) {
  const absl::Duration deadline = clock.Monotonic() + options.back_limit;
  while (true) {
    const absl::StatusOr<bool> live = IsLive(options, containerd, socket, wanted);
    if (live.ok() && *live) return RemoveTree(StaleFile(options));
    if (clock.Monotonic() >= deadline) {
      const std::string why = live.ok() ? absl::StrCat("it does ", wanted ? "not know" : "still know",
                                                       " the handler ", options.handler)
                                        : std::string(live.status().message());
      return absl::InternalError(absl::StrCat(
          "containerd was restarted, but ", absl::FormatDuration(options.back_limit), " later ", why,
          " (does the restart command restart the containerd whose configuration is ", options.config, "?)"));
    }
    clock.SleepFor(absl::Milliseconds(200));
  }
}

absl::Status Restart(const Options& options, Containerd& containerd, const std::string& socket, bool wanted,
                     Clock& clock) {
  GODWIT_RETURN_IF_ERROR(WaitUntilQuiet(options, clock));
  GODWIT_RETURN_IF_ERROR(containerd.Restart());
  absl::Status back = WaitUntilBack(options, containerd, socket, wanted, clock);
  if (back.ok() || !wanted) return back;
  // A node that serves without the handler is better than one that does not serve.
  GODWIT_RETURN_IF_ERROR(DropIn(options).Remove());
  return Annotate(back, containerd.Restart().ok() ? "took the handler back and restarted containerd once more"
                                                  : "took the handler back");
}

}  // namespace

absl::StatusOr<Report> Install(const Options& options, Containerd& containerd, Clock& clock) {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd lock, Lock(options));
  std::string text;
  GODWIT_ASSIGN_OR_RETURN(const ConfigDump before, Dump(options, containerd, &text));
  GODWIT_ASSIGN_OR_RETURN(const std::string runtime_json, RuntimeJson(before, containerd));
  GODWIT_ASSIGN_OR_RETURN(const std::string version,
                          InstallTree(options.source, options.folder, runtime_json));
  Report report;
  report.lines.push_back(absl::StrCat(options.folder, " holds version ", version));
  GODWIT_RETURN_IF_ERROR(RemoveOldVersions(options.folder, options.proc));

  DropIn drop_in(options);
  GODWIT_ASSIGN_OR_RETURN(const std::string wanted, WriteDropIn(text, options.handler, Binary(options)));
  GODWIT_ASSIGN_OR_RETURN(const bool changed, drop_in.Write(wanted));
  absl::StatusOr<ConfigDump> after = Dump(options, containerd);
  absl::Status merged = after.ok() ? CheckMerged(options, before, *after, drop_in) : after.status();
  if (!merged.ok()) {
    if (changed) GODWIT_RETURN_IF_ERROR(drop_in.TakeBack());
    return merged;
  }
  if (changed) {
    GODWIT_RETURN_IF_ERROR(RememberStale(options, containerd));
    report.lines.push_back(
        absl::StrCat("wrote ", drop_in.path(), ", a copy of the handler ", before.ordinary.name));
  }
  GODWIT_ASSIGN_OR_RETURN(report.handler_live, IsLive(options, containerd, after->socket, true));
  if (report.handler_live) return report;
  if (!options.may_restart) {
    report.lines.push_back(
        absl::StrCat("containerd does not know the handler ", options.handler,
                     " yet: restart it when it suits you; until then the node takes no pods"));
    return report;
  }
  GODWIT_RETURN_IF_ERROR(Restart(options, containerd, after->socket, true, clock));
  report.handler_live = true;
  report.lines.push_back(absl::StrCat("restarted containerd, which now knows the handler ", options.handler));
  return report;
}

absl::StatusOr<Report> Uninstall(const Options& options, Containerd& containerd, Clock& clock) {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd lock, Lock(options));
  Report report;
  GODWIT_RETURN_IF_ERROR(RemoveTree(options.state + "/identity"));  // no private key without an agent
  // Each stays while one of them is in it, and where there was none.
  rmdir(options.guards.c_str());
  rmdir(options.pagers.c_str());
  GODWIT_ASSIGN_OR_RETURN(const int tasks, TasksOfRuntime(options.tasks, Binary(options)));
  if (tasks > 0) {
    GODWIT_RETURN_IF_ERROR(KeepRuntimeOnly(options.folder));
    report.handler_live = true;
    report.lines.push_back(absl::StrCat("kept ", Binary(options), " and the runtime handler ",
                                        options.handler, ": ", tasks,
                                        " sandboxes and containers of this node use them"));
    return report;
  }
  DropIn drop_in(options);
  if (drop_in.Exists()) {
    GODWIT_RETURN_IF_ERROR(drop_in.Remove());
    GODWIT_RETURN_IF_ERROR(RememberStale(options, containerd));
    report.lines.push_back(absl::StrCat("removed ", drop_in.path()));
  }
  GODWIT_ASSIGN_OR_RETURN(const ConfigDump dump, Dump(options, containerd));
  GODWIT_ASSIGN_OR_RETURN(const bool live, IsLive(options, containerd, dump.socket, false));
  if (!live && options.may_restart) {
    GODWIT_RETURN_IF_ERROR(Restart(options, containerd, dump.socket, false, clock));
    report.lines.push_back("restarted containerd");
  } else if (!live) {
    report.lines.push_back(
        absl::StrCat("containerd knows the handler ", options.handler, " until its next restart"));
  }
  for (const char* part : {"/permits", agent_api::kHoldsFolder, "/migrations", "/restores", "/journal"}) {
    GODWIT_RETURN_IF_ERROR(RemoveTree(options.state + part));
  }
  rmdir((options.state + "/checkpoints").c_str());
  if (rmdir(options.state.c_str()) != 0 && FileExists(options.state)) {
    report.lines.push_back(absl::StrCat("kept ", options.state, ", which holds archives of checkpoints"));
  }
  GODWIT_RETURN_IF_ERROR(RemoveTree(options.folder));
  GODWIT_RETURN_IF_ERROR(RemoveTree(options.run));
  report.lines.push_back(absl::StrCat("removed ", options.folder));
  return report;
}

}  // namespace godwit::install
