// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::checkpoint {
namespace {

constexpr size_t kChunk = size_t{1} << 20;

struct FreeEntry {
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};
struct FreeReader {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

absl::Status ArchiveStatus(archive* a, absl::string_view what) {
  const char* text = archive_error_string(a);
  return absl::DataLossError(absl::StrCat(what, ": ", text ? text : "unknown error"));
}

// Copies one entry's content to a new file, or past it.
absl::Status CopyEntry(archive* reader, const std::string& name, const std::string& path, int64_t& left) {
  UniqueFd out;
  if (!path.empty()) {
    GODWIT_ASSIGN_OR_RETURN(out, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  }
  std::vector<char> buffer(kChunk);
  for (;;) {
    const la_ssize_t got = archive_read_data(reader, buffer.data(), buffer.size());
    if (got < 0) return ArchiveStatus(reader, absl::StrCat("cannot read ", name));
    if (got == 0) return absl::OkStatus();
    left -= got;
    if (left < 0) return absl::DataLossError(absl::StrCat(name, ": more content than the archive can hold"));
    if (out.ok()) GODWIT_RETURN_IF_ERROR(WriteAll(out.get(), absl::string_view(buffer.data(), got), path));
  }
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }

void Sha256::Update(const void* data, size_t size) { EVP_DigestUpdate(context_.get(), data, size); }

std::string Sha256::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(context_.get(), digest, &size);
  return absl::StrCat("sha256:",
                      absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), size)));
}

absl::StatusOr<std::unique_ptr<TarWriter>> TarWriter::Create(const std::string& path) {
  std::unique_ptr<TarWriter> writer(new TarWriter());
  GODWIT_ASSIGN_OR_RETURN(writer->file_, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
  writer->archive_ = archive_write_new();
  archive_write_set_format_pax_restricted(writer->archive_);
  archive_write_set_bytes_per_block(writer->archive_, static_cast<int>(kChunk));
  archive_write_set_bytes_in_last_block(writer->archive_, 512);
  if (archive_write_open(writer->archive_, writer.get(), nullptr, &TarWriter::Write, nullptr) != ARCHIVE_OK) {
    return ArchiveStatus(writer->archive_, absl::StrCat("cannot begin ", path));
  }
  return writer;
}

TarWriter::~TarWriter() {
  if (archive_) archive_write_free(archive_);
}

ssize_t TarWriter::Write(archive* a, void* self, const void* data, size_t size) {
  auto* writer = static_cast<TarWriter*>(self);
  absl::Status written =
      WriteAll(writer->file_.get(), absl::string_view(static_cast<const char*>(data), size), "archive");
  if (!written.ok()) {
    archive_set_error(a, written.raw_code(), "%s", std::string(written.message()).c_str());
    return -1;
  }
  writer->hash_.Update(data, size);
  writer->size_ += static_cast<int64_t>(size);
  return static_cast<ssize_t>(size);
}

absl::Status TarWriter::AddHeader(const std::string& name, int64_t size) {
  std::unique_ptr<archive_entry, FreeEntry> entry(archive_entry_new());
  archive_entry_set_pathname(entry.get(), name.c_str());
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), 0600);
  archive_entry_set_size(entry.get(), size);
  if (archive_write_header(archive_, entry.get()) != ARCHIVE_OK) {
    return ArchiveStatus(archive_, absl::StrCat("cannot add ", name));
  }
  return absl::OkStatus();
}

absl::Status TarWriter::AddFolder(const std::string& name) {
  std::unique_ptr<archive_entry, FreeEntry> entry(archive_entry_new());
  archive_entry_set_pathname(entry.get(), name.c_str());
  archive_entry_set_filetype(entry.get(), AE_IFDIR);
  archive_entry_set_perm(entry.get(), 0700);
  if (archive_write_header(archive_, entry.get()) != ARCHIVE_OK) {
    return ArchiveStatus(archive_, absl::StrCat("cannot add ", name));
  }
  return absl::OkStatus();
}

absl::Status TarWriter::AddData(const std::string& name, absl::string_view data) {
  if (archive_write_data(archive_, data.data(), data.size()) != static_cast<la_ssize_t>(data.size())) {
    return ArchiveStatus(archive_, absl::StrCat("cannot write ", name));
  }
  return absl::OkStatus();
}

absl::Status TarWriter::AddText(const std::string& name, absl::string_view text) {
  GODWIT_RETURN_IF_ERROR(AddHeader(name, static_cast<int64_t>(text.size())));
  return AddData(name, text);
}

