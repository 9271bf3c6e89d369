// SPDX-License-Identifier: Apache-2.0
// The programs on the host:
//
//   <folder>/versions/<digest>/{bin,criu,etc}   one complete tree, named by what is in it
//   <folder>/current -> versions/<digest>
//   <folder>/{bin,criu,etc} -> current/...      the paths that everybody uses
//
// A new version becomes the current one by one rename(2); what runs from an older one goes on, and an older
// one is removed when nothing runs from it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace godwit::install {

// Makes the tree `source` (bin/, criu/), with `runtime_json` as etc/runtime.json, the current one. Repeating
// it changes nothing; a version whose files were damaged is replaced. Gives the version's digest.
absl::StatusOr<std::string> InstallTree(const std::string& source, const std::string& folder,
                                        const std::string& runtime_json);

// Removes the versions that are not current and that no process (of those below `proc`) runs from.
absl::Status RemoveOldVersions(const std::string& folder, const std::string& proc);

// Takes all but godwit-runtime and its settings away, for a node that still has pods behind the handler.
absl::Status KeepRuntimeOnly(const std::string& folder);

// Whether a process runs from a tree below `path`.
bool RunsFrom(const std::string& path, const std::string& proc);

// Where a symbolic link points to; "" when it is none.
std::string ReadLink(const std::string& path);

}  // namespace godwit::install
