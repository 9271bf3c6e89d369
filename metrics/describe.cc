// SPDX-License-Identifier: Apache-2.0
// Prints docs/metrics.md from the tables in metrics.h.
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "metrics/metrics.h"

namespace godwit::metrics {
namespace {

std::string Section(absl::string_view title, absl::string_view text, const Registry& registry) {
  std::string out = absl::StrCat("\n## ", title, "\n\n", text,
                                 "\n\n| Name | Type | Labels | Meaning |\n|---|---|---|---|\n");
  for (const Description& metric : registry.Descriptions()) {
    const std::string labels =
        metric.labels.empty() ? "" : absl::StrCat("`", absl::StrJoin(metric.labels, "`, `"), "`");
    absl::StrAppend(&out, "| `", metric.name, "` | ", metric.type, " | ", labels, " | ", metric.help);
    if (!metric.buckets.empty())
      absl::StrAppend(&out, " Buckets: ", absl::StrJoin(metric.buckets, ", "), ".");
    absl::StrAppend(&out, " |\n");
  }
  return out;
}

std::string Document() {
  Registry controller, agent, process;
  ControllerMetrics controller_metrics(controller);
  AgentMetrics agent_metrics(agent);
  AddProcessMetrics(process);
  return absl::StrCat(
      "# Metrics\n\n<!-- Printed by `make metrics-doc` from metrics/metrics.h: change them there. -->\n\n"
      "Controller and agents speak Prometheus' text format over plain HTTP. What stands here is there from "
      "the first scrape "
      "on, at zero, unless its labels are known only by what happens (reasons, routes, nodes).\n"
      "The Grafana dashboard is `metrics/dashboard/godwit.json`, the alert rules are "
      "`metrics/rules/godwit.yaml`; the Helm "
      "chart installs both on request.\n",
      Section("Controller",
              "`/metrics` on port 9554. Only the leading replica works; all of them are scraped.",
              controller),
      Section("Agent", "`/metrics` on port 9553 of every node.", agent),
      Section("Both", "About the process itself.", process));
}

}  // namespace
}  // namespace godwit::metrics

int main() {
  std::cout << godwit::metrics::Document();
  return std::cout.good() ? 0 : 1;
}
