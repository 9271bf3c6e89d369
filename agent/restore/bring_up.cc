// SPDX-License-Identifier: Apache-2.0
#include "agent/restore/bring_up.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/criu/images.h"
#include "agent/files/layer.h"
#include "agent/runtime/volumes.h"
#include "base/status.h"

namespace godwit::restore {
namespace {

absl::Status PutFiles(const runtime::HostView& host, const permits::Claim& claim, const std::string& pod_uid,
                      const Content& content) {
  if (!content.rootfs.empty()) {
    // The shim has mounted the root file system before it called the runtime.
    GODWIT_RETURN_IF_ERROR(
        files::Apply(content.rootfs, host.At(absl::StrCat(claim.bundle, "/rootfs")), files::Layout::kOverlay));
  }
  if (content.volumes.empty()) return absl::OkStatus();
  GODWIT_ASSIGN_OR_RETURN(std::vector<runtime::BundleMount> mounts, runtime::ReadBundleMounts(host, claim.bundle));
  for (const auto& [volume, tar] : content.volumes) {
    const std::string folder = runtime::EmptyDirFolder(mounts, pod_uid, volume);
    if (folder.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("container ", claim.container, " of the new pod does not mount the emptyDir ", volume));
    }
    GODWIT_RETURN_IF_ERROR(files::Apply(tar, host.At(folder), files::Layout::kPlain));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BroughtUp> BringUp(permits::PermitTable& permits, const runtime::HostView& host, const std::string& uid,
                                  const std::string& pod_uid, const std::string& container, const Content& content,
                                  absl::Time deadline) {
  GODWIT_RETURN_IF_ERROR(Annotate(criu::CheckImages(content.images), absl::StrCat("images of container ", container)));
  for (;;) {
    GODWIT_ASSIGN_OR_RETURN(permits::Claim claim, permits.WaitForClaim(uid, container, deadline - absl::Now()));
    BroughtUp up{.cgroup = absl::StrCat(host.cgroup, claim.cgroup)};
    const absl::Time begin = absl::Now();
    GODWIT_RETURN_IF_ERROR(PutFiles(host, claim, pod_uid, content));
    up.files = absl::Now() - begin;
    auto restored = permits.Restore(uid, container, content.images, content.work, deadline - absl::Now());
    // The `create` that waited has gone meanwhile; kubelet sends another, for a container with files of its own.
    if (absl::IsFailedPrecondition(restored.status())) continue;
    GODWIT_RETURN_IF_ERROR(restored.status());
    GODWIT_RETURN_IF_ERROR(permits.Confirm(uid, container, deadline - absl::Now()));
    up.restore = absl::Now() - begin - up.files;
    return up;
  }
}

}  // namespace godwit::restore
