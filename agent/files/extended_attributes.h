// SPDX-License-Identifier: Apache-2.0
// Extended attributes of files that travel, and what overlayfs keeps in them
// (Documentation/filesystems/overlayfs.rst).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::files {

struct Attributes {
  std::vector<std::pair<std::string, std::string>> kept;  // name, value
  bool opaque = false;                                    // overlay: the folder hides what lies below it
};

// Those of the file at `path`. `follow` says what a last component that is a link means: "/proc/self/fd/N" is
// to be followed, ".../name" is not. FailedPrecondition for what overlayfs wrote and another overlay could
// not understand (redirects, metadata-only copies, nested overlays).
absl::StatusOr<Attributes> ReadAttributes(const std::string& path, bool follow);

// May a tar set this attribute here?
bool MayBeSet(absl::string_view name);

// Those of the file at `path`, a link itself, that a tar may set.
absl::StatusOr<std::vector<std::string>> SettableAttributes(const std::string& path, bool follow);

}  // namespace godwit::files
