// SPDX-License-Identifier: Apache-2.0
// A tree in rounds: a base while its processes run on, then what has changed since, then, with the processes
// frozen, what changed last. Applied in order (files::Apply: the base in its layout, every further one as
// kChanges) they give exactly the tree.
//
// A change tar is a pax tar of what is new or changed, folders before what they hold. An entry may carry the
// extended attribute "godwit.change" (no file can bear it: it is in no namespace of Linux):
//   removed   the path and all below it goes. The name is the file's own, so that a file called ".wh.x" is no
//   matter. patched   a regular file stays the file that it is, with all its names: the entry's data is
//   written into it, its
//             holes are left alone, and its length, owner, mode, attributes and time become the entry's.
// Without it a file replaces what is there, a folder is made or set up anew around what it holds.
//
// What counts as changed. A file is unsettled when a write may since have left its ctime alone:
//   - its ctime is no older than the pass less 100 ms: a tick of the kernel's clock, and a direct write in
//   flight;
//   - a process has it mapped shared and writable: the kernel stamps a store only where it has to make the
//   page
//     writable (page_mkwrite, the first store after the page was written back);
//   - it lies on tmpfs: there not even the first store need be stamped;
//   - it was written or became shorter while it was read.
// A write(2) in flight has stamped the file and not yet copied all of its bytes: it holds the inode's lock,
// which is waited for before the file is read. An unsettled file, and one whose stat(2) differs, is compared
// by block with what was sent; every other is taken for unchanged without being opened.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/files/layer.h"
#include "agent/files/snapshot.h"

namespace godwit::files {

struct Pass {
  absl::Time begun;   // before `mapped` was looked up; by the wall clock, as ctimes are
  bool last = false;  // nothing writes any more: a file that changes while it is read is DataLoss
  MappedFiles mapped;
};

// Packs the whole tree in its layout, as Pack does, and takes the snapshot, unless the pass is the last.
// `snapshot` is empty before. Errors as PackChanges'.
absl::StatusOr<PackTotals> PackBase(const std::string& folder, Layout layout, const Pass& pass,
                                    Snapshot& snapshot, const Sink& sink);

// Packs what has changed since `snapshot`, which becomes that of now. Errors as Pack's, and
// ResourceExhausted: the tree has too many files for a snapshot. After an error the snapshot is of no use.
absl::StatusOr<PackTotals> PackChanges(const std::string& folder, Layout layout, const Pass& pass,
                                       Snapshot& snapshot, const Sink& sink);

}  // namespace godwit::files
