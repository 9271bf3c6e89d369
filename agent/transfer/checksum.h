// SPDX-License-Identifier: Apache-2.0
// XXH3-64 over pieces.
#pragma once

#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>  // the same functions, by AVX2 or AVX-512 where the machine has them
#endif

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace godwit::transfer {

class Checksum {
 public:
  Checksum() : state_(XXH3_createState()) { XXH3_64bits_reset(state_.get()); }
  void Update(absl::string_view bytes) { XXH3_64bits_update(state_.get(), bytes.data(), bytes.size()); }
  uint64_t Value() const { return XXH3_64bits_digest(state_.get()); }
  // As it is written in messages: 16 lower-case hex digits.
  std::string Text() const { return absl::StrFormat("%016x", Value()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace godwit::transfer
