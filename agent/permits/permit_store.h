// SPDX-License-Identifier: Apache-2.0
// Permits on the disk: <folder>/<sandbox uid>/<container>, one agent_api::PermitFile each. The agent writes
// them; what they say holds also while the agent is down, because godwit-runtime reads them first.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/api/host_protocol.h"

namespace godwit::permits {

// Whether the names can be a pod's UID and a container's name: they become parts of paths, and come from
// sockets and bundles.
bool ValidSandboxUid(absl::string_view uid);
bool ValidContainerName(absl::string_view name);

struct StoredPermit {
  std::string sandbox_uid;
  std::string container;
  agent_api::PermitFile permit;
};

class PermitStore {
 public:
  // The folder is made by the first Write. Usually agent_api::kStateFolder "/permits".
  explicit PermitStore(std::string folder) : folder_(std::move(folder)) {}

  // Replaces the permit as a whole; on the disk when it returns OK.
  absl::Status Write(const std::string& sandbox_uid, const std::string& container,
                     const agent_api::PermitFile& permit) const;
  // NotFound: there is none. InvalidArgument: the names cannot be names, or the file is no permit.
  absl::StatusOr<agent_api::PermitFile> Read(const std::string& sandbox_uid,
                                             const std::string& container) const;
  // OK when there was none. The last one of a sandbox takes the sandbox's folder with it.
  absl::Status Remove(const std::string& sandbox_uid, const std::string& container) const;
  // The permits of one sandbox, or of all; an empty list when there is no folder yet.
  absl::StatusOr<std::vector<StoredPermit>> ListSandbox(const std::string& sandbox_uid) const;
  absl::StatusOr<std::vector<StoredPermit>> List() const;

 private:
  std::string folder_;
};

}  // namespace godwit::permits
