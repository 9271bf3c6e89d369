// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/protobuf.h"

#include <cstring>

namespace godwit::criu {

bool ProtobufFields::Varint(uint64_t& out) {
  out = 0;
  for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    out |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

bool ProtobufFields::Take(uint64_t size, absl::string_view& out) {
  if (size > rest_.size()) return false;
  out = rest_.substr(0, size);
  rest_.remove_prefix(size);
  return true;
}

bool ProtobufFields::Next() {
  if (!ok_ || rest_.empty()) return false;
  uint64_t key = 0;
  ok_ = Varint(key) && key >> 3 != 0 && key >> 3 < (1u << 29);
  if (!ok_) return false;
  number_ = static_cast<uint32_t>(key >> 3);
  is_bytes_ = false;
  value_ = 0;
  bytes_ = {};
  absl::string_view fixed;
  uint64_t size = 0;
  switch (key & 7) {
    case 0: ok_ = Varint(value_); break;
    case 1:
      ok_ = Take(8, fixed);
      if (ok_) memcpy(&value_, fixed.data(), 8);
      break;
    case 2:
      is_bytes_ = true;
      ok_ = Varint(size) && Take(size, bytes_);
      break;
    case 5:
      ok_ = Take(4, fixed);
      if (ok_) memcpy(&value_, fixed.data(), 4);
      break;
    default: ok_ = false;
  }
  return ok_;
}

}  // namespace godwit::criu
