// SPDX-License-Identifier: Apache-2.0
// The content of a regular file: where it holds data, what of it differs from what was sent before, and its
// way into a tar.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/files/tar.h"

namespace godwit::files {

// Larger files are not packed: ext4 could not hold them, and however few of their blocks hold data, their
// length costs time.
inline constexpr int64_t kMostFileBytes = int64_t{16} << 40;

using Extents = std::vector<std::pair<off_t, off_t>>;  // begin, end; ascending, apart

class Content {
 public:
  // `fd` stays the caller's. `moving`: the file may become shorter meanwhile; what is missing is taken for
  // zeros.
  Content(int fd, const struct stat& info, std::string what, bool moving, std::string& buffer)
      : fd_(fd), info_(info), what_(std::move(what)), moving_(moving), buffer_(buffer) {}

  // The parts that hold data; all holes give none.
  absl::StatusOr<Extents> Data();
  // The blocks that are not as `blocks` says, which is of a file of any size.
  absl::StatusOr<Extents> Changed(const std::vector<uint64_t>& blocks);
  // Widened to whole blocks.
  Extents Aligned(const Extents& extents) const;

  // Writes header and these parts (InvalidArgument for a file of more than kMostFileBytes); `blocks`, unless
  // null, becomes what was written, and stays where nothing was. The parts are whole blocks then.
  absl::Status Write(archive_entry* header, const Extents& extents, TarWriter& tar,
                     std::vector<uint64_t>* blocks);

  int64_t bytes() const { return bytes_; }       // of content written
  bool shortened() const { return shortened_; }  // while it was read

 private:
  // Up to a buffer's length of the file's content.
  absl::StatusOr<absl::string_view> Read(off_t begin, off_t end);

  const int fd_;
  const struct stat info_;
  const std::string what_;
  const bool moving_;
  std::string& buffer_;
  int64_t bytes_ = 0;
  bool shortened_ = false;
};

// How many blocks a file of this size has.
int64_t BlockCount(int64_t size);

}  // namespace godwit::files
