// SPDX-License-Identifier: Apache-2.0
#include "agent/files/merged_tar.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "agent/files/change_mark.h"
#include "agent/files/content.h"
#include "agent/files/tar.h"
#include "base/status.h"

namespace godwit::files {
namespace {

constexpr size_t kPieceBytes = 1u << 20;
constexpr size_t kSmallPieceBytes = 64u << 10;  // of one entry, which is likely small
constexpr size_t kEndBytes = 1024;              // two blocks of zeros end a tar (pax(1))
constexpr absl::string_view kWhiteout = ".wh.";
constexpr absl::string_view kOpaque = ".wh..wh..opq";

absl::Status NotPacked(absl::string_view path, absl::string_view why) {
  return absl::DataLossError(
      absl::StrCat("the tars of \"", absl::CHexEscape(path), "\" do not belong together: ", why));
}

// As Packer names it: without a "/" at the end; "." is the tree itself.
std::string PathOf(const char* raw) { return std::string(absl::StripSuffix(raw == nullptr ? "" : raw, "/")); }

absl::string_view NameIn(absl::string_view path) { return path.substr(path.rfind('/') + 1); }

std::string Below(const std::string& path, absl::string_view name) {
  return path == "." ? std::string(name) : absl::StrCat(path, "/", name);
}

bool IsMarked(archive_entry* entry, absl::string_view word) {
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  archive_entry_xattr_reset(entry);
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
    if (absl::string_view(name) == kChangeMark)
      return absl::string_view(static_cast<const char*>(value), size) == word;
  }
  return false;
}

// A copy without the mark, and without what will be said of its content.
EntryPointer Unmarked(archive_entry* entry) {
  EntryPointer copy(archive_entry_clone(entry));
  archive_entry_sparse_clear(copy.get());
  archive_entry_xattr_clear(copy.get());
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  archive_entry_xattr_reset(entry);
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
    if (absl::string_view(name) != kChangeMark) archive_entry_xattr_add_entry(copy.get(), name, value, size);
  }
  return copy;
}

}  // namespace

// Goes through the tars as Apply does, on names alone, and notes which entries made what is there at last.
class Merger {
 public:
  using Piece = MergedTar::Piece;

  Merger(Layout layout, const std::string& extra, int64_t most_path_bytes)
      : layout_(layout), extra_(extra), most_path_bytes_(most_path_bytes) {}

