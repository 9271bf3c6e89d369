// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/known_pages.h"

#include <algorithm>

namespace godwit::transfer {

uint64_t& KnownPages::HashOf(uint64_t address) {
  const uint64_t page = address / memory::PageBytes();
  const uint64_t number = page / kChunkPages;
  if (last_ == nullptr || last_number_ != number) {
    std::unique_ptr<Chunk>& chunk = chunks_[number];
    if (chunk == nullptr) chunk = std::make_unique<Chunk>();
    last_number_ = number;
    last_ = chunk.get();
  }
  return (*last_)[page % kChunkPages];
}

uint64_t KnownPages::Find(uint64_t address) const {
  const uint64_t page = address / memory::PageBytes();
  const auto chunk = chunks_.find(page / kChunkPages);
  return chunk == chunks_.end() ? 0 : (*chunk->second)[page % kChunkPages];
}

void KnownPages::Forget(memory::Range range) {
  const uint64_t first = range.start / memory::PageBytes();
  const uint64_t end = range.end / memory::PageBytes();
  last_ = nullptr;
  auto at = chunks_.lower_bound(first / kChunkPages);
  while (at != chunks_.end() && at->first * kChunkPages < end) {
    const uint64_t chunk_first = at->first * kChunkPages;
    const uint64_t from = std::max(first, chunk_first) - chunk_first;
    const uint64_t to = std::min(end, chunk_first + kChunkPages) - chunk_first;
    if (to - from == kChunkPages) {
      at = chunks_.erase(at);
    } else {
      std::fill(at->second->begin() + static_cast<ptrdiff_t>(from),
                at->second->begin() + static_cast<ptrdiff_t>(to), 0);
      ++at;
    }
  }
}

}  // namespace godwit::transfer
