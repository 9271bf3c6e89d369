// SPDX-License-Identifier: Apache-2.0
// What an entry of a change tar does to what is there (changes.h).
#pragma once

#include <archive_entry.h>

#include "absl/strings/string_view.h"

namespace godwit::files {

inline constexpr char kChangeMark[] = "godwit.change";

enum class Change { kReplaced, kRemoved, kPatched };

// kReplaced needs no mark.
inline void Mark(archive_entry* entry, Change change) {
  const absl::string_view word = change == Change::kRemoved ? "removed" : "patched";
  archive_entry_xattr_add_entry(entry, kChangeMark, word.data(), word.size());
}

}  // namespace godwit::files
