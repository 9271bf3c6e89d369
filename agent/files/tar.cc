// SPDX-License-Identifier: Apache-2.0
#include "agent/files/tar.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace godwit::files {
namespace {

constexpr size_t kPieceBytes = 1 << 20;

// Of a header's block (POSIX, pax: "ustar Header Block").
constexpr size_t kBlock = 512;
constexpr size_t kSizeAt = 124, kSizeLength = 12;
constexpr size_t kChecksumAt = 148, kChecksumLength = 8;
constexpr size_t kTypeAt = 156;
constexpr absl::string_view kSparseName = "GNU.sparse.name=";

// "<its own length> <text>\n", as an extended header has them.
std::string Record(absl::string_view text) {
  const size_t others = text.size() + 2;
  size_t length = 0;
  while (others + absl::StrCat(length).size() != length) length = others + absl::StrCat(length).size();
  return absl::StrCat(length, " ", text, "\n");
}

void SetSize(std::string& block, size_t size) {
  block.replace(kSizeAt, kSizeLength, absl::StrFormat("%011o", size) + '\0');
  block.replace(kChecksumAt, kChecksumLength, kChecksumLength, ' ');
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  block.replace(kChecksumAt, kChecksumLength, absl::StrFormat("%06o", sum) + '\0' + ' ');
}

// libarchive says a sparse file's name twice: in "path", and in "GNU.sparse.name", which readers believe.
// There it says what it made of the name for those who know only ustar: shortened, where it does not fit
// there (libarchive issue 901; 3.7.4). Gives the header, which begins with the extended one, with the name.
absl::StatusOr<std::string> WithSparseName(absl::string_view header, absl::string_view name) {
  const absl::Status strange =
      absl::InternalError("its header is not as libarchive writes that of a sparse file");
  size_t size = 0;
  if (header.size() < kBlock || header[kTypeAt] != 'x') return strange;
  for (const char digit : header.substr(kSizeAt, kSizeLength)) {
    if (digit < '0' || digit > '7') break;
    size = size * 8 + static_cast<size_t>(digit - '0');
  }
  const size_t padded = (size + kBlock - 1) / kBlock * kBlock;
  if (header.size() - kBlock < padded) return strange;
  std::string records;
  bool named = false;
  for (absl::string_view left = header.substr(kBlock, size); !left.empty();) {
    size_t length = 0;
    const size_t space = left.find(' ');
    if (space == left.npos || !absl::SimpleAtoi(left.substr(0, space), &length)) return strange;
    if (length < space + 2 || length > left.size()) return strange;
    const bool is_name = absl::StartsWith(left.substr(space + 1, length - space - 2), kSparseName);
    absl::StrAppend(&records, is_name ? Record(absl::StrCat(kSparseName, name)) : left.substr(0, length));
    named |= is_name;
    left.remove_prefix(length);
  }
  if (!named) return strange;
  std::string block(header.substr(0, kBlock));
  SetSize(block, records.size());
  records.resize((records.size() + kBlock - 1) / kBlock * kBlock, '\0');
  return absl::StrCat(block, records, header.substr(kBlock + padded));
}

}  // namespace

TarWriter::TarWriter(std::function<absl::Status(absl::string_view)> sink)
    : sink_(std::move(sink)), archive_(archive_write_new()) {
  archive* a = archive_.get();
  archive_write_set_format_pax(a);
  // File names are bytes; libarchive would otherwise convert them by the locale, and fail where they are no
  // UTF-8.
  archive_write_set_format_option(a, "pax", "hdrcharset", "BINARY");
  archive_write_set_bytes_per_block(a, 0);  // at once, so that what is written is known to be a header
  archive_write_open2(a, this, nullptr, &TarWriter::OnWrite, nullptr, nullptr);
}

TarWriter::~TarWriter() {
  archive_write_fail(archive_.get());  // what was not finished is not flushed into a sink that may be gone
}

la_ssize_t TarWriter::OnWrite(archive* a, void* self, const void* data, size_t size) {
  auto* writer = static_cast<TarWriter*>(self);
  if (writer->sink_status_.ok())
    writer->sink_status_ = writer->Take(absl::string_view(static_cast<const char*>(data), size));
  if (writer->sink_status_.ok()) return static_cast<la_ssize_t>(size);
  archive_set_error(a, EIO, "the sink failed");
  return -1;
}

absl::Status TarWriter::Take(absl::string_view bytes) {
  if (header_ != nullptr) {
    absl::StrAppend(header_, bytes);
    return absl::OkStatus();
  }
  while (!bytes.empty()) {
    const absl::string_view fits = bytes.substr(0, kPieceBytes - piece_.size());
    piece_.append(fits.data(), fits.size());
    bytes.remove_prefix(fits.size());
    if (piece_.size() == kPieceBytes) GODWIT_RETURN_IF_ERROR(HandOver());
  }
  return absl::OkStatus();
}

absl::Status TarWriter::HandOver() {
  const absl::Status taken = piece_.empty() ? absl::OkStatus() : sink_(piece_);
  piece_.clear();
  return taken;
}

absl::Status TarWriter::Error(absl::string_view what) {
  if (!sink_status_.ok()) return sink_status_;
  const char* why = archive_error_string(archive_.get());
  return absl::InternalError(absl::StrCat(what, ": ", why != nullptr ? why : "libarchive failed"));
}

absl::Status TarWriter::WriteHeader(archive_entry* entry) {
  const auto what = [entry] {
    const char* name = archive_entry_pathname(entry);
    return absl::StrCat("cannot write ", name != nullptr ? name : "an entry", " to a tar");
  };
  const bool sparse = archive_entry_filetype(entry) == AE_IFREG && archive_entry_hardlink(entry) == nullptr &&
                      archive_entry_sparse_count(entry) > 0;
  // What the entry before still needs goes first.
  if (sparse && archive_write_finish_entry(archive_.get()) != ARCHIVE_OK) return Error(what());
  std::string header;
  header_ = sparse ? &header : nullptr;
  const int written = archive_write_header(archive_.get(), entry);
  header_ = nullptr;
  if (written != ARCHIVE_OK) return Error(what());
  if (!sparse) return absl::OkStatus();
  const absl::StatusOr<std::string> mended = WithSparseName(header, archive_entry_pathname(entry));
  if (!mended.ok()) return Annotate(mended.status(), what());
  return sink_status_ = Take(*mended);
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
  if (archive_write_close(archive_.get()) != ARCHIVE_OK) return Error("cannot finish a tar");
  return sink_status_ = HandOver();
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
