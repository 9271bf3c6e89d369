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
//
// Each object takes a descriptor and as much address space as it is large, of a process that works for the
// whole node. A tenant's tasks can make any number of them, and of any size (MAP_NORESERVE): what is beyond
// the bounds here is not followed, and CRIU saves it as it saves all other shared memory.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <map>
#include <memory>
#include <set>
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

// Of one container; applications have a few, and some have a hundred.
struct SharedBounds {
  uint64_t objects = 256;
  uint64_t bytes = uint64_t{1} << 40;
};

// What several SharedObjects may hold together. Thread-safe.
class SharedBudget {
 public:
  explicit SharedBudget(const SharedBounds& most) : most_(most) {}
  SharedBudget(const SharedBudget&) = delete;
  SharedBudget& operator=(const SharedBudget&) = delete;
  // Of all that this process moves, checkpoints and rehearses: a quarter of the descriptors that it may have
  // and 2048 at most, and 4 TiB of its 128 TiB of addresses.
  static SharedBudget& OfProcess();

  // One object's; given back when it goes. The budget outlives it.
  class Share {
   public:
    Share(Share&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Share& operator=(Share&&) = delete;
    ~Share();

   private:
    friend class SharedBudget;
    Share(SharedBudget* budget, uint64_t bytes) : budget_(budget), bytes_(bytes) {}
    SharedBudget* budget_;  // nullptr: moved from
    uint64_t bytes_;
  };
  // ResourceExhausted: it is used up.
  absl::StatusOr<Share> Take(uint64_t bytes);

  uint64_t objects() const { return objects_; }
  uint64_t bytes() const { return bytes_; }

 private:
  const SharedBounds most_;
  std::atomic<uint64_t> objects_ = 0, bytes_ = 0;
};

// Not thread-safe.
class SharedObjects {
 public:
  // `own` bounds what this one follows, `all` what all that share it do. FailedPrecondition: this process may
  // not open what others have mapped.
  static absl::StatusOr<SharedObjects> Start(const std::string& proc, const SharedBounds& own = {},
                                             SharedBudget& all = SharedBudget::OfProcess());

  // These mappings, of processes of `proc`, are all that there are now. Objects that have none any more are
  // forgotten. One that cannot be had, because its mapping has just gone, is not there. Nor is one that is
  // left to CRIU, because it is beyond the bounds or this process cannot map it; it stays left for as long as
  // it is mapped, and what is followed stays followed.
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

  SharedObjects(std::string proc, const SharedBounds& bounds, SharedBudget& all, dev_t device,
                std::string device_name, PagemapScan own)
      : proc_(std::move(proc)),
        bounds_(bounds),
        all_(&all),
        device_(device),
        device_name_(std::move(device_name)),
        own_(std::move(own)) {}
  pid_t KeyOf(const SharedMapping& mapping) const;
  absl::StatusOr<std::shared_ptr<Held>> Open(pid_t pid, const SharedMapping& mapping) const;

  std::string proc_;
  SharedBounds bounds_;
  SharedBudget* all_;
  dev_t device_;                                 // of all such objects
  std::string device_name_;                      // as maps has it
  PagemapScan own_;                              // this process' page tables
  std::map<pid_t, std::shared_ptr<Held>> held_;  // by key
  std::set<pid_t> left_;                         // to CRIU
};

}  // namespace godwit::memory
