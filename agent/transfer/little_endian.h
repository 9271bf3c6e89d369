// SPDX-License-Identifier: Apache-2.0
// Numbers as they stand in frames: little endian whatever the machine, at any address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace godwit::transfer {

template <class T>
void Store(char* to, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
}

template <class T>
T Load(const char* from) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value |= uint64_t{static_cast<unsigned char>(from[i])} << (8 * i);
  return static_cast<T>(value);
}

template <class T>
void AppendNumber(std::string& to, T value) {
  char bytes[sizeof(T)];
  Store<T>(bytes, value);
  to.append(bytes, sizeof(T));
}

}  // namespace godwit::transfer
