// SPDX-License-Identifier: Apache-2.0
// A pod's files on their way into archives: copied to the disk in rounds while the containers run, what
// changed last while they stand still, and read as one ordinary tar a tree when they run again.
//
//   CopyRound, CopyRound, ... -> all containers frozen -> CopyLast -> thawed -> for each tree: Whole
//
// One thread.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/checkpoint/archive.h"
#include "agent/files/changes.h"
#include "agent/files/layer.h"
#include "agent/files/snapshot.h"
#include "agent/migration/pod_on_node.h"
#include "agent/runtime/containers.h"

namespace godwit::checkpoint {

class FileCopy {
 public:
  struct Tree {
    std::string path;  // host path: a writable layer or an emptyDir
    files::Layout layout;
    std::string tars;  // where its tars lie: what their paths begin with
  };
  // When `stop` becomes true, copying ends with Cancelled.
  FileCopy(runtime::HostView host, migration::PodOnNode pod, const std::vector<Tree>& trees,
           const std::atomic<bool>& stop);

  // Everything, then what has changed since the last round; on the disk when this returns. FailedPrecondition
  // names a file that cannot be taken along, or a tree that is too large (files::kMaxEntries, kMaxPathBytes);
  // ResourceExhausted: the disk is full.
  absl::Status CopyRound();
  // While all containers stand still. Errors as CopyRound's. A tree that could not be followed, because the
  // agent remembers as many files as it may (files::kMaxHeldEntries), is read whole.
  absl::Status CopyLast();

  // What the tree was then. Reads the tars, which have to stay until it is called and may go then.
  absl::StatusOr<Content> Whole(size_t tree);

 private:
  struct Part {
    Tree tree;
    bool followed = true;
    files::Snapshot snapshot;
    std::vector<std::string> tars;
  };
  absl::Status Copy(bool last);
  absl::Status CopyTree(Part& part, const files::Pass& pass);

  const runtime::HostView host_;
  const migration::PodOnNode pod_;
  const std::atomic<bool>& stop_;
  std::vector<Part> parts_;
};

}  // namespace godwit::checkpoint
