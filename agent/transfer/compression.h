// SPDX-License-Identifier: Apache-2.0
// How the content of PAGES frames is encoded: with LZ4's block format, zstd (level 1), or not at all,
// whichever gets it over soonest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/transfer/page_frame.h"

namespace godwit::transfer {

// Not thread-safe: keeps the compressors' memory.
class Compressor {
 public:
  Compressor();
  ~Compressor();
  // `content` encoded, valid until the next call; empty when that would not make it smaller (kRaw never
  // does).
  absl::string_view Encode(Encoding encoding, absl::string_view content);

 private:
  struct Contexts;
  std::unique_ptr<Contexts> contexts_;
  std::string output_;
};

// Not thread-safe.
class Decompressor {
 public:
  Decompressor();
  ~Decompressor();
  // What `encoded` holds, which must be `size` bytes, not one more or fewer (else DataLoss); valid until the
  // next call and as long as `encoded`.
  absl::StatusOr<absl::string_view> Decode(Encoding encoding, absl::string_view encoded, size_t size);

 private:
  struct Contexts;
  std::unique_ptr<Contexts> contexts_;
  std::string output_;
};

// Which encoding to use next. Encoding and encrypting happen in this thread while the kernel sends what went
// before, so content that is sent by a way that shrinks it to the part r takes the longer of two times a
// byte:
//   c + r * e   c: to encode a byte; e: to encrypt a byte and hand it to the kernel; CPU time of this thread
//   r * l       l: what the link takes for a byte, or the bandwidth limit
// All of them are measured, late measurements count most: c and r on samples of the content, e on all that is
// sent, l by the kernel (Stream::link_use). The way that takes least is chosen. So a fast link gets raw
// pages, one of 1 Gbit/s zstd where the content gives in, and memory that does not shrink goes raw
// everywhere.
class EncodingChoice {
 public:
  void Encoded(Encoding encoding, size_t before, size_t after, absl::Duration cpu);
  void Sent(size_t bytes, absl::Duration cpu);
  // `busy`: how long the link had something of these bytes to send.
  void Carried(int64_t bytes, absl::Duration busy);
  Encoding Best(int64_t bandwidth_limit) const;

 private:
  // A sum over bytes, in which the old fades as new bytes come in.
  struct Average {
    double bytes = 0;
    double sum = 0;
    void Add(double more_bytes, double more, double memory_bytes);
    double PerByte() const { return bytes > 0 ? sum / bytes : 0; }
  };
  struct Measured {
    Average cpu, size;
  };
  std::array<Measured, 3> encodings_;  // by Encoding; kRaw costs nothing
  Average sent_;
  Average carried_;
};

}  // namespace godwit::transfer
