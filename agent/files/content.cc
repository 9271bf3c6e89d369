// SPDX-License-Identifier: Apache-2.0
#include "agent/files/content.h"

#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "agent/files/snapshot.h"
#include "base/status.h"

namespace godwit::files {
namespace {

constexpr size_t kPieceBytes = 1u << 20;
static_assert(kPieceBytes % kBlockBytes == 0);
constexpr uint64_t kHole = 0;

uint64_t HashOf(absl::string_view block) {
  const uint64_t hash = XXH3_64bits(block.data(), block.size());
  return hash == kHole ? 1 : hash;
}

void Append(Extents& extents, off_t begin, off_t end) {
  if (!extents.empty() && extents.back().second >= begin) {
    extents.back().second = std::max(extents.back().second, end);
  } else {
    extents.emplace_back(begin, end);
  }
}

// Zeros that are nowhere: the kernel's one page of them, for as long as nobody writes here.
constexpr size_t kZerosBytes = size_t{1} << 30;

absl::StatusOr<absl::string_view> ManyZeros() {
  static void* const zeros =
      mmap(nullptr, kZerosBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (zeros == MAP_FAILED) return absl::ResourceExhaustedError("no address space for a hole's zeros");
  return absl::string_view(static_cast<const char*>(zeros), kZerosBytes);
}

// libarchive is handed holes as zeros and leaves them out, without looking at them: a hole costs by the
// pieces that it is handed in.
absl::Status Zeros(TarWriter& tar, off_t count) {
  if (count == 0) return absl::OkStatus();
  GODWIT_ASSIGN_OR_RETURN(const absl::string_view zeros, ManyZeros());
  for (; count > 0; count -= std::min<off_t>(count, kZerosBytes))
    GODWIT_RETURN_IF_ERROR(tar.WriteData(zeros.substr(0, std::min<off_t>(count, kZerosBytes))));
  return absl::OkStatus();
}

}  // namespace

int64_t BlockCount(int64_t size) { return (size + kBlockBytes - 1) / kBlockBytes; }

absl::StatusOr<Extents> Content::Data() {
  Extents extents;
  if (info_.st_size == 0) return extents;
  if (info_.st_blocks * 512 >= info_.st_size) return Extents{{0, info_.st_size}};
  for (off_t at = 0; at < info_.st_size;) {
    const off_t begin = lseek(fd_, at, SEEK_DATA);
    if ((begin < 0 && errno == ENXIO) || begin >= info_.st_size) break;  // only a hole is left
    if (begin < 0) return ErrnoStatus(absl::StrCat("cannot look for data in ", what_));
    off_t end = lseek(fd_, begin, SEEK_HOLE);
    if (end < 0 && errno == ENXIO && moving_) end = info_.st_size;  // cut off just now
    if (end < 0) return ErrnoStatus(absl::StrCat("cannot look for holes in ", what_));
    extents.emplace_back(begin, std::min<off_t>(end, info_.st_size));
    at = end;
  }
  return extents;
}

Extents Content::Aligned(const Extents& extents) const {
  Extents aligned;
  for (const auto& [begin, end] : extents) {
    Append(aligned, begin / kBlockBytes * kBlockBytes,
           std::min<off_t>(BlockCount(end) * kBlockBytes, info_.st_size));
  }
  return aligned;
}

absl::StatusOr<Extents> Content::Changed(const std::vector<uint64_t>& blocks) {
  GODWIT_ASSIGN_OR_RETURN(const Extents data, Data());
  Extents changed;
  // In a hole: what was data must become zeros; where nothing was, zeros come by themselves.
  auto hole = [&](off_t begin, off_t end) {
    for (off_t at = begin; at < end && at / kBlockBytes < static_cast<off_t>(blocks.size());
         at += kBlockBytes) {
      if (blocks[at / kBlockBytes] != kHole)
        Append(changed, at, std::min<off_t>(at + kBlockBytes, info_.st_size));
    }
  };
  off_t done = 0;
  for (const auto& [begin, end] : Aligned(data)) {
    hole(done, begin);
    for (off_t at = begin; at < end;) {
      GODWIT_ASSIGN_OR_RETURN(absl::string_view piece, Read(at, end));
      for (; !piece.empty(); piece.remove_prefix(std::min<size_t>(kBlockBytes, piece.size()))) {
        const absl::string_view block = piece.substr(0, kBlockBytes);
        const size_t index = static_cast<size_t>(at / kBlockBytes);
        if (index >= blocks.size() || blocks[index] != HashOf(block))
          Append(changed, at, at + static_cast<off_t>(block.size()));
        at += static_cast<off_t>(block.size());
      }
    }
    done = end;
  }
  hole(done, info_.st_size);
  return changed;
}

absl::StatusOr<absl::string_view> Content::Read(off_t begin, off_t end) {
  if (buffer_.empty()) buffer_.resize(kPieceBytes);
  const size_t wanted = std::min<size_t>(buffer_.size(), static_cast<size_t>(end - begin));
  size_t have = 0;
  while (have < wanted) {
    const ssize_t got = pread(fd_, buffer_.data() + have, wanted - have, begin + static_cast<off_t>(have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(absl::StrCat("cannot read ", what_));
    if (got == 0) {
      if (!moving_) return absl::DataLossError(absl::StrCat(what_, " became shorter while it was read"));
      std::memset(buffer_.data() + have, 0, wanted - have);
      shortened_ = true;
      break;
    }
    have += static_cast<size_t>(got);
  }
  return absl::string_view(buffer_).substr(0, wanted);
}

absl::Status Content::Write(archive_entry* header, const Extents& extents, TarWriter& tar,
                            std::vector<uint64_t>* blocks) {
  if (info_.st_size > kMostFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what_, " is larger than the ", kMostFileBytes >> 40, " TiB that a file may have"));
  }
  archive_entry_set_size(header, info_.st_size);
  const bool whole = extents.size() == 1 && extents[0] == std::pair<off_t, off_t>(0, info_.st_size);
  if (!whole && info_.st_size > 0) {
    for (const auto& [begin, end] : extents) archive_entry_sparse_add_entry(header, begin, end - begin);
    // libarchive wants one part of length 0 at the end where all is a hole.
    if (extents.empty()) archive_entry_sparse_add_entry(header, info_.st_size, 0);
  }
  GODWIT_RETURN_IF_ERROR(tar.WriteHeader(header));
  if (blocks != nullptr) blocks->resize(static_cast<size_t>(BlockCount(info_.st_size)), kHole);
  off_t at = 0;
  for (const auto& [begin, end] : extents) {
    GODWIT_RETURN_IF_ERROR(Zeros(tar, begin - at));
    for (at = begin; at < end;) {
      GODWIT_ASSIGN_OR_RETURN(const absl::string_view piece, Read(at, end));
      GODWIT_RETURN_IF_ERROR(tar.WriteData(piece));
      for (size_t done = 0; blocks != nullptr && done < piece.size(); done += kBlockBytes) {
        (*blocks)[static_cast<size_t>(at) / kBlockBytes + done / kBlockBytes] =
            HashOf(piece.substr(done, kBlockBytes));
      }
      at += static_cast<off_t>(piece.size());
      bytes_ += static_cast<int64_t>(piece.size());
    }
  }
  return Zeros(tar, info_.st_size - at);
}

}  // namespace godwit::files
