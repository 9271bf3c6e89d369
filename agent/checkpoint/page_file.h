// SPDX-License-Identifier: Apache-2.0
// The memory of a pod while it is copied: pages of its tasks in one file on the disk, which has no name, so
// that it ends with this object or with the process. A page has a place in it from the first time that it is
// written, in that order; where it is, is kept in memory (4 bytes a page). A page of zeros has none.
//
// The file's addresses are not the tasks': most file systems have no file that is as long as an address space
// (memory::PageStore's are in memory). Not thread-safe.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/memory/range.h"
#include "base/file.h"

namespace godwit::checkpoint {

class PageFile {
 public:
  // `folder`: on the disk that is to have it.
  static absl::StatusOr<std::unique_ptr<PageFile>> Make(const std::string& folder);

  // `bytes` is whole pages, `address` the first one's. Now and then it waits for the disk, so that no more
  // than some 64 MiB are on their way there. ResourceExhausted: the disk is full. After an error the content
  // of these pages is undefined.
  absl::Status Write(pid_t task, uint64_t address, absl::string_view bytes);
  // Nothing is known of these pages any more.
  void Forget(pid_t task, memory::Range range);
  // Forgets every task that is not among `tasks`, which is sorted.
  void KeepTasks(const std::vector<pid_t>& tasks);
  // Returns when the disk has all that was written.
  absl::Status Sync();

  // Those of `pages` that are not of zeros. DataLoss when nothing is known of one of them.
  absl::StatusOr<memory::Ranges> WithContent(pid_t task, const memory::Ranges& pages) const;
  // Reads pages with content, `size` bytes at `address`, and gives their places on the disk back: each can be
  // read once.
  absl::Status Take(pid_t task, uint64_t address, char* to, size_t size);

  // How much of the disk the pages take.
  uint64_t bytes() const;

 private:
  using Place = uint32_t;  // in pages from the beginning of the file
  static constexpr Place kUnknown = 0, kZeros = 1, kFirst = 2;
  static constexpr uint64_t kChunkPages = 64;
  using Chunk = std::array<Place, kChunkPages>;
  using Task =
      absl::btree_map<uint64_t, std::unique_ptr<Chunk>>;  // by the number of their first page / kChunkPages

  explicit PageFile(UniqueFd file) : file_(std::move(file)) {}
  Place Find(const Task& task, uint64_t page) const;
  absl::StatusOr<Place> NewPlace();
  void Free(Place place);
  absl::Status WriteRun(Place first, absl::string_view bytes);

  const UniqueFd file_;
  std::map<pid_t, Task> tasks_;
  Place end_ = kFirst;
  std::vector<Place> free_;
  uint64_t unsynced_ = 0;  // bytes written since the disk was asked to take some
};

}  // namespace godwit::checkpoint
