// SPDX-License-Identifier: Apache-2.0
// A container's files as one tar stream: the writable layer of its root file system, or an emptyDir volume.
//
// The stream is pax (libarchive). Of a writable layer it holds what the container added or changed, with OCI whiteouts
// (image-spec v1.1, layer.md) for what it deleted: an empty file ".wh.NAME" stands for a deleted NAME, ".wh..wh..opq" in a
// folder for "nothing of the lower layers shows here". Ownership, modes, times (ns), xattrs, ACLs, hard links, symbolic
// links, FIFOs and holes are kept. Sockets are left out: CRIU binds them again. Device nodes are refused.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::files {

enum class TreeKind {
  kOverlayUpper,  // an overlayfs upperdir: kernel whiteouts and opaque folders become OCI whiteouts, and back
  kPlain,         // any folder; names beginning with ".wh." mean nothing
};

struct TreeSize {
  int64_t bytes = 0;  // of regular files, holes not counted
  int64_t entries = 0;
  bool operator==(const TreeSize&) const = default;
};

// What a tree would take. Fails as WriteTree would for what cannot be carried.
absl::StatusOr<TreeSize> MeasureTree(const std::string& folder, TreeKind kind);

// Where bytes of the stream go. An error ends WriteTree with that error.
using Sink = std::function<absl::Status(absl::string_view bytes)>;

// Writes the tree of `folder`, which must stand still meanwhile. FailedPrecondition for what cannot be carried (a device
// node, an overlay redirect), naming the path.
absl::StatusOr<TreeSize> WriteTree(const std::string& folder, TreeKind kind, const Sink& sink);

struct ApplyLimits {
  int64_t max_bytes = 0;  // of file content
  int64_t max_entries = 10'000'000;
};

// Applies a stream, read from `fd` until its end, to `folder`, which exists (for kOverlayUpper: the merged root file
// system of a container of the same image). The stream is hostile: nothing outside `folder` is touched, no link is followed, no
// mount is entered; DataLoss for a broken stream or one with names that lead elsewhere, ResourceExhausted beyond the limits. After an error `folder`
// is half changed and should be thrown away.
absl::Status ApplyTree(int fd, const std::string& folder, TreeKind kind, const ApplyLimits& limits);

}  // namespace godwit::files
