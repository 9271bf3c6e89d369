// SPDX-License-Identifier: Apache-2.0
// The anonymous shared memory of a container: objects made by mmap(MAP_SHARED | MAP_ANONYMOUS), which any
// number of its tasks map. Each is read once, through a mapping of this process' own.
//
// Which pages were written is not asked of the tasks' page tables: a task that writes and then ends, unmaps
// or is reclaimed from takes its dirty bits along, and a page that was punched (MADV_REMOVE) and read again
// looks untouched. So a look tells which pages have content, and whoever sends them compares it with what was
// sent.
//
// An object can have no descriptor but by /proc/PID/map_files, which takes a privilege over the whole machine
// (CAP_CHECKPOINT_RESTORE outside of user namespaces). So nobody else makes it shorter while it is read here:
// reading beyond its end would be a SIGBUS.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/memory/maps.h"
#include "agent/memory/pagemap_scan.h"
#include "agent/memory/range.h"
#include "base/file.h"

namespace godwit::memory {

// Not thread-safe.
class SharedObjects {
 public:
  // FailedPrecondition: this process may not open what others have mapped.
  static absl::StatusOr<SharedObjects> Start(const std::string& proc);

  // These mappings, of processes of `proc`, are all that there are now. Objects that have none any more are
  // forgotten. One that cannot be had, because its mapping has just gone, is not there.
  void Follow(const std::vector<std::pair<pid_t, SharedMapping>>& mappings);

  struct Object {
    pid_t key = 0;                 // shared_key.h
    uint64_t bytes = 0;            // whole pages, from offset 0 on
    const char* memory = nullptr;  // all of it; valid until Follow
  };
  std::vector<Object> objects() const;  // sorted by key
  // Of one of them; nullptr when there is none of that key.
  const char* MemoryOf(pid_t key) const;

  // The object's pages that have content, by offset: those that are not listed read as zeros, and take memory
  // when they are read here.
  absl::StatusOr<Ranges> Populated(pid_t key) const;

 private:
  class Held;

  SharedObjects(std::string proc, dev_t device, std::string device_name, PagemapScan own)
      : proc_(std::move(proc)), device_(device), device_name_(std::move(device_name)), own_(std::move(own)) {}
  absl::StatusOr<std::shared_ptr<Held>> Open(pid_t pid, const SharedMapping& mapping) const;

  std::string proc_;
  dev_t device_;                                 // of all such objects
  std::string device_name_;                      // as maps has it
  PagemapScan own_;                              // this process' page tables
  std::map<pid_t, std::shared_ptr<Held>> held_;  // by key
};

}  // namespace godwit::memory
