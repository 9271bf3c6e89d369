// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/images.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/criu/protobuf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::criu {
namespace {

constexpr uint32_t kServiceMagic = 0x55105940;
constexpr size_t kMaxImage = size_t{16} << 20;
constexpr size_t kMaxRecords = 65536;
constexpr size_t kMaxViews = size_t{1} << 20;
constexpr size_t kMaxFiles = 1u << 20;
constexpr size_t kMaxName = 128;

uint32_t U32(absl::string_view bytes, size_t at) {
  uint32_t value = 0;
  memcpy(&value, bytes.data() + at,
         sizeof(value));  // images are little endian, as are the machines that Godwit runs on
  return value;
}

bool PlainName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxName && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
         });
}

absl::Status Broken(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, " is no sound CRIU image: ", why));
}

// Length of the head before the records, or 0 when it is another file's.
size_t HeadSize(absl::string_view bytes, uint32_t magic) {
  if (bytes.size() >= 4 && magic == kInventoryMagic && U32(bytes, 0) == magic) return 4;
  if (bytes.size() < 8 || U32(bytes, 4) != magic) return 0;
  return U32(bytes, 0) == (magic == kStatsMagic ? kServiceMagic : kCommonMagic) ? 8 : 0;
}

absl::StatusOr<int64_t> RegularFileSize(const std::string& path) {
  struct stat status{};
  if (lstat(path.c_str(), &status) != 0) return ErrnoStatus(absl::StrCat("look at ", path));
  if (!S_ISREG(status.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is not a regular file; CRIU writes no other into its folder"));
  }
  return static_cast<int64_t>(status.st_size);
}

absl::Status CheckDescriptors(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/descriptors.json");
  GODWIT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, 65536));
  GODWIT_ASSIGN_OR_RETURN(const rapidjson::Document document, json::Parse(text));
  const absl::StatusOr<std::vector<std::string>> names =
      json::FromValue<std::vector<std::string>>(document, "descriptors");
  if (!names.ok()) return Annotate(names.status(), path);
  if (names->size() == 3) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      path, " names ", names->size(), " descriptors; runc writes three: stdin, stdout and stderr"));
}

}  // namespace

absl::StatusOr<std::vector<absl::string_view>> SplitImage(absl::string_view bytes, uint32_t magic,
                                                          const std::string& path) {
  size_t at = HeadSize(bytes, magic);
  if (at == 0) return Broken(path, "its first bytes are not those of its kind");
  std::vector<absl::string_view> records;
  while (at < bytes.size()) {
    if (bytes.size() - at < 4) return Broken(path, "it ends within a record's length");
    const size_t size = U32(bytes, at);
    at += 4;
    if (size > bytes.size() - at)
      return Broken(path, absl::StrCat("record ", records.size(), " is longer than the file"));
    if (records.size() == kMaxViews) return Broken(path, absl::StrCat("more than ", kMaxViews, " records"));
    records.push_back(bytes.substr(at, size));
    at += size;
  }
  return records;
}

absl::StatusOr<std::vector<std::string>> ParseImage(absl::string_view bytes, uint32_t magic,
                                                    const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<absl::string_view> records, SplitImage(bytes, magic, path));
  if (records.size() > kMaxRecords) return Broken(path, absl::StrCat("more than ", kMaxRecords, " records"));
  return std::vector<std::string>(records.begin(), records.end());
}

absl::StatusOr<std::vector<std::string>> ReadImage(const std::string& path, uint32_t magic) {
  GODWIT_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxImage));
  return ParseImage(bytes, magic, path);
}

absl::StatusOr<DumpStats> ReadDumpStats(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/stats-dump");
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> records, ReadImage(path, kStatsMagic));
  if (records.empty()) return Broken(path, "it has no record");
  DumpStats stats;
  ProtobufFields entry(records[0]);
  while (entry.Next()) {
    if (entry.number() != 1 || !entry.is_bytes()) continue;  // 1: dump, 2: restore
    ProtobufFields dump(entry.bytes());
    while (dump.Next()) {
      const auto time = absl::Microseconds(static_cast<int64_t>(static_cast<uint32_t>(dump.value())));
      const auto pages = static_cast<int64_t>(std::min<uint64_t>(dump.value(), uint64_t{1} << 50));
      switch (dump.number()) {
        case 1: stats.freezing = time; break;
        case 2: stats.frozen = time; break;
        case 3: stats.memory_dump = time; break;
        case 4: stats.memory_write = time; break;
        case 7:
        case 14: stats.pages_written += pages; break;
        default: break;
      }
    }
    if (!dump.ok()) return Broken(path, "its record is not a stats_entry");
  }
  if (!entry.ok()) return Broken(path, "its record is not a stats_entry");
  return stats;
}

absl::StatusOr<std::vector<DumpedTask>> ReadProcessTree(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/pstree.img");
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> records, ReadImage(path, kPstreeMagic));
  std::vector<DumpedTask> tasks;
  for (const std::string& record : records) {
    DumpedTask task;
    ProtobufFields fields(record);  // pstree_entry: pid = 1, ppid = 2, threads = 5 (repeated)
    while (fields.Next()) {
      if (fields.number() == 1) task.pid = static_cast<int32_t>(fields.value());
      if (fields.number() == 2) task.parent = static_cast<int32_t>(fields.value());
      if (fields.number() == 5) ++task.threads;
    }
    if (!fields.ok() || task.pid <= 0) return Broken(path, "a record is not a pstree_entry");
    tasks.push_back(task);
  }
  if (tasks.empty()) return Broken(path, "it names no process");
  return tasks;
}

absl::Status CheckImages(const std::string& folder) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(folder));
  if (names.size() > kMaxFiles)
    return absl::FailedPreconditionError(absl::StrCat(folder, " holds too many files"));
  const absl::flat_hash_set<std::string> have(names.begin(), names.end());
  for (const std::string& name : names) {
    if (!PlainName(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat(folder, " holds a file with a name that CRIU does not write"));
    }
    GODWIT_RETURN_IF_ERROR(RegularFileSize(absl::StrCat(folder, "/", name)).status());
  }
  for (const char* needed : {"inventory.img", "pstree.img", "descriptors.json"}) {
    if (!have.contains(needed)) {
      return absl::FailedPreconditionError(
          absl::StrCat(folder, " is not a whole dump: ", needed, " is missing"));
    }
  }
  GODWIT_RETURN_IF_ERROR(ReadImage(absl::StrCat(folder, "/inventory.img"), kInventoryMagic).status());
  GODWIT_ASSIGN_OR_RETURN(const std::vector<DumpedTask> tasks, ReadProcessTree(folder));
  for (const DumpedTask& task : tasks) {
    const std::string core = absl::StrCat("core-", task.pid, ".img");
    if (!have.contains(core)) {
      return absl::FailedPreconditionError(
          absl::StrCat(folder, " is not a whole dump: ", core, " is missing"));
    }
  }
  return CheckDescriptors(folder);
}

absl::StatusOr<ImageSizes> MeasureImages(const std::string& folder) {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(folder));
  ImageSizes sizes;
  for (const std::string& name : names) {
    GODWIT_ASSIGN_OR_RETURN(const int64_t size, RegularFileSize(absl::StrCat(folder, "/", name)));
    sizes.total += size;
    if (absl::StartsWith(name, "pages-")) sizes.pages += size;
  }
  return sizes;
}

}  // namespace godwit::criu
