// SPDX-License-Identifier: Apache-2.0
// libarchive behind owned pointers and statuses; tar in the pax format, names as raw bytes.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::files {

struct FreeArchive {
  void operator()(archive* a) const { archive_free(a); }
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};
using EntryPointer = std::unique_ptr<archive_entry, FreeArchive>;

// Writes a tar stream into a sink, in pieces of at most 1 MiB.
class TarWriter {
 public:
  explicit TarWriter(std::function<absl::Status(absl::string_view)> sink);
  ~TarWriter();
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;

  static EntryPointer NewEntry() { return EntryPointer(archive_entry_new()); }
  absl::Status WriteHeader(archive_entry* entry);
  // Content of the entry whose header was written last; exactly the size that it said in all, holes as zeros.
  absl::Status WriteData(absl::string_view data);
  // A small regular file in one go.
  absl::Status WriteFile(const std::string& name, absl::string_view content, int mode);
  // Ends the stream; without it the stream is not whole.
  absl::Status Finish();

 private:
  static la_ssize_t OnWrite(archive*, void* self, const void* data, size_t size);
  // What libarchive writes, and the piece of it that is full.
  absl::Status Take(absl::string_view bytes);
  absl::Status HandOver();
  absl::Status Error(absl::string_view what);

  const std::function<absl::Status(absl::string_view)> sink_;
  absl::Status sink_status_;
  std::string piece_;              // not handed to the sink yet
  std::string* header_ = nullptr;  // where it goes meanwhile, when a header is to be mended
  std::unique_ptr<archive, FreeArchive> archive_;
};

// Reads a tar file (ustar, pax, GNU); no compression, no other format.
class TarReader {
 public:
  static absl::StatusOr<TarReader> Open(const std::string& path);
  // The same from a descriptor, at its present position; it stays the caller's. `piece`: read at a time.
  static absl::StatusOr<TarReader> Read(int fd, const std::string& name, size_t piece = size_t{1} << 20);

  // The next entry, valid until the next call; null at the end. DataLoss when the file is damaged.
  absl::StatusOr<archive_entry*> Next();
  // The next piece of the entry's content; false at its end. Pieces come in order; what lies between them is
  // a hole.
  absl::StatusOr<bool> NextData(absl::string_view& data, int64_t& offset);
  // Where the entry of the last Next begins, or the end that it found; counted from where reading began.
  off_t position() const { return archive_read_header_position(archive_.get()); }
  const std::string& name() const { return name_; }

 private:
  TarReader(std::unique_ptr<archive, FreeArchive> a, std::string name)
      : archive_(std::move(a)), name_(std::move(name)) {}
  absl::Status Error(absl::string_view what);

  std::unique_ptr<archive, FreeArchive> archive_;
  std::string name_;
};

}  // namespace godwit::files
