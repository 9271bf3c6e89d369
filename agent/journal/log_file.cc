// SPDX-License-Identifier: Apache-2.0
#include "agent/journal/log_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/crc/crc32c.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::journal {
namespace {

constexpr absl::string_view kMagic("gdwtjnl\x01", 8);
constexpr size_t kRecordHead = 8;

uint32_t LoadU32(const char* bytes) {
  const auto* b = reinterpret_cast<const unsigned char*>(bytes);
  return b[0] | b[1] << 8 | b[2] << 16 | static_cast<uint32_t>(b[3]) << 24;
}

void AppendU32(uint32_t value, std::string& out) {
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(value >> shift));
}

std::string EncodeRecord(absl::string_view payload) {
  std::string checked;
  AppendU32(static_cast<uint32_t>(payload.size()), checked);
  absl::StrAppend(&checked, payload);
  std::string record;
  AppendU32(static_cast<uint32_t>(absl::ComputeCrc32c(checked)), record);
  return record + checked;
}

// The size of the sound record that `bytes` begins with, head included; 0 when it begins with none.
size_t RecordSize(absl::string_view bytes) {
  if (bytes.size() < kRecordHead) return 0;
  const size_t length = LoadU32(bytes.data() + 4);
  if (length > kMaxPayload || length > bytes.size() - kRecordHead) return 0;
  const absl::crc32c_t crc = absl::ComputeCrc32c(bytes.substr(4, 4 + length));
  return static_cast<uint32_t>(crc) == LoadU32(bytes.data()) ? kRecordHead + length : 0;
}

bool HoldsRecord(absl::string_view bytes) {
  for (; bytes.size() > kRecordHead; bytes.remove_prefix(1)) {
    if (RecordSize(bytes) > kRecordHead) return true;  // an empty payload is never written
  }
  return false;
}

absl::Status WriteAt(int fd, absl::string_view bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoStatus("write");
    bytes.remove_prefix(static_cast<size_t>(put));
    offset += static_cast<uint64_t>(put);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Contents> ParseLog(absl::string_view bytes) {
  Contents contents;
  if (bytes.size() < kMagic.size()) {  // a crash between making the file and syncing its header
    contents.torn_bytes = bytes.size();
    return contents;
  }
  const absl::string_view magic = bytes.substr(0, kMagic.size());
  if (magic.substr(0, 7) != kMagic.substr(0, 7)) {
    // A header of zeros is what a crash leaves where the size reached the disk before the bytes did.
    if (bytes.find_first_not_of('\0') == absl::string_view::npos) {
      contents.torn_bytes = bytes.size();
      return contents;
    }
    return absl::InvalidArgumentError("not a journal of Godwit");
  }
  if (magic != kMagic) {
    return absl::FailedPreconditionError(absl::StrCat("journal has version ", static_cast<int>(magic[7]),
                                                      ", this Godwit reads version ",
                                                      static_cast<int>(kMagic[7])));
  }
  contents.good_bytes = kMagic.size();
  while (contents.good_bytes < bytes.size()) {
    const absl::string_view rest = bytes.substr(contents.good_bytes);
    const size_t size = RecordSize(rest);
    if (size <= kRecordHead) {
      const size_t end = rest.find_last_not_of('\0') + 1;  // 0 where there are only zeros
      contents.room_bytes = rest.size() - end;
      contents.torn_bytes = end;
      if (end > 0 && HoldsRecord(rest.substr(1))) {
        return absl::DataLossError(absl::StrCat("journal is damaged at byte ", contents.good_bytes,
                                                ": record ", contents.records.size(), " fails its checksum"));
      }
      break;
    }
    contents.records.emplace_back(rest.substr(kRecordHead, size - kRecordHead));
    contents.good_bytes += size;
  }
  return contents;
}

absl::StatusOr<Contents> ReadLog(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxFile));
  absl::StatusOr<Contents> contents = ParseLog(bytes);
  if (!contents.ok()) return Annotate(contents.status(), path);
  return contents;
}

absl::Status SyncLog(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_RDONLY));
  return fdatasync(fd.get()) == 0 ? absl::OkStatus()
                                  : ErrnoStatus(absl::StrCat("cannot sync journal ", path));
}

absl::StatusOr<LogFile> LogFile::Open(const std::string& path, Contents* contents) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDWR | O_CREAT));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return absl::UnavailableError(absl::StrCat("journal ", path, " is being written by another process"));
    }
    return ErrnoStatus(absl::StrCat("cannot lock journal ", path));
  }
  GODWIT_ASSIGN_OR_RETURN(*contents, ReadLog(path));
  LogFile file(path, std::move(fd));
  GODWIT_RETURN_IF_ERROR(file.Prepare(*contents));
  return file;
}

// Drops a torn tail, begins an empty file, makes room, and syncs what an earlier process wrote and perhaps
// could not sync: from here on it is acted on.
absl::Status LogFile::Prepare(const Contents& contents) {
  size_ = contents.good_bytes;
  room_ = contents.room_bytes;
  if (contents.torn_bytes > 0) {
    if (ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0)
      return ErrnoStatus(absl::StrCat("cannot drop the torn end of journal ", path_));
    room_ = 0;
  }
  const bool fresh = size_ == 0;
  if (fresh) {
    absl::Status written = WriteAt(fd_.get(), kMagic, 0);
    if (!written.ok()) return Annotate(written, absl::StrCat("cannot begin journal ", path_));
    size_ = kMagic.size();
  }
  if (room_ < kRoom / 2) GODWIT_RETURN_IF_ERROR(MakeRoom(kRoom));
  if (fdatasync(fd_.get()) != 0) return ErrnoStatus(absl::StrCat("cannot sync journal ", path_));
  return fresh ? SyncFolder(std::filesystem::absolute(path_).parent_path()) : absl::OkStatus();
}

// Bytes, not a hole: a block that is given out later is the file system's to note down.
absl::Status LogFile::MakeRoom(uint64_t bytes) {
  bytes = std::min<uint64_t>(bytes, kMaxFile - size_);
  if (bytes <= room_) return absl::OkStatus();
  const absl::Status status = WriteAt(fd_.get(), std::string(bytes - room_, '\0'), size_ + room_);
  if (!status.ok()) return Annotate(status, absl::StrCat("cannot make room in journal ", path_));
  room_ = bytes;
  return absl::OkStatus();
}

absl::Status LogFile::Append(absl::string_view payload) {
  if (!broken_.ok()) return broken_;
  if (payload.empty() || payload.size() > kMaxPayload) {
    return absl::InvalidArgumentError(absl::StrCat("journal ", path_, ": a record of ", payload.size(),
                                                   " bytes; 1 to ", kMaxPayload, " are possible"));
  }
  const std::string record = EncodeRecord(payload);
  if (size_ + record.size() > kMaxFile) {
    return absl::ResourceExhaustedError(absl::StrCat("journal ", path_, " is full (", kMaxFile, " bytes)"));
  }
  absl::Status status = WriteAt(fd_.get(), record, size_);
  if (status.ok() && fdatasync(fd_.get()) != 0) status = ErrnoStatus("sync");
  if (!status.ok()) {
    broken_ = Annotate(status, absl::StrCat("cannot append to journal ", path_));
    return broken_;
  }
  size_ += record.size();
  room_ -= std::min<uint64_t>(room_, record.size());
  return absl::OkStatus();
}

}  // namespace godwit::journal
