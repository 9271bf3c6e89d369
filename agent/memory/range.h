// SPDX-License-Identifier: Apache-2.0
// Address ranges of a task's memory: [start, end), both multiples of the page size. A list of them is sorted,
// without overlaps, and neighbours that touch are joined.
#pragma once

#include <cstdint>
#include <vector>

namespace godwit::memory {

struct Range {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t bytes() const { return end - start; }
  bool operator==(const Range&) const = default;
};

using Ranges = std::vector<Range>;

// Appends to a list whose last range does not begin after `range`; joins what touches or overlaps.
inline void Append(Ranges& list, Range range) {
  if (range.start >= range.end) return;
  if (!list.empty() && range.start <= list.back().end) {
    if (range.end > list.back().end) list.back().end = range.end;
  } else {
    list.push_back(range);
  }
}

inline uint64_t Bytes(const Ranges& list) {
  uint64_t bytes = 0;
  for (const Range& range : list) bytes += range.bytes();
  return bytes;
}

// The kernel's page size, in bytes.
uint64_t PageBytes();

// What lies in both lists, and what lies in `a` but not in `b`.
Ranges Intersection(const Ranges& a, const Ranges& b);
Ranges Difference(const Ranges& a, const Ranges& b);
Ranges Union(const Ranges& a, const Ranges& b);

}  // namespace godwit::memory
