// SPDX-License-Identifier: Apache-2.0
// Processes whose memory is tracked and read, without a kernel.
#pragma once

#include <sys/types.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/memory/range.h"
#include "agent/memory/tracker.h"
#include "agent/migration/pre_copy.h"

namespace godwit::checkpoint {

inline const uint64_t kPage = memory::PageBytes();
inline constexpr uint64_t kBase = 0x7f0000000000;
inline constexpr uint64_t kMapped = 4000;  // pages that a task has mapped

inline uint64_t Address(uint64_t page) { return kBase + page * kPage; }
inline memory::Range Pages(uint64_t first, uint64_t end) { return {Address(first), Address(end)}; }

// Processes that behave as the kernel shows them to a tracker: a page is filled with one byte.
class World {
 public:
  struct Process {
    pid_t container_pid = 0;
    std::map<uint64_t, char> pages;
    std::set<uint64_t> dirty;
  };
  void Write(pid_t pid, uint64_t page, char byte) {
    processes[pid].pages[page] = byte;
    processes[pid].dirty.insert(page);
  }
  // As madvise(MADV_DONTNEED): no look shows it but by its absence at last.
  void Drop(pid_t pid, uint64_t page) {
    processes[pid].pages.erase(page);
    processes[pid].dirty.erase(page);
  }
  absl::StatusOr<size_t> Read(pid_t pid, uint64_t address, char* to, size_t size) {
    if (while_reading) while_reading();
    const auto process = processes.find(pid);
    if (process == processes.end()) return absl::NotFoundError("gone");
    size_t got = 0;
    for (; got < size; got += kPage) {
      const auto page = process->second.pages.find((address + got - kBase) / kPage);
      if (unreadable.contains((address + got - kBase) / kPage)) break;
      memset(to + got, page == process->second.pages.end() ? 0 : page->second, kPage);
    }
    return got;
  }

  std::map<pid_t, Process> processes;
  std::set<uint64_t> unreadable;
  std::vector<memory::Pinned> pinned;
  std::function<void()> while_reading;
  int tracked = 0;
};

class FakeTracked final : public migration::TrackedMemory {
 public:
  explicit FakeTracked(World* world) : world_(*world) { ++world_.tracked; }
  ~FakeTracked() override { --world_.tracked; }
  absl::StatusOr<memory::Look> Round() override {
    memory::Look look = TakeLook(false);
    for (auto& [pid, process] : world_.processes) process.dirty.clear();
    return look;
  }
  absl::StatusOr<memory::Look> Owned() override {
    memory::Look look;
    for (const auto& [pid, process] : world_.processes)
      look.tasks.push_back(
          {.pid = pid, .container_pid = process.container_pid, .owned = {Pages(0, kMapped)}});
    return look;
  }
  absl::StatusOr<memory::Look> Last() override { return TakeLook(true); }
  const char* SharedMemory(pid_t) const override { return nullptr; }
  std::vector<memory::Pinned> FindPinned() const override { return world_.pinned; }

 private:
  memory::Look TakeLook(bool last) const {
    memory::Look look;
    for (const auto& [pid, process] : world_.processes) {
      memory::TaskPages task{
          .pid = pid, .container_pid = process.container_pid, .owned = {Pages(0, kMapped)}};
      for (const uint64_t page : process.dirty) memory::Append(task.dirty, Pages(page, page + 1));
      for (const auto& [page, byte] : process.pages) {
        if (last) memory::Append(task.populated, Pages(page, page + 1));
      }
      look.tasks.push_back(std::move(task));
    }
    return look;
  }
  World& world_;
};

}  // namespace godwit::checkpoint
