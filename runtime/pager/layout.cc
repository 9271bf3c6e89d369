// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/layout.h"

#include <algorithm>
#include <iterator>

namespace godwit::pager {
namespace {

// Above every address of user space, and a file offset still.
constexpr uint64_t kEnd = uint64_t{1} << 62;

// What of `piece` lies at these addresses.
Piece Cut(const Piece& piece, memory::Range addresses) {
  const uint64_t start = std::max(piece.address, addresses.start);
  const uint64_t end = std::min(piece.address + piece.bytes, addresses.end);
  return {start, piece.offset + (start - piece.address), end - start};
}

}  // namespace

Layout::Layout() { Insert({0, 0, kEnd}); }

std::optional<Piece> Layout::At(uint64_t address) const {
  auto next = by_address_.upper_bound(address);
  if (next == by_address_.begin()) return std::nullopt;
  const Piece& piece = std::prev(next)->second;
  const uint64_t end = piece.address + piece.bytes;
  if (address >= end) return std::nullopt;
  return Cut(piece, {address, end});
}

std::vector<Piece> Layout::Within(memory::Range addresses) const {
  std::vector<Piece> pieces;
  if (addresses.start >= addresses.end) return pieces;
  auto at = by_address_.upper_bound(addresses.start);
  if (at != by_address_.begin()) --at;
  for (; at != by_address_.end() && at->first < addresses.end; ++at) {
    if (at->second.address + at->second.bytes > addresses.start) pieces.push_back(Cut(at->second, addresses));
  }
  return pieces;
}

std::optional<Piece> Layout::NextStored(uint64_t offset, uint64_t end) const {
  if (offset >= end) return std::nullopt;
  auto at = by_offset_.upper_bound(offset);
  if (at != by_offset_.begin()) {
    const Piece& before = by_address_.at(std::prev(at)->second);
    if (before.offset + before.bytes > offset) --at;
  }
  if (at == by_offset_.end() || at->first >= end) return std::nullopt;
  const Piece& piece = by_address_.at(at->second);
  const uint64_t start = std::max(piece.offset, offset);
  return Piece{piece.address + (start - piece.offset), start,
               std::min(piece.offset + piece.bytes, end) - start};
}

void Layout::Move(uint64_t from, uint64_t to, uint64_t bytes) {
  if (from == to) return;
  const std::vector<Piece> moved = Extract({from, std::min(from + bytes, kEnd)});
  Extract({to, std::min(to + bytes, kEnd)});
  for (Piece piece : moved) {
    piece.address = piece.address - from + to;
    Insert(piece);
  }
}

std::vector<Piece> Layout::Extract(memory::Range addresses) {
  std::vector<Piece> taken = Within(addresses);
  for (const Piece& piece : taken) {
    const Piece whole = std::prev(by_address_.upper_bound(piece.address))->second;
    Erase(whole);
    const uint64_t end = piece.address + piece.bytes;
    const uint64_t whole_end = whole.address + whole.bytes;
    if (whole.address < piece.address) Insert(Cut(whole, {whole.address, piece.address}));
    if (end < whole_end) Insert(Cut(whole, {end, whole_end}));
  }
  return taken;
}

void Layout::Insert(const Piece& piece) {
  by_address_[piece.address] = piece;
  by_offset_[piece.offset] = piece.address;
}

void Layout::Erase(const Piece& piece) {
  by_address_.erase(piece.address);
  by_offset_.erase(piece.offset);
}

}  // namespace godwit::pager
