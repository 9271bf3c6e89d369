// SPDX-License-Identifier: Apache-2.0
// What a tree looked like when it was last packed, kept in memory between the rounds of a pre-copy.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"

namespace godwit::files {

// Content is compared in blocks of this many bytes.
inline constexpr int64_t kBlockBytes = int64_t{64} << 10;

// What stat(2) says of a file, as far as a change shows in it.
struct FileStat {
  FileStat() = default;
  explicit FileStat(const struct stat& info);
  ino_t inode = 0;
  int64_t size = 0;
  int64_t mtime = 0;  // ns since 1970, modulo 2^64
  int64_t ctime = 0;
  mode_t mode = 0;  // with the type; 0: nothing is known
  uid_t uid = 0;
  gid_t gid = 0;
  bool operator==(const FileStat&) const = default;
};

// One file as it was packed; what the target holds of it.
struct Node {
  std::string name;
  FileStat seen;           // before its content was read
  bool settled = false;    // what was written up to `seen.ctime` was packed, whatever is written later shows
  bool unchanged = false;  // in the pass that is on: was found so by LookAhead
  bool opaque = false;     // overlay: the folder hides what lies below it
  bool linked = false;     // it had several names, and was packed as one of them
  bool hashed = false;     // a regular file: `blocks` is its content
  std::vector<uint64_t> blocks;  // XXH3-64 of each block, 0 for a hole
  std::vector<Node> children;    // sorted by name
};

struct Snapshot {
  Node root{.name = "."};
  int64_t entries = 0;
  int64_t blocks = 0;
};

// Bounds of one snapshot: a tree of more files is not packed in rounds (ResourceExhausted); files beyond so
// many blocks (1 TiB of content) are packed whole when they change.
inline constexpr int64_t kMaxEntries = 1'000'000;
inline constexpr int64_t kMaxBlocks = int64_t{16} << 20;

// Files that some process has mapped shared and writable: a store changes them and may leave their times
// alone.
struct MappedFiles {
  absl::flat_hash_set<std::pair<dev_t, ino_t>> files;
  bool any_linked = false;  // one that no path leads to any more: it may be any that has several names
  bool any = false;         // one that could not be found: it may be any
  bool MayHold(const struct stat& info) const {
    return any || (any_linked && info.st_nlink > 1) || files.contains({info.st_dev, info.st_ino});
  }
};

// May a later change leave this ctime as it is? `begun` is a time before the file was looked at. The kernel
// stamps a change with a clock that ticks every 1 to 10 ms, some file systems with whole seconds; a direct
// write is stamped when it is begun.
bool CtimeMayStay(const struct stat& info, absl::Time begun);

}  // namespace godwit::files
