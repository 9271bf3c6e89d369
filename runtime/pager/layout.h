// SPDX-License-Identifier: Apache-2.0
// Where a task has the pages of its store by now. At first each page is at the address that is its offset in
// the store; the task may move pages (mremap) and drop them (munmap, madvise), and no page is ever in two
// places. Ranges are whole pages. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "agent/memory/range.h"

namespace godwit::pager {

// Pages that lie together in the task and in the store.
struct Piece {
  uint64_t address = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  bool operator==(const Piece&) const = default;
};

class Layout {
 public:
  Layout();

  // The piece from `address` on; nullopt: the store has nothing for that address any more, it reads as zeros.
  std::optional<Piece> At(uint64_t address) const;
  // What is still wanted of these addresses, by address.
  std::vector<Piece> Within(memory::Range addresses) const;
  // The first piece that is wanted of the store's [offset, end), cut to it.
  std::optional<Piece> NextStored(uint64_t offset, uint64_t end) const;

  void Remove(memory::Range addresses) { Extract(addresses); }
  // What was at `to` before is gone.
  void Move(uint64_t from, uint64_t to, uint64_t bytes);

 private:
  std::vector<Piece> Extract(memory::Range addresses);
  void Insert(const Piece& piece);
  void Erase(const Piece& piece);

  std::map<uint64_t, Piece> by_address_;
  std::map<uint64_t, uint64_t> by_offset_;  // to the address
};

}  // namespace godwit::pager
