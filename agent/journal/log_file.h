// SPDX-License-Identifier: Apache-2.0
// An append-only file of checked records: what survives a crash when Append has returned.
//
// Layout, little endian: 8 bytes "gdwtjnl" and the version, then for each record
//   u32 crc32c of the next 4 bytes and the payload · u32 length of the payload · payload
// then zeros: room for records to come. Appending within the room changes nothing but the bytes of the file,
// so that its sync need not wait for a commit of the file system's own journal, and with it for whatever else
// is being written on the disk.
//
// A record that a crash cut short can only be the last one, for each Append is on the disk before it returns:
// such a tail is dropped. A damaged record with a sound one after it is DataLoss, and nobody should act on
// what the file says.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/file.h"

namespace godwit::journal {

inline constexpr size_t kMaxPayload = 16u << 10;  // bytes of one record
inline constexpr size_t kRoom = 8u << 10;         // bytes made ready for records to come
inline constexpr size_t kMaxFile =
    1u << 20;  // bytes of a whole journal: a migration writes a handful of records

// What the bytes of a file say.
struct Contents {
  std::vector<std::string> records;
  uint64_t good_bytes = 0;  // header and sound records
  uint64_t torn_bytes = 0;  // the tail that a crash left, to be dropped; not the room behind it
  uint64_t room_bytes = 0;  // zeros at the end
};

// Reads the bytes of a journal. DataLoss when they were damaged, FailedPrecondition when another version
// wrote them, InvalidArgument when they are no journal at all.
absl::StatusOr<Contents> ParseLog(absl::string_view bytes);

// ParseLog of a file, without opening it for writing. NotFound when there is none.
absl::StatusOr<Contents> ReadLog(const std::string& path);

// Returns when what ReadLog has read is on the disk, whoever wrote it.
absl::Status SyncLog(const std::string& path);

// The one writer of a journal file. Not thread-safe.
class LogFile {
 public:
  // Opens the file, or makes it with mode 0600 (its folder must exist), drops a torn tail and gives the
  // records in
  // `*contents`. Unavailable when another process has it open for writing; otherwise errors as ReadLog.
  static absl::StatusOr<LogFile> Open(const std::string& path, Contents* contents);

  // Returns when the record is on the disk. After an error nobody knows what is there, so the file takes no
  // more: open it anew, which reads what became of it.
  absl::Status Append(absl::string_view payload);

  const std::string& path() const { return path_; }

 private:
  LogFile(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  absl::Status Prepare(const Contents& contents);
  // Not synced.
  absl::Status MakeRoom(uint64_t bytes);

  std::string path_;
  UniqueFd fd_;
  uint64_t size_ = 0;  // header and records
  uint64_t room_ = 0;  // zeros behind them
  absl::Status broken_;
};

}  // namespace godwit::journal
