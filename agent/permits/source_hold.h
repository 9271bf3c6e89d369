// SPDX-License-Identifier: Apache-2.0
// What keeps kubelet from starting a pod's containers afresh while the pod is being handed over from here, or
// was: <folder>/<sandbox uid>, which names the journal of the hand-over. godwit-runtime reads both at
// `create`, whoever else is down: also the first thing that runs after the node was rebooted. It can do so
// only for pods of RuntimeClass godwit.
//
// Written before anything is frozen and gone with the migration's folder; in between nothing has to be
// changed, for the journal is what decides.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/messages.h"

namespace godwit::permits {

struct SourceHold {
  std::string migration_uid;
  std::string target_node;  // for people
  std::string journal;      // path
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("migrationUID", self.migration_uid);
    field("targetNode", self.target_node);
    field.Required("journal", self.journal);
  }
};

// May a container of a source with this journal be started afresh? Not while it is decided, and not once the
// pod may run elsewhere.
constexpr bool MayStartAfresh(agent_api::SourceState journal) {
  switch (journal) {
    case agent_api::SourceState::kNone:
    case agent_api::SourceState::kOpen:
    case agent_api::SourceState::kAborted: return true;
    case agent_api::SourceState::kFrozen:
    case agent_api::SourceState::kCeded:
    case agent_api::SourceState::kDone: return false;
  }
  return false;
}

// On the disk when it returns OK; replaces that of an earlier migration of the pod.
absl::Status WriteSourceHold(const std::string& folder, const std::string& sandbox_uid,
                             const SourceHold& hold);
// OK when there is none, or one of another migration.
absl::Status RemoveSourceHold(const std::string& folder, const std::string& sandbox_uid,
                              const std::string& migration_uid);

// Why no container of the pod may be started; empty: nothing forbids it. An error: nobody can tell.
absl::StatusOr<std::string> WhyHeld(const std::string& folder, const std::string& sandbox_uid);

}  // namespace godwit::permits
