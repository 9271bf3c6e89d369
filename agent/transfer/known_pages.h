// SPDX-License-Identifier: Apache-2.0
// What a sender knows of a task's memory at the target: a hash a page, 8 bytes, 0 where nothing is known.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/container/btree_map.h"
#include "agent/memory/range.h"

namespace godwit::transfer {

// Threads may work at the same time on pages of different shards.
class KnownPages {
 public:
  static constexpr size_t kShards = 4;
  // Pages that are neighbours share a shard, 512 at a time.
  static size_t ShardOf(uint64_t address);
  // Where the shard of `address` ends and another may begin.
  static uint64_t ShardEnd(uint64_t address);

  // The place of the page's hash; valid until the next Forget.
  uint64_t& HashOf(uint64_t address);
  // The same without making place for it. Threads may ask at the same time.
  uint64_t Find(uint64_t address) const;
  // Of all shards.
  void Forget(memory::Range range);

 private:
  static constexpr uint64_t kChunkPages = 512;
  using Chunk = std::array<uint64_t, kChunkPages>;
  static uint64_t ChunkOf(uint64_t address);

  struct Shard {
    absl::btree_map<uint64_t, std::unique_ptr<Chunk>> chunks;  // by number (ChunkOf)
    uint64_t last_number = 0;                                  // pages come one after another
    Chunk* last = nullptr;

    void Forget(uint64_t first_page, uint64_t end_page);
  };
  std::array<Shard, kShards> shards_;
};

}  // namespace godwit::transfer