  absl::StatusOr<MergedTar> Run(const std::vector<std::string>& tars, const Snapshot& snapshot) {
    for (size_t i = 0; i < tars.size(); ++i) {
      GODWIT_RETURN_IF_ERROR(Annotate(Read(tars[i], i), tars[i]));
      GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(tars[i], O_RDONLY | O_NOFOLLOW));
      merged_.tars_.push_back(std::move(fd));
    }
    GODWIT_ASSIGN_OR_RETURN(UniqueFd made,
                            OpenFile(extra_, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    TarWriter writer([&made, this](absl::string_view bytes) { return WriteAll(made.get(), bytes, extra_); });
    GODWIT_RETURN_IF_ERROR(Order(snapshot, writer));
    GODWIT_RETURN_IF_ERROR(writer.Finish());
    merged_.tars_.push_back(std::move(made));
    GODWIT_RETURN_IF_ERROR(PlaceAll());
    return std::move(merged_);
  }

 private:
  struct File {
    bool folder = false;
    Piece base;
    std::vector<Piece> patches;
  };
  struct Name {
    std::shared_ptr<File> file;
    bool own = false;    // the one in the file's entry
    std::string target;  // of a hard link
    Piece link;
  };
  using Names = std::map<std::string, Name>;

  absl::Status Read(const std::string& path, size_t tar) {
    GODWIT_ASSIGN_OR_RETURN(TarReader reader, TarReader::Open(path));
    GODWIT_ASSIGN_OR_RETURN(archive_entry * entry, reader.Next());
    while (entry != nullptr) {
      const EntryPointer kept(archive_entry_clone(entry));
      Piece piece{.tar = tar, .begin = reader.position()};
      GODWIT_ASSIGN_OR_RETURN(entry, reader.Next());
      piece.end = reader.position();
      GODWIT_RETURN_IF_ERROR(Take(kept.get(), piece));
    }
    return absl::OkStatus();
  }

  absl::Status Take(archive_entry* entry, const Piece& piece) {
    const std::string path = PathOf(archive_entry_pathname(entry));
    const bool base = piece.tar == 0;
    // What the layer hides, the snapshot tells.
    if (base && layout_ == Layout::kOverlay && absl::StartsWith(NameIn(path), kWhiteout))
      return absl::OkStatus();
    if (!base && IsMarked(entry, "removed")) {
      Remove(path);
      return absl::OkStatus();
    }
    if (!base && IsMarked(entry, "patched")) {
      const auto known = names_.find(path);
      if (known == names_.end() || known->second.file->folder) return NotPacked(path, "a patch of nothing");
      known->second.file->patches.push_back(piece);
      return absl::OkStatus();
    }
    if (archive_entry_hardlink(entry) != nullptr) {
      const std::string target = PathOf(archive_entry_hardlink(entry));
      const auto known = names_.find(target);
      if (known == names_.end() || known->second.file->folder) return NotPacked(path, "a link to nothing");
      const std::shared_ptr<File> file = known->second.file;
      Remove(path);
      return Put(path, {.file = file, .target = target, .link = piece});
    }
    const bool folder = archive_entry_filetype(entry) == AE_IFDIR;
    const auto known = names_.find(path);
    if (known == names_.end() || !known->second.file->folder || !folder) Remove(path);
    return Put(path, {.file = std::make_shared<File>(File{.folder = folder, .base = piece}), .own = true});
  }

  static int64_t Bytes(const Names::value_type& name) {
    return static_cast<int64_t>(name.first.size() + name.second.target.size());
  }
  absl::Status Put(const std::string& path, Name name) {
    const auto [place, added] = names_.try_emplace(path);
    if (!added) path_bytes_ -= Bytes(*place);
    place->second = std::move(name);
    path_bytes_ += Bytes(*place);
    if (path_bytes_ <= most_path_bytes_) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(
        "the paths of its files and the targets of its links have more than ", most_path_bytes_, " bytes"));
  }
  void Erase(Names::iterator begin, Names::iterator end) {
    for (auto name = begin; name != end; ++name) path_bytes_ -= Bytes(*name);
    names_.erase(begin, end);
  }

  // With all below it.
  void Remove(const std::string& path) {
    if (const auto known = names_.find(path); known != names_.end()) Erase(known, std::next(known));
    Erase(names_.lower_bound(absl::StrCat(path, "/")), names_.lower_bound(absl::StrCat(path, "0")));
  }

  // Folders before what they hold, files before their further names.
  absl::Status Order(const Snapshot& snapshot, TarWriter& writer) {
    Marks(snapshot.root, ".");
    if (const auto root = names_.find("."); root != names_.end())
      GODWIT_RETURN_IF_ERROR(AddFolder(".", root->second, writer));
    for (const auto& [path, name] : names_) {
      if (name.file->folder && path != ".") GODWIT_RETURN_IF_ERROR(AddFolder(path, name, writer));
    }
    GODWIT_RETURN_IF_ERROR(AddFiles(writer));
    for (const std::string& path : hidden_) GODWIT_RETURN_IF_ERROR(AddMark(path, writer));
    return absl::OkStatus();
  }

  // What an overlay's upper folder hides of the layers below.
  void Marks(const Node& node, const std::string& path) {
    if (node.opaque) opaque_.insert(path);
    for (const Node& child : node.children) {
      if (S_ISCHR(child.seen.mode)) hidden_.push_back(Below(path, absl::StrCat(kWhiteout, child.name)));
      Marks(child, Below(path, child.name));
    }
  }

