// SPDX-License-Identifier: Apache-2.0
// A set of pages of an address space: a bit a page, in chunks of 512 pages, so that it is small and quick for
// memory that lies together (8 GiB: 320 KiB) and bounded for memory that does not (a chunk a page).
// Not thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  bool empty() const { return pages_ == 0; }

  // As a map in a sparse file, a memfd: bit n % 64 of the 64-bit word n / 64, in this machine's byte order,
  // stands for page n. `file` is as long as it may have to be (kMapBytes).
  static constexpr int64_t kMapBytes = (int64_t{1} << 57) / 4096 / 8;
  absl::Status WriteMap(int file) const;
  // The bits of the pages in `range`, and of some around it.
  absl::Status WriteMap(int file, Range range) const;
  static absl::StatusOr<PageSet> ReadMap(int file);

 private:
  static constexpr uint64_t kChunkPages = 512;
  using Bits = std::array<uint64_t, kChunkPages / 64>;

  uint64_t pages_ = 0;
  absl::btree_map<uint64_t, Bits> chunks_;  // by the number of their first page / kChunkPages; none is empty
};

}  // namespace godwit::memory
