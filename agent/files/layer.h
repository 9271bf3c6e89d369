// SPDX-License-Identifier: Apache-2.0
// What a pod wrote to files, as a tar stream and back: the upper folder of an overlay (a container's writable
// layer) and emptyDir volumes. Kept: content with its holes, owners, modes, times, hard links, FIFOs,
// extended attributes. Left out: sockets (whoever listens makes them again). Refused: device files.
//
// A layer's tar is an OCI image layer (image-spec, layer.md): a removed file is an empty file ".wh.<name>", a
// folder that hides what lies below it holds ".wh..wh..opq".
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::files {

enum class Layout {
  kOverlay,  // an overlay's upper folder, applied to a mounted root file system
  kPlain,    // an ordinary folder
  kChanges,  // Apply only: what changed since the tar before, of either (changes.h)
};

// Bytes of a file's path in the tar: PATH_MAX less the end. Longer ones are neither packed nor applied.
inline constexpr size_t kMaxPath = 4095;

// Takes the next piece of the tar stream, at most 1 MiB.
using Sink = std::function<absl::Status(absl::string_view)>;

struct PackTotals {
  int64_t entries = 0;
  int64_t bytes = 0;                 // of file content
  std::vector<std::string> deleted;  // paths that the layer hides, relative to the root
};

// Writes the folder as a tar stream. Nothing may write to it meanwhile (its processes are frozen): a file
// that changes is DataLoss. FailedPrecondition names a file that cannot be taken along, and why.
// ResourceExhausted: more files, or longer paths, than a tree may have (snapshot.h).
absl::StatusOr<PackTotals> Pack(const std::string& folder, Layout layout, const Sink& sink);

// Of such a ResourceExhausted: is it not the tree that is too large, but all together of which this process
// remembers something (kMaxHeldEntries)? Pack remembers less of a tree than PackBase.
bool TooManyHeld(const absl::Status& error);

// Applies a tar file to a folder, which must exist and which nobody else uses. The tar is hostile: every path
// is resolved by the kernel inside the folder, without links and without leaving its file system.
// A folder that the tar does not name keeps its time, whatever is put into it. InvalidArgument: the tar holds
// what Pack never writes; DataLoss: it is damaged. After an error the folder holds a part.
absl::Status Apply(const std::string& tar_file, const std::string& folder, Layout layout);

}  // namespace godwit::files
