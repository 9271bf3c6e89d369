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
#include "agent/files/changes.h"
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

// files::PackBase (round 0) or PackChanges of a host folder.
absl::StatusOr<files::PackTotals> PackHostFolder(const runtime::HostView& host, const std::string& path,
                                                 files::Layout layout, const files::Pass& pass, int round,
                                                 files::Snapshot& snapshot, const files::Sink& sink);

// What the pod's processes have mapped shared and writable now.
absl::StatusOr<files::MappedFiles> FindMappedFiles(const runtime::HostView& host, const PodOnNode& pod);

// One tree's tars in their order: the base, then the changes.
struct TarSequence {
  std::vector<std::string> paths;
  size_t applied = 0;  // so many of them were applied before
};

// What is to be put into a container's files before it is restored.
struct FilesToApply {
  TarSequence rootfs;
  std::map<std::string, TarSequence> volumes;  // by emptyDir
};

// Applies them to the root file system and the emptyDirs of the container that `claim` is about to create;
// the bundle's configuration says where these are. May be called again when more tars have come, with
// `applied` raised to what was there. All of them once more, from the base, does no harm either: that is for
// a new claim, whose root file system is another.
absl::Status ApplyFiles(const runtime::HostView& host, const permits::Claim& claim,
                        const std::string& pod_uid, const FilesToApply& files);

}  // namespace godwit::migration