  absl::Status AddFolder(const std::string& path, const Name& name, TarWriter& writer) {
    pieces_.push_back(name.file->base);
    // At once: it removes what the folder holds by then.
    return opaque_.contains(path) ? AddMark(Below(path, kOpaque), writer) : absl::OkStatus();
  }

  absl::Status AddMark(const std::string& path, TarWriter& writer) {
    pieces_.push_back(NextExtra());
    return writer.WriteFile(path, "", 0);
  }

  absl::Status AddFiles(TarWriter& writer) {
    // The name under which each comes first.
    std::map<const File*, const Names::value_type*> first;
    for (const Names::value_type& name : names_) {
      if (name.second.file->folder) continue;
      const Names::value_type*& chosen = first.try_emplace(name.second.file.get(), &name).first->second;
      if (name.second.own) chosen = &name;
    }
    std::vector<const File*> files;
    for (const auto& [file, name] : first) files.push_back(file);
    std::sort(files.begin(), files.end(), [](const File* a, const File* b) { return a->base < b->base; });
    for (const File* file : files) {
      const auto& [path, name] = *first[file];
      if (file->patches.empty() && name.own) {
        pieces_.push_back(file->base);
      } else {
        GODWIT_RETURN_IF_ERROR(Compose(*file, path, writer));
      }
    }
    for (const auto& [path, name] : names_) {
      if (name.file->folder) continue;
      const std::string& target = first[name.file.get()]->first;
      if (path == target) continue;
      if (name.target == target) {
        pieces_.push_back(name.link);
      } else {
        GODWIT_RETURN_IF_ERROR(Link(*name.file, path, target, writer));
      }
    }
    return absl::OkStatus();
  }

  // The entry at `piece`, unmarked; its content goes to `content`, unless that is -1.
  absl::StatusOr<EntryPointer> ReadEntry(const Piece& piece, int content) {
    const int fd = merged_.tars_[piece.tar].get();
    if (lseek(fd, piece.begin, SEEK_SET) < 0) return ErrnoStatus("cannot read a tar");
    GODWIT_ASSIGN_OR_RETURN(TarReader reader, TarReader::Read(fd, extra_, kSmallPieceBytes));
    GODWIT_ASSIGN_OR_RETURN(archive_entry * entry, reader.Next());
    if (entry == nullptr) return NotPacked(extra_, "an entry is not there any more");
    absl::string_view data;
    int64_t offset = 0;
    while (content >= 0) {
      GODWIT_ASSIGN_OR_RETURN(const bool more, reader.NextData(data, offset));
      if (!more) break;
      if (lseek(content, offset, SEEK_SET) < 0) return ErrnoStatus("cannot write a patched file");
      GODWIT_RETURN_IF_ERROR(WriteAll(content, data, "a patched file"));
    }
    if (content >= 0 && ftruncate(content, archive_entry_size(entry)) != 0)
      return ErrnoStatus("cannot write a patched file");
    return Unmarked(entry);
  }

  absl::Status Compose(const File& file, const std::string& path, TarWriter& writer) {
    GODWIT_ASSIGN_OR_RETURN(UniqueFd content,
                            OpenFile(extra_.substr(0, extra_.rfind('/')), O_RDWR | O_TMPFILE, 0600));
    GODWIT_ASSIGN_OR_RETURN(EntryPointer entry, ReadEntry(file.base, content.get()));
    for (const Piece& patch : file.patches) {
      GODWIT_ASSIGN_OR_RETURN(entry, ReadEntry(patch, content.get()));
    }
    archive_entry_copy_pathname(entry.get(), path.c_str());
    pieces_.push_back(NextExtra());
    if (archive_entry_filetype(entry.get()) != AE_IFREG) return writer.WriteHeader(entry.get());
    struct stat info{};
    if (fstat(content.get(), &info) != 0) return ErrnoStatus("cannot look at a patched file");
    Content whole(content.get(), info, absl::CHexEscape(path), /*moving=*/false, buffer_);
    GODWIT_ASSIGN_OR_RETURN(const Extents extents, whole.Data());
    return whole.Write(entry.get(), extents, writer, nullptr);
  }

