// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/range.h"

#include <unistd.h>

#include <algorithm>

namespace godwit::memory {

uint64_t PageBytes() {
  static const uint64_t bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

Ranges Intersection(const Ranges& a, const Ranges& b) {
  Ranges out;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    Append(out, {std::max(a[i].start, b[j].start), std::min(a[i].end, b[j].end)});
    if (a[i].end < b[j].end) {
      ++i;
    } else {
      ++j;
    }
  }
  return out;
}

Ranges Difference(const Ranges& a, const Ranges& b) {
  Ranges out;
  size_t j = 0;
  for (Range rest : a) {
    while (j < b.size() && b[j].end <= rest.start) ++j;
    for (size_t k = j; k < b.size() && b[k].start < rest.end; ++k) {
      Append(out, {rest.start, b[k].start});
      rest.start = std::max(rest.start, b[k].end);
    }
    Append(out, rest);
  }
  return out;
}

Ranges Union(const Ranges& a, const Ranges& b) {
  Ranges out;
  for (size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    const bool from_a = j == b.size() || (i < a.size() && a[i].start <= b[j].start);
    Append(out, from_a ? a[i++] : b[j++]);
  }
  return out;
}

}  // namespace godwit::memory