absl::Status TarWriter::AddContent(const std::string& name, int64_t size,
                                   const std::function<absl::Status(const Sink&)>& write) {
  GODWIT_RETURN_IF_ERROR(AddHeader(name, size));
  int64_t left = size;
  GODWIT_RETURN_IF_ERROR(write([&](absl::string_view piece) -> absl::Status {
    left -= static_cast<int64_t>(piece.size());
    if (left < 0) return absl::InternalError(absl::StrCat(name, " has more content than was announced"));
    return AddData(name, piece);
  }));
  if (left != 0) return absl::InternalError(absl::StrCat(name, " has less content than was announced"));
  return absl::OkStatus();
}

absl::Status TarWriter::AddFile(const std::string& name, const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_RDONLY | O_NOFOLLOW));
  struct stat info;
  if (fstat(file.get(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot stat ", path));
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  GODWIT_RETURN_IF_ERROR(AddHeader(name, info.st_size));
  std::vector<char> buffer(kChunk);
  for (int64_t left = info.st_size; left > 0;) {
    const ssize_t got =
        read(file.get(), buffer.data(), static_cast<size_t>(std::min<int64_t>(left, buffer.size())));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(absl::StrCat("cannot read ", path));
    if (got == 0) return absl::DataLossError(absl::StrCat(path, " became shorter while it was archived"));
    GODWIT_RETURN_IF_ERROR(AddData(name, absl::string_view(buffer.data(), static_cast<size_t>(got))));
    left -= got;
  }
  return absl::OkStatus();
}

absl::Status TarWriter::Finish() {
  if (archive_write_close(archive_) != ARCHIVE_OK) return ArchiveStatus(archive_, "cannot end the archive");
  if (fsync(file_.get()) != 0) return ErrnoStatus("cannot bring the archive to the disk");
  digest_ = hash_.Finish();
  return absl::OkStatus();
}

absl::StatusOr<std::string> DigestOf(int fd, int64_t& size) {
  Sha256 hash;
  size = 0;
  std::vector<char> buffer(kChunk);
  for (;;) {
    const ssize_t got = pread(fd, buffer.data(), buffer.size(), size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus("cannot read the archive");
    if (got == 0) break;
    hash.Update(buffer.data(), static_cast<size_t>(got));
    size += got;
  }
  if (lseek(fd, 0, SEEK_SET) != 0) return ErrnoStatus("cannot rewind the archive");
  return hash.Finish();
}

absl::Status ExtractTar(
    int fd, int64_t max_bytes,
    const std::function<absl::StatusOr<std::string>(const std::string& name)>& destination) {
  std::unique_ptr<archive, FreeReader> reader(archive_read_new());
  archive_read_support_format_tar(reader.get());
  if (archive_read_open_fd(reader.get(), fd, kChunk) != ARCHIVE_OK) {
    return ArchiveStatus(reader.get(), "cannot read the archive");
  }
  std::set<std::string> seen;
  int64_t left = max_bytes;
  for (;;) {
    archive_entry* entry = nullptr;
    const int result = archive_read_next_header(reader.get(), &entry);
    if (result == ARCHIVE_EOF) return absl::OkStatus();
    if (result != ARCHIVE_OK) return ArchiveStatus(reader.get(), "cannot read the archive");
    const char* name = archive_entry_pathname(entry);
    if (name && archive_entry_filetype(entry) == AE_IFDIR) continue;
    if (!name || archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry)) {
      return absl::DataLossError(absl::StrCat("entry ", name ? name : "(no name)", " is not a regular file"));
    }
    if (!seen.insert(name).second) return absl::DataLossError(absl::StrCat("entry ", name, " comes twice"));
    GODWIT_ASSIGN_OR_RETURN(std::string path, destination(name));
    GODWIT_RETURN_IF_ERROR(CopyEntry(reader.get(), name, path, left));
  }
}

absl::Status ExtractFirst(int fd, const std::string& name, int64_t max_bytes, const std::string& path) {
  std::unique_ptr<archive, FreeReader> reader(archive_read_new());
  archive_read_support_format_tar(reader.get());
  archive_entry* entry = nullptr;
  if (archive_read_open_fd(reader.get(), fd, kChunk) != ARCHIVE_OK ||
      archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK) {
    return ArchiveStatus(reader.get(), "cannot read the archive");
  }
  const char* first = archive_entry_pathname(entry);
  if (first == nullptr || first != name || archive_entry_filetype(entry) != AE_IFREG ||
      archive_entry_hardlink(entry))
    return absl::DataLossError(absl::StrCat("the archive does not begin with ", name));
  int64_t left = max_bytes;
  return CopyEntry(reader.get(), name, path, left);
}

}  // namespace godwit::checkpoint
