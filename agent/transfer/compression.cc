// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/compression.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "agent/transfer/frame.h"

namespace godwit::transfer {
namespace {

constexpr int kZstdLevel = 1;
constexpr double kLinkMemory = 32.0 * (1 << 20);  // bytes after which a measurement counts half
constexpr double kSampleMemory = 1.0 * (1 << 20);

absl::string_view EncodingName(Encoding encoding) {
  switch (encoding) {
    case Encoding::kRaw: return "raw";
    case Encoding::kLz4: return "lz4";
    case Encoding::kZstd: return "zstd";
  }
  return "unknown";
}

struct FreeZstd {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

}  // namespace

struct Compressor::Contexts {
  std::string lz4 = std::string(static_cast<size_t>(LZ4_sizeofState()), '\0');
  std::unique_ptr<ZSTD_CCtx, FreeZstd> zstd{ZSTD_createCCtx()};
};

Compressor::Compressor() : contexts_(std::make_unique<Contexts>()) {}
Compressor::~Compressor() = default;

absl::string_view Compressor::Encode(Encoding encoding, absl::string_view content) {
  if (encoding == Encoding::kRaw || content.size() < 2) return {};
  // Room for less than the content alone: what does not fit there would not make it smaller.
  if (output_.size() < content.size()) output_.resize(content.size());
  const size_t room = content.size() - 1;
  size_t size = 0;
  if (encoding == Encoding::kLz4) {
    size = static_cast<size_t>(LZ4_compress_fast_extState(contexts_->lz4.data(), content.data(),
                                                          output_.data(), static_cast<int>(content.size()),
                                                          static_cast<int>(room), 1));
  } else {
    const size_t result = ZSTD_compressCCtx(contexts_->zstd.get(), output_.data(), room, content.data(),
                                            content.size(), kZstdLevel);
    if (ZSTD_isError(result) == 0) size = result;
  }
  return {output_.data(), size};
}

struct Decompressor::Contexts {
  std::unique_ptr<ZSTD_DCtx, FreeZstd> zstd{ZSTD_createDCtx()};
};

Decompressor::Decompressor() : contexts_(std::make_unique<Contexts>()) {}
Decompressor::~Decompressor() = default;

absl::StatusOr<absl::string_view> Decompressor::Decode(Encoding encoding, absl::string_view encoded,
                                                       size_t size) {
  size_t got = encoded.size();
  absl::string_view content = encoded;
  if (encoding != Encoding::kRaw) {
    if (output_.size() < size) output_.resize(size);
    if (encoding == Encoding::kLz4) {
      const int result = LZ4_decompress_safe(encoded.data(), output_.data(), static_cast<int>(encoded.size()),
                                             static_cast<int>(size));
      got = result < 0 ? SIZE_MAX : static_cast<size_t>(result);
    } else {
      got = ZSTD_decompressDCtx(contexts_->zstd.get(), output_.data(), size, encoded.data(), encoded.size());
    }
    content = absl::string_view(output_).substr(0, size);
  }
  if (got != size) {
    return absl::DataLossError(absl::StrCat("pages encoded as ", EncodingName(encoding), " are not the ",
                                            size, " bytes that were announced"));
  }
  return content;
}

void EncodingChoice::Average::Add(double more_bytes, double more, double memory_bytes) {
  const double keep = memory_bytes / (memory_bytes + more_bytes);
  bytes = bytes * keep + more_bytes;
  sum = sum * keep + more;
}

void EncodingChoice::Encoded(Encoding encoding, size_t before, size_t after, absl::Duration cpu) {
  Measured& measured = encodings_[static_cast<size_t>(encoding)];
  measured.cpu.Add(static_cast<double>(before), absl::ToDoubleSeconds(cpu), kSampleMemory);
  measured.size.Add(static_cast<double>(before), static_cast<double>(after), kSampleMemory);
}

void EncodingChoice::Sent(size_t bytes, absl::Duration cpu) {
  sent_.Add(static_cast<double>(bytes), absl::ToDoubleSeconds(cpu), kLinkMemory);
}

void EncodingChoice::Carried(int64_t bytes, absl::Duration busy) {
  carried_.Add(static_cast<double>(bytes), absl::ToDoubleSeconds(busy), kLinkMemory);
}

Encoding EncodingChoice::Best(int64_t bandwidth_limit) const {
  const double limit = bandwidth_limit > 0 ? 1.0 / static_cast<double>(bandwidth_limit) : 0;
  const double link = std::max(carried_.PerByte(), limit);
  Encoding best = Encoding::kRaw;
  double least = std::max(sent_.PerByte(), link);
  for (const Encoding encoding : {Encoding::kLz4, Encoding::kZstd}) {
    const Measured& measured = encodings_[static_cast<size_t>(encoding)];
    if (measured.size.bytes == 0) continue;
    const double part = measured.size.PerByte();
    const double time = std::max(measured.cpu.PerByte() + part * sent_.PerByte(), part * link);
    if (time < least) {
      least = time;
      best = encoding;
    }
  }
  return best;
}

}  // namespace godwit::transfer
