// SPDX-License-Identifier: Apache-2.0
// A base and the changes since (changes.h), read as one ordinary tar of the tree as it was at last, in the
// base's layout. Entries are taken from where they lie, byte for byte; only a file that was patched is put
// together anew.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/files/layer.h"
#include "agent/files/snapshot.h"
#include "base/file.h"

namespace godwit::files {

class MergedTar {
 public:
  // `tars`: the base, then the changes, as PackBase and PackChanges wrote them; `snapshot`: as the last of
  // them left it (of no matter for a base alone). `extra`: a file that is made on the disk, for patched files
  // and the marks of what the layer hides; it may be removed afterwards, as the others may, for they are kept
  // open. DataLoss: they are not what was packed. ResourceExhausted: their names, which are all in memory
  // meanwhile, and the targets of hard links have more than `most_path_bytes`.
  static absl::StatusOr<MergedTar> Plan(const std::vector<std::string>& tars, Layout layout,
                                        const Snapshot& snapshot, const std::string& extra,
                                        int64_t most_path_bytes = kMaxPathBytes);

  int64_t bytes() const;
  absl::Status Write(const Sink& sink) const;

 private:
  friend class Merger;
  struct Piece {
    size_t tar = 0;
    off_t begin = 0, end = 0;
    bool operator<(const Piece& other) const {
      return tar != other.tar ? tar < other.tar : begin < other.begin;
    }
  };
  MergedTar() = default;
  void Append(const Piece& piece);

  std::vector<UniqueFd> tars_;  // the extra one is the last
  std::vector<Piece> pieces_;
};

}  // namespace godwit::files
