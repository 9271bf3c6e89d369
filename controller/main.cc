// SPDX-License-Identifier: Apache-2.0
// godwit-controller [flags]                 watches Migrations, Checkpoints and Restores, and carries them
// out godwit-controller cleanup | cleanup-nodes what the chart's hooks run before Godwit is uninstalled
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/time/time.h"
#include "base/lock_order.h"
#include "base/log.h"
#include "controller/application.h"
#include "controller/cleanup/cleanup.h"
#include "k8s/config.h"
#include "k8s/transport.h"

ABSL_FLAG(std::string, kubeconfig, "", "Kubeconfig file; empty: the pod's service account, or $KUBECONFIG.");
ABSL_FLAG(std::string, listen, "0.0.0.0", "Address that all servers listen on.");
ABSL_FLAG(int, bootstrap_port, 9443, "HTTPS port where agents get their certificates.");
ABSL_FLAG(int, metrics_port, 9554, "HTTP port of /metrics.");
ABSL_FLAG(int, health_port, 9555, "HTTP port of /healthz and /readyz.");
ABSL_FLAG(int, agent_api_port, 9551, "Port of the agents' API.");
ABSL_FLAG(int, agent_stream_port, 9552, "Port of the agents' streams.");
ABSL_FLAG(int, workers, 8, "Objects of one kind that are worked on side by side.");
ABSL_FLAG(absl::Duration, create_limit, absl::Seconds(100),
          "The longest that the creation of a target's container waits; must stay below kubelet's "
          "runtimeRequestTimeout.");
ABSL_FLAG(absl::Duration, freeze_limit, absl::Seconds(90),
          "The longest that a pod may stand still, where no liveness probe says less; must stay below "
          "--create_limit.");
ABSL_FLAG(absl::Duration, agent_patience, absl::Seconds(30),
          "How long an agent may not answer before a migration gives up.");
ABSL_FLAG(absl::Duration, cleanup_timeout, absl::Minutes(4),
          "For cleanup and cleanup-nodes: how long they may take.");

namespace {

std::string Environment(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : value;
}

int Exit(const absl::Status& status) {
  if (status.ok()) return 0;
  std::cerr << "godwit-controller: " << status.message() << "\n";
  return 1;
}

absl::Status CleanUp(const std::string& what, const godwit::k8s::Config& config,
                     const std::string& name_space) {
  auto transport = godwit::k8s::Transport::Create(config, {});
  if (!transport.ok()) return transport.status();
  const godwit::k8s::Api api(*std::move(transport));
  const godwit::controller::CleanupOptions options{.name_space = name_space,
                                                   .timeout = absl::GetFlag(FLAGS_cleanup_timeout)};
  if (what == "cleanup") return godwit::controller::CleanUp(api, options);
  if (what == "cleanup-nodes") return godwit::controller::WaitForCleanNodes(api, options);
  return absl::InvalidArgumentError("unknown command " + what + " (there are cleanup and cleanup-nodes)");
}

godwit::controller::ControllersSettings Settings() {
  godwit::controller::ControllersSettings settings;
  settings.workers = absl::GetFlag(FLAGS_workers);
  settings.migration.create_limit = absl::GetFlag(FLAGS_create_limit);
  settings.migration.freeze_cap = absl::GetFlag(FLAGS_freeze_limit);
  settings.migration.agent_patience = absl::GetFlag(FLAGS_agent_patience);
  settings.migration.stream_port = absl::GetFlag(FLAGS_agent_stream_port);
  settings.checkpoint.freeze_cap = absl::GetFlag(FLAGS_freeze_limit);
  settings.restore.create_limit = absl::GetFlag(FLAGS_create_limit);
  settings.restore.stream_port = absl::GetFlag(FLAGS_agent_stream_port);
  return settings;
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Moves, checkpoints and restores running pods: the controller.");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  godwit::InitLog("godwit-controller");
  godwit::InitLockOrder();
  if (absl::GetFlag(FLAGS_freeze_limit) >= absl::GetFlag(FLAGS_create_limit)) {
    return Exit(absl::InvalidArgumentError("--freeze_limit must be shorter than --create_limit"));
  }
  auto config = godwit::k8s::LoadConfig(absl::GetFlag(FLAGS_kubeconfig));
  if (!config.ok()) return Exit(config.status());
  config->user_agent = "godwit-controller/" GODWIT_VERSION;
  const std::string name_space = Environment("POD_NAMESPACE", config->name_space);
  if (arguments.size() > 1) return Exit(CleanUp(arguments[1], *config, name_space));
  return Exit(godwit::controller::RunController(
      *config, {.name_space = name_space,
                .identity = Environment("POD_NAME", Environment("HOSTNAME", "controller")),
                .listen = absl::GetFlag(FLAGS_listen),
                .bootstrap_port = absl::GetFlag(FLAGS_bootstrap_port),
                .metrics_port = absl::GetFlag(FLAGS_metrics_port),
                .health_port = absl::GetFlag(FLAGS_health_port),
                .agent_api_port = absl::GetFlag(FLAGS_agent_api_port),
                .controllers = Settings()}));
}
