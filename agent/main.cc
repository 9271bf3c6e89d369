// SPDX-License-Identifier: Apache-2.0
// godwit-agent [serve] [flags]      the agent of a node (default)
// godwit-agent install [flags]      prepares the node; uninstall undoes it; stay only waits (agent/install/commands.h)
#include <curl/curl.h>
#include <signal.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/log/log.h"
#include "absl/time/time.h"
#include "agent/daemon/daemon.h"
#include "agent/install/commands.h"
#include "base/log.h"

namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

ABSL_FLAG(std::string, node, Environment("NODE_NAME"), "this node's name in Kubernetes");
ABSL_FLAG(std::string, controller, Environment("GODWIT_CONTROLLER_ADDRESS"), "host:port of the controller's bootstrap service");
ABSL_FLAG(uint16_t, api_port, godwit::agent_api::kDefaultApiPort, "HTTPS, for the controller");
ABSL_FLAG(uint16_t, stream_port, godwit::agent_api::kDefaultStreamPort, "TLS, for other agents");
ABSL_FLAG(uint16_t, metrics_port, godwit::agent_api::kDefaultMetricsPort, "HTTP, for Prometheus and kubelet");
ABSL_FLAG(std::string, container_runtime_socket, "/run/containerd/containerd.sock", "CRI socket on the host");
ABSL_FLAG(std::string, kubelet_folder, "/var/lib/kubelet", "kubelet's root directory on the host");
ABSL_FLAG(std::string, token_file, "/var/run/secrets/godwit/token", "service account token with audience godwit-controller");
ABSL_FLAG(std::string, authority_file, "/etc/godwit/ca/ca.crt", "certificates that controller and agents are checked against");

namespace {

// SIGTERM and SIGINT end the agent. They are blocked in every thread and waited for in this one.
sigset_t BlockEndSignals() {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  return ends;
}

int Serve(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  const sigset_t ends = BlockEndSignals();
  signal(SIGPIPE, SIG_IGN);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  godwit::daemon::DaemonOptions options{.node = absl::GetFlag(FLAGS_node),
                                        .controller = absl::GetFlag(FLAGS_controller),
                                        .api_port = absl::GetFlag(FLAGS_api_port),
                                        .stream_port = absl::GetFlag(FLAGS_stream_port),
                                        .metrics_port = absl::GetFlag(FLAGS_metrics_port),
                                        .container_runtime_socket = absl::GetFlag(FLAGS_container_runtime_socket),
                                        .kubelet_folder = absl::GetFlag(FLAGS_kubelet_folder),
                                        .token_file = absl::GetFlag(FLAGS_token_file),
                                        .authority_file = absl::GetFlag(FLAGS_authority_file)};
  const absl::Status status = godwit::daemon::RunDaemon(options, [&ends](absl::Duration limit) {
    const timespec time = absl::ToTimespec(limit);
    return sigtimedwait(&ends, nullptr, &time) > 0;
  });
  if (!status.ok()) LOG(ERROR) << godwit::Log("the agent cannot run").With(status);
  return status.ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  godwit::InitLog("godwit-agent");
  absl::SetProgramUsageMessage("godwit-agent [serve|install|uninstall|stay] [flags]");
  std::string command = "serve";
  if (argc > 1 && argv[1][0] != '-') {
    command = argv[1];
    argv[1] = argv[0];
    ++argv;
    --argc;
  }
  if (command == "serve") return Serve(argc, argv);
  if (command == "install") return godwit::install::RunInstall(argc, argv);
  if (command == "uninstall") return godwit::install::RunUninstall(argc, argv);
  if (command == "stay") return godwit::install::RunStay();
  LOG(ERROR) << godwit::Log("no such command").With("command", command).With("known", "serve, install, uninstall, stay");
  return 2;
}
