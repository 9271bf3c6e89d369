// SPDX-License-Identifier: Apache-2.0
// CRIU gives a restored container's UTS namespace, which is the new pod's, the hostname that the old pod had:
// it is remembered before and put back after.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"

namespace godwit::godwit_runtime {

class SandboxHostname {
 public:
  // Nothing to remember where `uts_path` is empty. The process must have one thread.
  static absl::StatusOr<SandboxHostname> Remember(const std::string& uts_path);
  absl::Status PutBack() const;

 private:
  UniqueFd uts_;
  std::string host_;
  std::string domain_;
};

}  // namespace godwit::godwit_runtime
