// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/page_set.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/status.h"

namespace godwit::memory {
namespace {

constexpr uint64_t kWordPages = 64;
constexpr uint64_t kAllPages = ~uint64_t{0};

// Page numbers [first, end).
struct Pages {
  explicit Pages(Range range) : first(range.start / PageBytes()), end(range.end / PageBytes()) {}
  uint64_t first, end;
};

// The bits of the word whose first page is `word_first` that stand for pages in `pages`.
uint64_t Mask(Pages pages, uint64_t word_first) {
  const uint64_t from = std::max(pages.first, word_first);
  const uint64_t to = std::min(pages.end, word_first + kWordPages);
  if (from >= to) return 0;
  return (kAllPages >> (kWordPages - (to - from))) << (from - word_first);
}

absl::Status WriteChunk(int file, uint64_t number, const void* bits, size_t size) {
  const ssize_t written = pwrite(file, bits, size, static_cast<off_t>(number * size));
  if (written == static_cast<ssize_t>(size)) return absl::OkStatus();
  return ErrnoStatus("cannot write a map of pages");
}

}  // namespace

uint64_t PageSet::Insert(Range range) {
  const Pages pages(range);
  uint64_t added = 0;
  for (uint64_t number = pages.first / kChunkPages; number * kChunkPages < pages.end; ++number) {
    Bits& bits = chunks_[number];
    for (size_t i = 0; i < bits.size(); ++i) {
      const uint64_t mask = Mask(pages, number * kChunkPages + i * kWordPages);
      added += static_cast<uint64_t>(std::popcount(mask & ~bits[i]));
      bits[i] |= mask;
    }
  }
  pages_ += added;
  return added;
}

uint64_t PageSet::Erase(Range range) {
  const Pages pages(range);
  uint64_t removed = 0;
  auto at = chunks_.lower_bound(pages.first / kChunkPages);
  while (at != chunks_.end() && at->first * kChunkPages < pages.end) {
    Bits& bits = at->second;
    uint64_t left = 0;
    for (size_t i = 0; i < bits.size(); ++i) {
      const uint64_t mask = Mask(pages, at->first * kChunkPages + i * kWordPages);
      removed += static_cast<uint64_t>(std::popcount(mask & bits[i]));
      left |= bits[i] &= ~mask;
    }
    at = left == 0 ? chunks_.erase(at) : std::next(at);
  }
  pages_ -= removed;
  return removed;
}

uint64_t PageSet::Missing(Range range) const {
  const Pages pages(range);
  uint64_t present = 0;
  for (auto at = chunks_.lower_bound(pages.first / kChunkPages);
       at != chunks_.end() && at->first * kChunkPages < pages.end; ++at) {
    for (size_t i = 0; i < at->second.size(); ++i) {
      const uint64_t mask = Mask(pages, at->first * kChunkPages + i * kWordPages);
      present += static_cast<uint64_t>(std::popcount(mask & at->second[i]));
    }
  }
  return pages.end - pages.first - present;
}

Ranges PageSet::Inside(Range window) const {
  const Pages pages(window);
  const uint64_t page = PageBytes();
  Ranges out;
  // A list of millions is made in one piece: growing it would take longer than filling it. Every run begins
  // in some word; those that go on in the next are counted twice.
  size_t runs = 0;
  for (auto at = chunks_.lower_bound(pages.first / kChunkPages);
       at != chunks_.end() && at->first * kChunkPages < pages.end; ++at) {
    for (const uint64_t word : at->second) runs += static_cast<size_t>(std::popcount(word & ~(word << 1)));
  }
  out.reserve(runs);
  for (auto at = chunks_.lower_bound(pages.first / kChunkPages);
       at != chunks_.end() && at->first * kChunkPages < pages.end; ++at) {
    for (size_t i = 0; i < at->second.size(); ++i) {
      const uint64_t word_first = at->first * kChunkPages + i * kWordPages;
      uint64_t word = at->second[i] & Mask(pages, word_first);
      while (word != 0) {
        const int first = std::countr_zero(word);
        const int end = first + std::countr_one(word >> first);
        Append(out, {(word_first + static_cast<uint64_t>(first)) * page,
                     (word_first + static_cast<uint64_t>(end)) * page});
        word = end == kWordPages ? 0 : word & (kAllPages << end);
      }
    }
  }
  return out;
}

absl::Status PageSet::WriteMap(int file) const {
  for (const auto& [number, bits] : chunks_)
    GODWIT_RETURN_IF_ERROR(WriteChunk(file, number, bits.data(), sizeof bits));
  return absl::OkStatus();
}

absl::Status PageSet::WriteMap(int file, Range range) const {
  const Pages pages(range);
  static constexpr Bits kNone{};
  for (uint64_t number = pages.first / kChunkPages; number * kChunkPages < pages.end; ++number) {
    const auto chunk = chunks_.find(number);
    const Bits& bits = chunk == chunks_.end() ? kNone : chunk->second;
    GODWIT_RETURN_IF_ERROR(WriteChunk(file, number, bits.data(), sizeof bits));
  }
  return absl::OkStatus();
}

absl::StatusOr<PageSet> PageSet::ReadMap(int file) {
  PageSet set;
  std::array<Bits, 64> block;  // a page of the file
  for (off_t at = 0;; at += sizeof block) {
    at = lseek(file, at, SEEK_DATA);
    if (at < 0 && errno == ENXIO) return set;
    if (at < 0) return ErrnoStatus("cannot search a map of pages");
    at -= at % static_cast<off_t>(sizeof block);
    const ssize_t got = pread(file, block.data(), sizeof block, at);
    if (got != sizeof block) return ErrnoStatus("cannot read a map of pages");
    for (size_t i = 0; i < block.size(); ++i) {
      uint64_t pages = 0;
      for (const uint64_t word : block[i]) pages += static_cast<uint64_t>(std::popcount(word));
      if (pages == 0) continue;
      set.chunks_[static_cast<uint64_t>(at) / sizeof(Bits) + i] = block[i];
      set.pages_ += pages;
    }
  }
}

}  // namespace godwit::memory
