// SPDX-License-Identifier: Apache-2.0
// What a tree looked like when it was last packed, kept in memory between the rounds of a pre-copy.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <atomic>
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

// Bounds of one tree. A name may cost its owner 16 bytes of a disk, where it costs some 200 in memory and two
// paths of 4 KiB in the tar: a tree of more files, or of longer paths in all, is not packed
// (ResourceExhausted). Files beyond so many blocks (256 GiB, holes too, for which 32 MiB of memory are kept)
// are packed whole when they change.
inline constexpr int64_t kMaxEntries = 1'000'000;
inline constexpr int64_t kMaxPathBytes = int64_t{256} << 20;  // of all paths, and what names say beside
inline constexpr int64_t kMaxBlocks = int64_t{4} << 20;
// Of all trees that this process remembers at a time.
inline constexpr int64_t kMaxHeldEntries = 8 * kMaxEntries;

// Entries that are in memory, which count in the whole process for as long as this lives.
class HeldEntries {
 public:
  HeldEntries() = default;
  HeldEntries(HeldEntries&& other) noexcept : count_(std::exchange(other.count_, 0)) {}
  HeldEntries& operator=(HeldEntries&& other) noexcept {
    Give(std::exchange(count_, std::exchange(other.count_, 0)));
    return *this;
  }
  ~HeldEntries() { Give(count_); }

  int64_t count() const { return count_; }
  // Now so many. False: with them it would be more than kMaxHeldEntries in all; the count stays.
  bool Set(int64_t count) {
    const int64_t more = count - count_;
    if (in_process_.fetch_add(more) + more > kMaxHeldEntries && more > 0) {
      Give(more);
      return false;
    }
    count_ = count;
    return true;
  }

 private:
  static void Give(int64_t count) { in_process_ -= count; }
  inline static std::atomic<int64_t> in_process_ = 0;
  int64_t count_ = 0;
};

// Moved, never copied.
struct Snapshot {
  Node root{.name = "."};
  int64_t entries = 0;     // below the root
  int64_t path_bytes = 0;  // of their paths
  int64_t blocks = 0;
  HeldEntries held;
};

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
