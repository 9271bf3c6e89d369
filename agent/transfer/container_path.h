// SPDX-License-Identifier: Apache-2.0
// Where a container's own files lie in a folder that has others beside them: a migration's side, a restore,
// a checkpoint in work.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace godwit::transfer {

// All containers lie below this one, for a container may be called journal, thawed, pages or volumes: beside
// what has that name in the folder already, the one would be taken for the other.
inline constexpr char kContainers[] = "containers";

// Relative to the folder.
inline std::string ContainerPath(absl::string_view container) {
  return absl::StrCat(kContainers, "/", container);
}

}  // namespace godwit::transfer
