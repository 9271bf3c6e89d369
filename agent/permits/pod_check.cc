// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/pod_check.h"

#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/runtime/cgroup.h"
#include "base/file.h"
#include "base/json.h"

namespace godwit::permits {
namespace {

constexpr size_t kMaxConfig = size_t{4} << 20;

struct BundleConfig {
  std::map<std::string, std::string> annotations;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("annotations", self.annotations);
  }
};

// By containerd, not by the pod: a pod's own annotations of these names do not come through.
absl::Status CheckAnnotation(const BundleConfig& config, const char* name, const std::string& wanted) {
  const auto found = config.annotations.find(name);
  if (found == config.annotations.end() || found->second == wanted) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("its bundle says ", name, " ", found->second, ", and the state is that of ", wanted));
}

}  // namespace

absl::Status CheckIsOfPod(const std::string& root, const std::string& proc, const std::string& sandbox_uid,
                          const Claim& claim, int64_t pid) {
  const absl::StatusOr<std::string> cgroup = runtime::CgroupOfProcess(proc, static_cast<pid_t>(pid));
  if (cgroup.ok() && *cgroup != claim.cgroup && !absl::StartsWith(*cgroup, absl::StrCat(claim.cgroup, "/"))) {
    return absl::PermissionDeniedError(
        absl::StrCat("its process ", pid, " is in cgroup ", *cgroup, ", not in ", claim.cgroup));
  }
  const absl::StatusOr<std::string> text =
      ReadFile(absl::StrCat(root, claim.bundle, "/config.json"), kMaxConfig);
  if (!text.ok()) return absl::OkStatus();
  const auto config = json::Decode<BundleConfig>(*text, {.max_bytes = kMaxConfig, .max_depth = 64});
  if (!config.ok()) return absl::OkStatus();
  absl::Status status = CheckAnnotation(*config, "io.kubernetes.cri.sandbox-uid", sandbox_uid);
  status.Update(CheckAnnotation(*config, "io.kubernetes.cri.container-name", claim.container));
  return status;
}

}  // namespace godwit::permits
