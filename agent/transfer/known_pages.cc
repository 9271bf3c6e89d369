// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/known_pages.h"

#include <algorithm>

namespace godwit::transfer {

uint64_t KnownPages::ChunkOf(uint64_t address) { return address / memory::PageBytes() / kChunkPages; }

size_t KnownPages::ShardOf(uint64_t address) { return ChunkOf(address) % kShards; }

uint64_t KnownPages::ShardEnd(uint64_t address) {
  return (ChunkOf(address) + 1) * kChunkPages * memory::PageBytes();
}

uint64_t& KnownPages::HashOf(uint64_t address) {
  const uint64_t page = address / memory::PageBytes();
  const uint64_t number = page / kChunkPages;
  Shard& shard = shards_[number % kShards];
  if (shard.last == nullptr || shard.last_number != number) {
    std::unique_ptr<Chunk>& chunk = shard.chunks[number];
    if (chunk == nullptr) chunk = std::make_unique<Chunk>();
    shard.last_number = number;
    shard.last = chunk.get();
  }
  return (*shard.last)[page % kChunkPages];
}

uint64_t KnownPages::Find(uint64_t address) const {
  const uint64_t page = address / memory::PageBytes();
  const uint64_t number = page / kChunkPages;
  const Shard& shard = shards_[number % kShards];
  const auto chunk = shard.chunks.find(number);
  return chunk == shard.chunks.end() ? 0 : (*chunk->second)[page % kChunkPages];
}

void KnownPages::Forget(memory::Range range) {
  if (range.start >= range.end) return;
  const uint64_t first = ChunkOf(range.start);
  const uint64_t chunks = ChunkOf(range.end - 1) - first + 1;
  for (uint64_t i = 0; i < std::min<uint64_t>(chunks, kShards); ++i) {
    shards_[(first + i) % kShards].Forget(range.start / memory::PageBytes(), range.end / memory::PageBytes());
  }
}

void KnownPages::Shard::Forget(uint64_t first_page, uint64_t end_page) {
  last = nullptr;
  auto at = chunks.lower_bound(first_page / kChunkPages);
  while (at != chunks.end() && at->first * kChunkPages < end_page) {
    const uint64_t chunk_first = at->first * kChunkPages;
    const uint64_t from = std::max(first_page, chunk_first) - chunk_first;
    const uint64_t to = std::min(end_page, chunk_first + kChunkPages) - chunk_first;
    if (to - from == kChunkPages) {
      at = chunks.erase(at);
    } else {
      std::fill(at->second->begin() + static_cast<ptrdiff_t>(from),
                at->second->begin() + static_cast<ptrdiff_t>(to), 0);
      ++at;
    }
  }
}

}  // namespace godwit::transfer
