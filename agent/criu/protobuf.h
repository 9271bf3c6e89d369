// SPDX-License-Identifier: Apache-2.0
// Reads protobuf messages field by field, without their schema: what little is needed of CRIU's images. Bytes
// may be hostile: every length is checked, nothing is copied.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace godwit::criu {

class ProtobufFields {
 public:
  explicit ProtobufFields(absl::string_view message) : rest_(message) {}

  // Steps to the next field. False at the end, or at bytes that are no field: ok() tells which.
  bool Next();
  bool ok() const { return ok_; }

  uint32_t number() const { return number_; }
  bool is_bytes() const { return is_bytes_; }
  uint64_t value() const { return value_; }           // of an integer field
  absl::string_view bytes() const { return bytes_; }  // of a string, a bytes or a message field

 private:
  bool Varint(uint64_t& out);
  bool Take(uint64_t size, absl::string_view& out);

  absl::string_view rest_;
  bool ok_ = true;
  uint32_t number_ = 0;
  bool is_bytes_ = false;
  uint64_t value_ = 0;
  absl::string_view bytes_;
};

}  // namespace godwit::criu
