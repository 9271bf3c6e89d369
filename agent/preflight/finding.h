// SPDX-License-Identifier: Apache-2.0
// Collects findings, each kind of thing once a container, however many processes hold one.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "agent/api/messages.h"

namespace godwit::preflight {

class Findings {
 public:
  explicit Findings(std::string container) : container_(std::move(container)) {}

  void Block(absl::string_view id, absl::string_view message, absl::string_view remedy) {
    Add(agent_api::Severity::kBlocking, id, message, remedy);
  }
  void Warn(absl::string_view id, absl::string_view message, absl::string_view remedy) {
    Add(agent_api::Severity::kWarning, id, message, remedy);
  }
  void Tell(absl::string_view id, absl::string_view message, absl::string_view remedy) {
    Add(agent_api::Severity::kInfo, id, message, remedy);
  }
  std::vector<agent_api::Finding> Take() { return std::move(findings_); }

 private:
  void Add(agent_api::Severity severity, absl::string_view id, absl::string_view message,
           absl::string_view remedy) {
    for (const agent_api::Finding& finding : findings_) {
      if (finding.id == id && finding.message == message) return;
    }
    // One process with a thousand such descriptors says it once.
    int same = 0;
    for (const agent_api::Finding& finding : findings_) same += finding.id == id ? 1 : 0;
    if (same >= 3) return;
    findings_.push_back({std::string(id), severity, container_, std::string(message), std::string(remedy)});
  }

  std::string container_;
  std::vector<agent_api::Finding> findings_;
};

}  // namespace godwit::preflight
