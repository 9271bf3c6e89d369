// SPDX-License-Identifier: Apache-2.0
// The file of a task's pages (agent/memory/page_store.h), as the pager reads it: a page at the offset of its
// address, holes where there are none. Holes are never read through a mapping, which would fill them. Map is
// for one thread; all else is for any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/memory/range.h"

namespace godwit::pager {

// No page of a store lies there or beyond.
inline constexpr uint64_t kAddressEnd = uint64_t{1} << 57;

// Does not own the descriptor. -1: a store without pages.
class Store {
 public:
  explicit Store(int fd) : fd_(fd) {}
  ~Store() { Unmap(); }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  int fd() const { return fd_; }
  // The first page held at or after `offset`; nullopt: there is none. Waits while Punch runs.
  absl::StatusOr<std::optional<uint64_t>> NextHeld(uint64_t offset) const;
  // The same up to the next hole; takes time for each page between.
  absl::StatusOr<std::optional<memory::Range>> NextRun(uint64_t offset) const;
  // Holes and what is beyond the end read as zeros. Does not wait.
  absl::Status ReadAt(uint64_t offset, char* data, size_t bytes) const;
  // Held pages, mapped until the next call.
  absl::StatusOr<const char*> Map(memory::Range offsets);
  // From where on pages may be mapped; what is below is given back much faster.
  uint64_t mapped_from() const { return window_offsets_.start; }
  absl::Status Punch(memory::Range offsets) const;
  absl::StatusOr<int64_t> HeldBytes() const;

 private:
  void Unmap();

  const int fd_;
  char* window_ = nullptr;
  memory::Range window_offsets_;
};

}  // namespace godwit::pager
