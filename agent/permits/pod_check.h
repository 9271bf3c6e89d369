// SPDX-License-Identifier: Apache-2.0
// Whether the state of a pod came to that pod: what the kernel and the container runtime's files say, beside
// the word of godwit-runtime.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "agent/permits/permit_table.h"

namespace godwit::permits {

// PermissionDenied when the restored process `pid` is not in the cgroup of the claim, or when the claim's
// bundle was made for another pod or container than `sandbox_uid` and the claim's. What cannot be read, or is
// not told (CRI-O's bundles), is no answer: OK. `root` is put before host paths, `proc` is /proc.
absl::Status CheckIsOfPod(const std::string& root, const std::string& proc, const std::string& sandbox_uid,
                          const Claim& claim, int64_t pid);

}  // namespace godwit::permits
