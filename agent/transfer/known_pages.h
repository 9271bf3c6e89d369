// SPDX-License-Identifier: Apache-2.0
// What a sender knows of a task's memory at the target: a hash a page, 8 bytes, 0 where nothing is known.
// Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "absl/container/btree_map.h"
#include "agent/memory/range.h"

namespace godwit::transfer {

class KnownPages {
 public:
  // The place of the page's hash; valid until the next Forget.
  uint64_t& HashOf(uint64_t address);
  // The same without making place for it. Threads may ask at the same time.
  uint64_t Find(uint64_t address) const;
  void Forget(memory::Range range);

 private:
  static constexpr uint64_t kChunkPages = 512;
  using Chunk = std::array<uint64_t, kChunkPages>;

  absl::btree_map<uint64_t, std::unique_ptr<Chunk>>
      chunks_;                // by the number of their first page / kChunkPages
  uint64_t last_number_ = 0;  // pages come one after another
  Chunk* last_ = nullptr;
};

}  // namespace godwit::transfer
