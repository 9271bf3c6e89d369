// SPDX-License-Identifier: Apache-2.0
// Where a pod's things are on this node: its containers and what they wrote on the source, and where that
// belongs on the target.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api/messages.h"
#include "agent/files/layer.h"
#include "agent/permits/permit_table.h"
#include "agent/runtime/containers.h"
#include "base/file.h"

namespace godwit::migration {

struct PodOnNode {
  struct Part {
    runtime::Container container;
    std::string writable_layer;  // host path
  };
  std::vector<Part> parts;                     // in the order asked for
  std::map<std::string, std::string> volumes;  // emptyDir name -> host path
};

// Finds the running containers of `pod` and checks that they are that pod's. FailedPrecondition says which is
// not.
absl::StatusOr<PodOnNode> FindPod(const runtime::HostView& host, const agent_api::PodName& pod,
                                  const std::vector<agent_api::ContainerRef>& containers,
                                  const std::vector<std::string>& empty_dirs);

// Opens a host folder from here: resolved by the kernel as the host would resolve it, absolute links
// included.
absl::StatusOr<UniqueFd> OpenHostFolder(const runtime::HostView& host, const std::string& path);

// files::Pack of a host folder.
absl::StatusOr<files::PackTotals> PackHostFolder(const runtime::HostView& host, const std::string& path,
                                                 files::Layout layout, const files::Sink& sink);

// What is to be put into a container's files before it is restored.
struct FilesToApply {
  std::string rootfs_tar;                      // empty: none
  std::map<std::string, std::string> volumes;  // emptyDir name -> tar
};

// Applies them to the root file system and the emptyDirs of the container that `claim` is about to create;
// the bundle's configuration says where these are.
absl::Status ApplyFiles(const runtime::HostView& host, const permits::Claim& claim,
                        const std::string& pod_uid, const FilesToApply& files);

}  // namespace godwit::migration
