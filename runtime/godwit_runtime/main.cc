// SPDX-License-Identifier: Apache-2.0
// godwit-runtime: the OCI runtime behind RuntimeClass `godwit`. It becomes the node's ordinary runtime, with
// its arguments unchanged, except for `create` of a container that is to be restored and `start` of one that
// was.
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "runtime/godwit_runtime/create.h"

namespace godwit::godwit_runtime {
namespace {

constexpr int kFailure = 1;  // runc's

// The folder that the installer made: this program is in its bin/.
absl::StatusOr<std::string> InstallFolder() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  if (size <= 0 || size == static_cast<ssize_t>(sizeof(path)))
    return ErrnoStatus("cannot read /proc/self/exe");
  const std::string self(path, static_cast<size_t>(size));
  const std::string bin = self.substr(0, self.rfind('/'));
  return bin.substr(0, bin.rfind('/'));
}

absl::StatusOr<agent_api::RuntimeConfig> ReadConfig(const std::string& install) {
  const std::string path = absl::StrCat(install, "/etc/runtime.json");
  absl::StatusOr<std::string> text = ReadFile(path, 64u << 10);
  if (!text.ok())
    return Annotate(text.status(),
                    "godwit-runtime is not installed whole (the agent's init container does that)");
  absl::StatusOr<agent_api::RuntimeConfig> config = json::Decode<agent_api::RuntimeConfig>(*text);
  if (!config.ok()) return Annotate(config.status(), path);
  if (config->runtime.empty() || config->runtime.front() != '/') {
    return absl::InvalidArgumentError(absl::StrCat(path, ": runtime must be an absolute path"));
  }
  if (config->cgroup_root.empty()) config->cgroup_root = "/sys/fs/cgroup";
  return config;
}

// Does not return when it succeeds.
absl::Status Become(const std::string& runtime, char** argv) {
  argv[0] = const_cast<char*>(runtime.c_str());
  execv(runtime.c_str(), argv);
  return ErrnoStatus(absl::StrCat("cannot run the node's runtime ", runtime));
}

absl::Status Run(const CommandLine& line, const ErrorLog& log, absl::Time began, char** argv) {
  GODWIT_ASSIGN_OR_RETURN(const std::string install, InstallFolder());
  GODWIT_ASSIGN_OR_RETURN(const agent_api::RuntimeConfig config, ReadConfig(install));
  if (line.command == "start" && IsRestored(line)) return absl::OkStatus();
  if (line.command == "kill") {
    if (absl::Status killed = KillIfStandingStill(line, config); !killed.ok()) log.Info(killed.message());
  }
  if (line.command == "create") {
    const Places places = {.criu_folder = absl::StrCat(install, "/criu"),
                           .pager = absl::StrCat(install, "/bin/godwit-pager")};
    GODWIT_ASSIGN_OR_RETURN(const Outcome outcome, Create(line, config, places, began, log));
    if (outcome == Outcome::kRestored) return absl::OkStatus();
  }
  return Become(config.runtime, argv);
}

int Main(int argc, char** argv) {
  const absl::Time began = SteadyNow();
  const absl::StatusOr<CommandLine> line = ParseCommandLine(std::vector<std::string>(argv + 1, argv + argc));
  if (!line.ok()) {
    ErrorLog("", false).Error(line.status().message());
    return kFailure;
  }
  const ErrorLog log(line->log, line->log_json);
  const absl::Status status = Run(*line, log, began, argv);
  if (status.ok()) return 0;
  log.Error(status.message());
  return kFailure;
}

}  // namespace
}  // namespace godwit::godwit_runtime

int main(int argc, char** argv) { return godwit::godwit_runtime::Main(argc, argv); }
