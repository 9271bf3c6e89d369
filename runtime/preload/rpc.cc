// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/rpc.h"

#include <string.h>

namespace godwit::preload {
namespace {

constexpr int kVarint = 0;
constexpr int kFixed64 = 1;
constexpr int kBytes = 2;
constexpr int kFixed32 = 5;

// A walk over the fields of one protobuf message; ends at the first byte that makes no sense.
struct Fields {
  const uint8_t* at;
  const uint8_t* end;

  uint32_t number = 0;
  uint64_t value = 0;              // of a varint
  const uint8_t* bytes = nullptr;  // of a length-delimited field
  size_t length = 0;

  bool Varint(uint64_t* out) {
    *out = 0;
    for (int shift = 0; shift < 64 && at < end; shift += 7) {
      const uint8_t byte = *at++;
      *out |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }

  bool Skip(uint64_t size) {
    if (size > static_cast<uint64_t>(end - at)) return false;
    at += size;
    return true;
  }

  bool Next() {
    uint64_t key = 0;
    if (at >= end || !Varint(&key)) return false;
    number = static_cast<uint32_t>(key >> 3);
    bytes = nullptr;
    switch (key & 7) {
      case kVarint: return Varint(&value);
      case kFixed64: return Skip(8);
      case kFixed32: return Skip(4);
      case kBytes: {
        uint64_t size = 0;
        if (!Varint(&size)) return false;
        bytes = at;
        length = static_cast<size_t>(size);
        return Skip(size);
      }
      default: return false;
    }
  }
};

Fields Walk(const void* message, size_t size) {
  const uint8_t* begin = static_cast<const uint8_t*>(message);
  return Fields{begin, begin + size};
}

}  // namespace

uint64_t MessageType(const void* message, size_t size) {
  Fields fields = Walk(message, size);
  while (fields.Next()) {
    if (fields.number == 1 && fields.bytes == nullptr) return fields.value;
  }
  return 0;
}

bool IsDumpSuccess(const void* message, size_t size) {
  if (MessageType(message, size) != kRequestDump) return false;
  Fields fields = Walk(message, size);
  while (fields.Next()) {
    if (fields.number == 2 && fields.bytes == nullptr) return fields.value != 0;
  }
  return false;
}

bool IsNotification(const void* message, size_t size, const char* name) {
  if (MessageType(message, size) != kNotify) return false;
  Fields fields = Walk(message, size);
  while (fields.Next()) {
    if (fields.number != 5 || fields.bytes == nullptr) continue;
    Fields notify = Walk(fields.bytes, fields.length);
    while (notify.Next()) {
      if (notify.number != 1 || notify.bytes == nullptr) continue;
      return notify.length == strlen(name) && memcmp(notify.bytes, name, notify.length) == 0;
    }
  }
  return false;
}

void LimitLogLevel(void* message, size_t size, uint8_t most) {
  Fields fields = Walk(message, size);
  while (fields.Next()) {
    if (fields.number != 2 || fields.bytes == nullptr) continue;
    Fields options = Walk(fields.bytes, fields.length);
    while (true) {
      const uint8_t* field = options.at;
      if (!options.Next()) break;
      // A key of one byte and a value of one, which is what such a level is written as.
      if (options.number != 9 || options.bytes != nullptr || options.at - field != 2) continue;
      if (options.value > most)
        static_cast<uint8_t*>(message)[field + 1 - static_cast<const uint8_t*>(message)] = most;
    }
  }
}

}  // namespace godwit::preload
