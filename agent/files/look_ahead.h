// SPDX-License-Identifier: Apache-2.0
// Most files of a tree have not changed, and to find that out costs a path lookup in the kernel each: here
// from several threads at once, for the pass in which the pod stands still.
#pragma once

#include <sys/stat.h>

#include <functional>

#include "agent/files/snapshot.h"

namespace godwit::files {

// Sets Node::unchanged of the known files (not folders) below `root` of which `unchanged` says so. Nothing
// may write to the tree. `unchanged` is called from several threads at once.
void LookAhead(int root, Snapshot& snapshot,
               const std::function<bool(const Node& node, const struct stat& info)>& unchanged);

}  // namespace godwit::files
