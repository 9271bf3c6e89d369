// SPDX-License-Identifier: Apache-2.0
// Collects findings, each kind of thing once a container, however many processes hold one.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "agent/api/findings.h"
#include "agent/preflight/parse.h"

namespace godwit::preflight {

class Findings {
 public:
  explicit Findings(std::string container) : container_(std::move(container)) {}

  // `message` and `evidence` may hold what a container chose: they are made printable, and bounded. A remedy
  // of its own takes the place of the table's.
  void Add(agent_api::FindingId id, absl::string_view message, absl::string_view evidence = "",
           absl::string_view remedy = "") {
    agent_api::Finding finding = agent_api::MakeFinding(id, container_, Printable(message, kMaxMessage),
                                                        Printable(evidence, kMaxEvidence));
    if (!remedy.empty()) finding.remedy = std::string(remedy);
    // One process with a thousand such descriptors says it once, and a thousand processes three times.
    int same = 0;
    for (const agent_api::Finding& known : findings_) {
      if (known.id != finding.id) continue;
      if (known.message == finding.message) return;
      ++same;
    }
    if (same < kMostOfAKind) findings_.push_back(std::move(finding));
  }
  std::vector<agent_api::Finding> Take() { return std::move(findings_); }

 private:
  static constexpr size_t kMaxMessage = 512, kMaxEvidence = 256;
  static constexpr int kMostOfAKind = 3;

  std::string container_;
  std::vector<agent_api::Finding> findings_;
};

}  // namespace godwit::preflight
