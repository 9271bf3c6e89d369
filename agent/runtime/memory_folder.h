// SPDX-License-Identifier: Apache-2.0
// A folder in memory for what is needed for moments: a tmpfs that is mounted nowhere. No mount namespace
// shows it and nothing is left of it, for it goes, with all in it, when the process that made it ends.
//
// On a disk the dozens of small files that CRIU writes and reads in a freeze cost 16 to 23 ms of it
// (docs/design/page-engine.md), most of that waiting for the journal's fsyncs.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/file.h"

namespace godwit::runtime {

class MemoryFolder {
 public:
  // Empty, and of at most `bytes` (then ENOSPC). FailedPrecondition: this kernel or this process' privileges
  // do not allow it (Linux 5.2, CAP_SYS_ADMIN).
  static absl::StatusOr<MemoryFolder> Make(int64_t bytes);

  // For every process that has this one by the same process id (the agent's is the host's) and may trace it;
  // while this object lives.
  const std::string& path() const { return path_; }

  MemoryFolder(MemoryFolder&& other) noexcept = default;
  MemoryFolder& operator=(MemoryFolder&& other) noexcept;
  ~MemoryFolder() { Close(); }
  // How many this process has now.
  static int alive();

 private:
  MemoryFolder(UniqueFd mount, std::string path);
  void Close();

  UniqueFd mount_;  // none: moved from
  std::string path_;
};

}  // namespace godwit::runtime
