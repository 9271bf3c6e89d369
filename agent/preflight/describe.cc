// SPDX-License-Identifier: Apache-2.0
// Prints docs/preflight.md from the table in agent/api/findings.h.
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "agent/api/findings.h"
#include "base/json.h"

namespace godwit::agent_api {
namespace {

std::string Section(absl::string_view title, absl::string_view text, FoundIn found_in) {
  std::string out = absl::StrCat("\n## ", title, "\n\n", text,
                                 "\n\n| id | severity | what it means | what to do |\n|---|---|---|---|\n");
  for (const FindingKind& kind : kFindingKinds) {
    if (kind.found_in != found_in) continue;
    absl::StrAppend(&out, "| `", kind.id, "` | ", json::Name(kind.severity), " | ", kind.meaning, " | ",
                    kind.remedy, " |\n");
  }
  return out;
}

std::string Document() {
  return absl::StrCat(
      "# What preflight finds\n\n<!-- Printed by `make preflight-doc` from agent/api/findings.h: change it "
      "there. -->\n\n"
      "Before anything is touched both nodes are asked whether the pod can be moved. What they find stands "
      "in "
      "`status.findings` of the Migration, each finding with its `id`, its `severity`, a sentence, the "
      "`evidence` (what was "
      "read, and where) and a remedy; each is an Event, too. One that is Blocking ends the Migration, with "
      "its id as the "
      "reason; a Warning may make it fail later, and the pod then goes on where it is; Info is worth "
      "knowing. A dry run "
      "(`spec.dryRun`) finds all of these and then some, and moves nothing: "
      "[migration.md](migration.md#dry-run).\n",
      Section("The pod", "What its object in the API server says.", FoundIn::kPod),
      Section("Its processes", "What they are and hold open, read from /proc on the source's node.",
              FoundIn::kProcesses),
      Section("Its mounts and files", "Read from the container runtime's files and from the file systems.",
              FoundIn::kFiles),
      Section("A node", "Each of the two by itself.", FoundIn::kNode),
      Section("Both nodes", "What they have to have in common, and what the target must have.",
              FoundIn::kNodes),
      Section("What is foretold", "Of dry runs alone: what would be found only in the course of a migration.",
              FoundIn::kPrediction));
}

}  // namespace
}  // namespace godwit::agent_api

int main() {
  std::cout << godwit::agent_api::Document();
  return std::cout.good() ? 0 : 1;
}
