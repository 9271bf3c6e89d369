// SPDX-License-Identifier: Apache-2.0
// A pod's memory on its way into archives: copied to the disk in rounds while the containers run, the last of
// it to this node's memory while they stand still, and read once into the archives when they run again.
//
//   Attach -> CopyRound, CopyRound, ... -> all containers frozen -> for each: LookOwned, CopyLast
//     -> thawed -> Detach -> for each: Lacking, Take
//
// One thread.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/checkpoint/page_file.h"
#include "agent/memory/page_store.h"
#include "agent/memory/range.h"
#include "agent/memory/tracker.h"
#include "agent/migration/pre_copy.h"

namespace godwit::checkpoint {

class MemoryCopy {
 public:
  struct Container {
    std::string name;
    std::string cgroup;  // cgroup2 folder as seen from here
  };
  // `folder`: on the disk, of which `reserve` bytes stay free. When `stop` becomes true, copying and reading
  // end with Cancelled.
  MemoryCopy(std::vector<Container> containers, const migration::MemoryNode& node, std::string folder,
             int64_t reserve, const std::atomic<bool>& stop);

  // Tracks all containers, or none: FailedPrecondition or DeadlineExceeded say why the memory of one cannot
  // be.
  absl::Status Attach();
  // Memory that would be lost: it is written behind the tracker's back. OK when there is none.
  absl::Status CheckPinned() const;

  // Looks at all containers and copies what was written since the last look; returns the bytes of that.
  // ResourceExhausted: the disk has no room for it, with numbers.
  absl::StatusOr<int64_t> CopyRound();

  // Of the last pages, so many bytes go to memory; what is beyond goes to the disk.
  void ReserveMemory(uint64_t bytes) { last_.emplace(bytes); }

  // All containers stand still. What CRIU is to leave out (criu_environment.h: kHiddenPagesVariable); then,
  // while it dumps, the last pages and what the memory is made of.
  absl::StatusOr<std::string> LookOwned(size_t container);
  absl::Status CopyLast(size_t container);

  // Lets the containers' memory go.
  void Detach();

  // What CRIU's images of the container lack: the pages of its tasks, by the pid that CRIU knows, but for
  // those of zeros.
  absl::StatusOr<std::map<pid_t, memory::Ranges>> Lacking(size_t container);
  // Reads of what one is lacking; each page once, for its place is given back.
  absl::Status Take(size_t container, pid_t container_pid, uint64_t address, char* to, size_t size);

 private:
  struct Task {
    pid_t pid = 0;             // the host's, by which the pages are kept
    memory::Ranges populated;  // all that there was at last
    memory::Ranges last;       // of these, what is in last_
    UniqueFd last_file;
  };
  struct Part {
    Container container;
    std::unique_ptr<migration::TrackedMemory> memory;
    std::map<pid_t, memory::Ranges> owned;  // by host pid: what CRIU was told to leave out
    std::map<pid_t, Task> tasks;            // by container pid
  };
  using Keep = absl::FunctionRef<absl::Status(uint64_t address, absl::string_view bytes)>;
  absl::Status Copy(const memory::TaskPages& task, Keep keep, bool standing);
  absl::Status CheckRoom(int64_t bytes) const;
  absl::Status Stopped() const;

  const migration::MemoryNode node_;
  const std::string folder_;
  const int64_t reserve_;
  const std::atomic<bool>& stop_;
  std::vector<Part> parts_;
  std::unique_ptr<PageFile> file_;
  std::optional<memory::PageStore> last_;
  const std::unique_ptr<char[]> buffer_;
};

}  // namespace godwit::checkpoint