  absl::Status Link(const File& file, const std::string& path, const std::string& target, TarWriter& writer) {
    GODWIT_ASSIGN_OR_RETURN(const EntryPointer entry, ReadEntry(file.base, -1));
    archive_entry_copy_pathname(entry.get(), path.c_str());
    archive_entry_set_hardlink(entry.get(), target.c_str());
    archive_entry_set_size(entry.get(), 0);
    pieces_.push_back(NextExtra());
    return writer.WriteHeader(entry.get());
  }

  // A place in the extra tar, by its number: where that is shows when the tar is written.
  Piece NextExtra() { return {.tar = merged_.tars_.size(), .begin = extras_++}; }

  absl::Status PlaceAll() {
    std::vector<Piece> extras;
    GODWIT_ASSIGN_OR_RETURN(TarReader reader, TarReader::Open(extra_));
    for (;;) {
      GODWIT_ASSIGN_OR_RETURN(const archive_entry* entry, reader.Next());
      if (!extras.empty()) extras.back().end = reader.position();
      if (entry == nullptr) break;
      extras.push_back({.tar = merged_.tars_.size() - 1, .begin = reader.position()});
    }
    if (static_cast<off_t>(extras.size()) != extras_) return NotPacked(extra_, "not all of it was written");
    for (const Piece& piece : pieces_) {
      const bool extra = piece.tar == merged_.tars_.size() - 1;
      merged_.Append(extra ? extras[static_cast<size_t>(piece.begin)] : piece);
    }
    return absl::OkStatus();
  }

  const Layout layout_;
  const std::string extra_;
  const int64_t most_path_bytes_;
  Names names_;
  int64_t path_bytes_ = 0;  // of `names_`, with their targets
  std::set<std::string> opaque_;
  std::vector<std::string> hidden_;
  std::vector<Piece> pieces_;
  off_t extras_ = 0;
  std::string buffer_;
  MergedTar merged_;
};

absl::StatusOr<MergedTar> MergedTar::Plan(const std::vector<std::string>& tars, Layout layout,
                                          const Snapshot& snapshot, const std::string& extra,
                                          int64_t most_path_bytes) {
  if (tars.size() > 1) return Merger(layout, extra, most_path_bytes).Run(tars, snapshot);
  MergedTar alone;
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(tars.at(0), O_RDONLY | O_NOFOLLOW));
  GODWIT_ASSIGN_OR_RETURN(TarReader reader, TarReader::Open(tars[0]));
  for (;;) {
    GODWIT_ASSIGN_OR_RETURN(const archive_entry* entry, reader.Next());
    if (entry == nullptr) break;
  }
  alone.Append({.tar = 0, .begin = 0, .end = reader.position()});
  alone.tars_.push_back(std::move(fd));
  return alone;
}

void MergedTar::Append(const Piece& piece) {
  if (!pieces_.empty() && pieces_.back().tar == piece.tar && pieces_.back().end == piece.begin) {
    pieces_.back().end = piece.end;
  } else {
    pieces_.push_back(piece);
  }
}

int64_t MergedTar::bytes() const {
  int64_t bytes = kEndBytes;
  for (const Piece& piece : pieces_) bytes += piece.end - piece.begin;
  return bytes;
}

absl::Status MergedTar::Write(const Sink& sink) const {
  std::string buffer(kPieceBytes, '\0');
  for (const Piece& piece : pieces_) {
    for (off_t at = piece.begin; at < piece.end;) {
      const size_t wanted = std::min<size_t>(buffer.size(), static_cast<size_t>(piece.end - at));
      const ssize_t got = pread(tars_[piece.tar].get(), buffer.data(), wanted, at);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoStatus("cannot read a tar");
      if (got == 0) return absl::DataLossError("a tar has become shorter since it was written");
      GODWIT_RETURN_IF_ERROR(sink(absl::string_view(buffer).substr(0, static_cast<size_t>(got))));
      at += got;
    }
  }
  return sink(std::string(kEndBytes, '\0'));
}

}  // namespace godwit::files
