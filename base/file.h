// SPDX-License-Identifier: Apache-2.0
// Files and folders: owned descriptors, bounded reads, durable writes, removal that never leaves the tree.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit {

// Owns one descriptor; closes it when it goes.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  // Gives the descriptor to the caller.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1);

 private:
  int fd_ = -1;
};

// open(2), always with O_CLOEXEC. `mode` matters for O_CREAT only.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, mode_t mode = 0600);

// pipe2(2), with O_CLOEXEC.
absl::Status MakePipe(UniqueFd& read_end, UniqueFd& write_end);

// The whole file. More than max_bytes is ResourceExhausted; works on /proc and cgroupfs, whose files have no
// size.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes = size_t{8} << 20);

// Writes all of `data`, resuming after short writes and signals. `what` names the file in errors.
absl::Status WriteAll(int fd, absl::string_view data, absl::string_view what);

// Overwrites an existing kernel file (cgroupfs, /proc, /sys) with one write(2).
absl::Status WriteKernelFile(const std::string& path, absl::string_view content);

// Replaces `path` as a whole: a reader, also after a crash, sees the old content or the new. When this
// returns OK, file and name are on the disk. The folder must exist. `mode` is exact (the umask does not
// apply).
absl::Status WriteFileDurably(const std::string& path, absl::string_view content, mode_t mode = 0600);

// fsync of a folder: makes names that were created, renamed or removed in it durable.
absl::Status SyncFolder(const std::string& path);

// Makes the folder and those above it that are missing, each with `mode` less the umask. OK when it is there
// already.
absl::Status MakeFolders(const std::string& path, mode_t mode = 0755);

// Removes a file or a folder with all that is in it. OK when nothing is there. Links are removed, not
// followed, and another mount below it is an error, not emptied. What could be removed before an error is
// gone.
absl::Status RemoveTree(const std::string& path);

// Names in a folder, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path);

bool FileExists(const std::string& path);

// Bytes that an unprivileged process could still write to the file system of `path`.
absl::StatusOr<int64_t> FreeBytes(const std::string& path);

}  // namespace godwit
