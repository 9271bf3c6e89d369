// SPDX-License-Identifier: Apache-2.0
// Making a container stand restored in its new pod: files first, then processes. Used for what a checkpoint's archive
// holds and for what a migration's source has sent.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/permits/permit_table.h"
#include "agent/runtime/containers.h"

namespace godwit::restore {

// What a container comes back from; paths are the same here and on the host. Everything in it is hostile.
struct Content {
  std::string images;                          // CRIU's images
  std::string work;                            // CRIU's log; exists
  std::string rootfs;                          // tar of the writable layer; may be empty
  std::map<std::string, std::string> volumes;  // emptyDir name -> tar
};

struct BroughtUp {
  std::string cgroup;  // absolute host path; its processes stand still
  absl::Duration files;    // time spent on the files
  absl::Duration restore;  // time from the word to godwit-runtime until `create` had returned
};

// Waits until the container's `create` holds its permit, puts its files in place, has its processes restored and lets
// `create` return. They stand still then. `pod_uid` is the new pod's. Errors say what failed; the permit is left for the
// caller to abort.
absl::StatusOr<BroughtUp> BringUp(permits::PermitTable& permits, const runtime::HostView& host, const std::string& uid,
                                  const std::string& pod_uid, const std::string& container, const Content& content,
                                  absl::Time deadline);

}  // namespace godwit::restore
