// SPDX-License-Identifier: Apache-2.0
// godwit-agent [serve] [flags]      the agent of a node (default)
// godwit-agent install [flags]      prepares the node; uninstall undoes it; stay only waits
// (agent/install/commands.h)
#include <curl/curl.h>

#include <cstdlib>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/log/log.h"
#include "agent/api/host_protocol.h"
#include "agent/install/commands.h"
#include "agent/serve/serve.h"
#include "base/lock_order.h"
#include "base/log.h"

namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

ABSL_FLAG(std::string, node, Environment("NODE_NAME"), "this node's name in Kubernetes");
ABSL_FLAG(std::string, controller, Environment("GODWIT_CONTROLLER_ADDRESS"),
          "host:port of the controller's bootstrap service");
ABSL_FLAG(int, api_port, godwit::agent_api::kDefaultApiPort, "HTTPS, for the controller");
ABSL_FLAG(int, stream_port, godwit::agent_api::kDefaultStreamPort, "TLS, for other agents");
ABSL_FLAG(int, metrics_port, godwit::agent_api::kDefaultMetricsPort, "HTTP, for Prometheus and kubelet");
ABSL_FLAG(std::string, container_runtime_socket, "/run/containerd/containerd.sock", "CRI socket on the host");
ABSL_FLAG(std::string, kubelet_folder, "/var/lib/kubelet", "kubelet's root directory on the host");
ABSL_FLAG(std::string, token_file, "/var/run/secrets/godwit/token",
          "service account token with audience godwit-controller");
ABSL_FLAG(std::string, authority_file, "/etc/godwit/ca/ca.crt",
          "certificates that controller and agents are checked against");
ABSL_FLAG(std::string, install_folder, godwit::agent_api::kInstallFolder,
          "where install has put CRIU and the host's binaries");
ABSL_FLAG(std::string, state_folder, godwit::agent_api::kStateFolder,
          "images, journals, permits, archives; the same path on the host");
ABSL_FLAG(std::string, run_folder, "/run/godwit", "sockets; the same path on the host");
ABSL_FLAG(bool, memory_tracking, true, "false: pods are not pre-copied from or to this node");
ABSL_FLAG(int, disk_reserve_percent, 15,
          "of the disk with the state folder, that archives leave free: kubelet evicts pods when less is "
          "left. Migrations may take it");
ABSL_FLAG(bool, on_host, false, "runs on the host itself, not in a container");

namespace {

int Serve(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  const godwit::serve::ServeOptions options{.node = absl::GetFlag(FLAGS_node),
                                            .controller = absl::GetFlag(FLAGS_controller),
                                            .token_file = absl::GetFlag(FLAGS_token_file),
                                            .authority_file = absl::GetFlag(FLAGS_authority_file),
                                            .api_port = absl::GetFlag(FLAGS_api_port),
                                            .stream_port = absl::GetFlag(FLAGS_stream_port),
                                            .metrics_port = absl::GetFlag(FLAGS_metrics_port),
                                            .install_folder = absl::GetFlag(FLAGS_install_folder),
                                            .state_folder = absl::GetFlag(FLAGS_state_folder),
                                            .run_folder = absl::GetFlag(FLAGS_run_folder),
                                            .cri_socket = absl::GetFlag(FLAGS_container_runtime_socket),
                                            .kubelet_folder = absl::GetFlag(FLAGS_kubelet_folder),
                                            .memory_tracking = absl::GetFlag(FLAGS_memory_tracking),
                                            .disk_reserve_percent = absl::GetFlag(FLAGS_disk_reserve_percent),
                                            .on_host = absl::GetFlag(FLAGS_on_host)};
  absl::Status status = absl::OkStatus();
  if (options.node.empty())
    status = absl::InvalidArgumentError("the node's name is not known: set NODE_NAME or --node");
  if (options.controller.empty())
    status = absl::InvalidArgumentError(
        "the controller's address is not known: set GODWIT_CONTROLLER_ADDRESS or --controller");
  if (options.disk_reserve_percent < 0 || options.disk_reserve_percent > 90)
    status = absl::InvalidArgumentError("--disk_reserve_percent is not between 0 and 90");
  if (status.ok()) status = godwit::serve::Serve(options);
  if (!status.ok()) LOG(ERROR) << godwit::Log("the agent cannot run").With(status);
  return status.ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  godwit::InitLog("godwit-agent");
  godwit::InitLockOrder();
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
  LOG(ERROR) << godwit::Log("no such command")
                    .With("command", command)
                    .With("known", "serve, install, uninstall, stay");
  return 2;
}
