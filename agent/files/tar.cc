// SPDX-License-Identifier: Apache-2.0
#include "agent/files/tar.h"

#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::files {
namespace {

constexpr int kPieceBytes = 1 << 20;

}  // namespace

TarWriter::TarWriter(std::function<absl::Status(absl::string_view)> sink)
    : sink_(std::move(sink)), archive_(archive_write_new()) {
  archive* a = archive_.get();
  archive_write_set_format_pax(a);
  // File names are bytes; libarchive would otherwise convert them by the locale, and fail where they are no
  // UTF-8.
  archive_write_set_format_option(a, "pax", "hdrcharset", "BINARY");
  archive_write_set_bytes_per_block(a, kPieceBytes);
  archive_write_set_bytes_in_last_block(a, 1);
  archive_write_open2(a, this, nullptr, &TarWriter::OnWrite, nullptr, nullptr);
}

TarWriter::~TarWriter() {
  archive_write_fail(archive_.get());  // what was not finished is not flushed into a sink that may be gone
}

la_ssize_t TarWriter::OnWrite(archive* a, void* self, const void* data, size_t size) {
  auto* writer = static_cast<TarWriter*>(self);
  writer->sink_status_ = writer->sink_(absl::string_view(static_cast<const char*>(data), size));
  if (writer->sink_status_.ok()) return static_cast<la_ssize_t>(size);
  archive_set_error(a, EIO, "the sink failed");
  return -1;
}

absl::Status TarWriter::Error(absl::string_view what) {
  if (!sink_status_.ok()) return sink_status_;
  const char* why = archive_error_string(archive_.get());
  return absl::InternalError(absl::StrCat(what, ": ", why != nullptr ? why : "libarchive failed"));
}

absl::Status TarWriter::WriteHeader(archive_entry* entry) {
  if (archive_write_header(archive_.get(), entry) == ARCHIVE_OK) return absl::OkStatus();
  const char* name = archive_entry_pathname(entry);
  return Error(absl::StrCat("cannot write ", name != nullptr ? name : "an entry", " to a tar"));
}

absl::Status TarWriter::WriteData(absl::string_view data) {
  while (!data.empty()) {
    const la_ssize_t written = archive_write_data(archive_.get(), data.data(), data.size());
    if (written <= 0) return Error("cannot write to a tar");
    data.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status TarWriter::WriteFile(const std::string& name, absl::string_view content, int mode) {
  EntryPointer entry = NewEntry();
  archive_entry_set_pathname(entry.get(), name.c_str());
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), static_cast<mode_t>(mode));
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(content.size()));
  GODWIT_RETURN_IF_ERROR(WriteHeader(entry.get()));
  return WriteData(content);
}

absl::Status TarWriter::Finish() {
  if (archive_write_close(archive_.get()) == ARCHIVE_OK) return absl::OkStatus();
  return Error("cannot finish a tar");
}

absl::StatusOr<TarReader> TarReader::Open(const std::string& path) {
  TarReader reader(std::unique_ptr<archive, FreeArchive>(archive_read_new()), path);
  archive_read_support_format_tar(reader.archive_.get());
  if (archive_read_open_filename(reader.archive_.get(), path.c_str(), kPieceBytes) != ARCHIVE_OK)
    return reader.Error("open");
  return reader;
}

absl::StatusOr<TarReader> TarReader::Read(int fd, const std::string& name, size_t piece) {
  TarReader reader(std::unique_ptr<archive, FreeArchive>(archive_read_new()), name);
  archive_read_support_format_tar(reader.archive_.get());
  if (archive_read_open_fd(reader.archive_.get(), fd, piece) != ARCHIVE_OK) return reader.Error("open");
  return reader;
}

absl::Status TarReader::Error(absl::string_view what) {
  const char* why = archive_error_string(archive_.get());
  return absl::DataLossError(absl::StrCat("cannot read the tar ", name_, " (", what,
                                          "): ", why != nullptr ? why : "libarchive failed"));
}

absl::StatusOr<archive_entry*> TarReader::Next() {
  archive_entry* entry = nullptr;
  switch (archive_read_next_header(archive_.get(), &entry)) {
    case ARCHIVE_OK: return entry;
    case ARCHIVE_EOF: return nullptr;
    default: return Error("header");  // a warning too: something of the entry was not understood
  }
}

absl::StatusOr<bool> TarReader::NextData(absl::string_view& data, int64_t& offset) {
  const void* block = nullptr;
  size_t size = 0;
  la_int64_t at = 0;
  switch (archive_read_data_block(archive_.get(), &block, &size, &at)) {
    case ARCHIVE_OK:
      data = absl::string_view(static_cast<const char*>(block), size);
      offset = at;
      return true;
    case ARCHIVE_EOF: return false;
    default: return Error("content");
  }
}

}  // namespace godwit::files
