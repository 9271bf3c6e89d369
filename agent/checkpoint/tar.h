// SPDX-License-Identifier: Apache-2.0
// libarchive behind RAII, for archives that this folder writes and reads.
#pragma once

#include <openssl/evp.h>

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/file.h"

struct archive;
struct archive_entry;

namespace godwit::checkpoint {

// SHA-256 of bytes as they pass.
class Sha256 {
 public:
  Sha256();
  void Update(const void* data, size_t size);
  // "sha256:<hex>"; call once.
  std::string Finish();

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

// Writes a pax tar file and its digest in one pass. Not copyable; one thread.
class TarWriter {
 public:
  static absl::StatusOr<std::unique_ptr<TarWriter>> Create(const std::string& path);
  ~TarWriter();
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;

  // An entry for the folder itself; checkpointctl looks for "checkpoint".
  absl::Status AddFolder(const std::string& name);
  absl::Status AddText(const std::string& name, absl::string_view text);
  // A regular file; its size is taken once, a file that shrinks meanwhile is an error.
  absl::Status AddFile(const std::string& name, const std::string& path);
  // A regular file of exactly `size` bytes, which `write` gives piece by piece.
  using Sink = std::function<absl::Status(absl::string_view)>;
  absl::Status AddContent(const std::string& name, int64_t size,
                          const std::function<absl::Status(const Sink&)>& write);
  // Ends the archive and brings it to the disk.
  absl::Status Finish();

  int64_t size() const { return size_; }
  const std::string& digest() const { return digest_; }

 private:
  TarWriter() = default;
  static ssize_t Write(archive*, void* self, const void* data, size_t size);
  absl::Status AddHeader(const std::string& name, int64_t size);
  absl::Status AddData(const std::string& name, absl::string_view data);

  UniqueFd file_;
  archive* archive_ = nullptr;
  Sha256 hash_;
  int64_t size_ = 0;
  std::string digest_;
};

// Size and digest of a file that is open for reading; the offset is back at the beginning afterwards.
absl::StatusOr<std::string> DigestOf(int fd, int64_t& size);

// Walks a tar file. `entry` gets each regular file's name and size and says where its content goes (an empty
// path: nowhere). Files are made new, with mode 0600. Folders' own entries are passed over. DataLoss for all
// other kinds, for a name that comes twice and for content beyond max_bytes in all.
absl::Status ExtractTar(
    int fd, int64_t max_bytes,
    const std::function<absl::StatusOr<std::string>(const std::string& name)>& destination);

// Copies the first entry of a tar file, a regular file of this name and at most max_bytes, to the new file
// `path`; no more of the tar file is read. DataLoss when it begins otherwise.
absl::Status ExtractFirst(int fd, const std::string& name, int64_t max_bytes, const std::string& path);

}  // namespace godwit::checkpoint
