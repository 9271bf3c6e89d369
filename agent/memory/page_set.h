// SPDX-License-Identifier: Apache-2.0
// A set of pages of an address space: a bit a page, in chunks of 512 pages, so that it is small and quick for
// memory that lies together (8 GiB: 320 KiB) and bounded for memory that does not (a chunk a page).
// Not thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "absl/container/btree_map.h"
#include "agent/memory/range.h"

namespace godwit::memory {

class PageSet {
 public:
  // Both return how many pages changed. Erase costs what is held in the range, not what the range spans.
  uint64_t Insert(Range range);
  uint64_t Erase(Range range);

  // How many pages of the range are not in the set.
  uint64_t Missing(Range range) const;
  // What lies in `window`.
  Ranges Inside(Range window) const;
  uint64_t pages() const { return pages_; }

 private:
  static constexpr uint64_t kChunkPages = 512;
  using Bits = std::array<uint64_t, kChunkPages / 64>;

  uint64_t pages_ = 0;
  absl::btree_map<uint64_t, Bits> chunks_;  // by the number of their first page / kChunkPages; none is empty
};

}  // namespace godwit::memory
