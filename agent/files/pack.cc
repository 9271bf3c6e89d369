// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/files/extended_attributes.h"
#include "agent/files/layer.h"
#include "agent/files/tar.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::files {
namespace {

constexpr int kMaxDepth = 400;  // folders within folders; one descriptor is held for each
constexpr size_t kPieceBytes = 1u << 20;

absl::Status CannotCarry(absl::string_view path, absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("the file \"", absl::CHexEscape(path), "\" cannot be carried: ", why));
}

class Packer {
 public:
  Packer(Layout layout, const Sink& sink) : layout_(layout), tar_(sink), buffer_(kPieceBytes, '\0') {}

  absl::StatusOr<PackTotals> Run(const std::string& folder) {
    GODWIT_ASSIGN_OR_RETURN(UniqueFd root, OpenFile(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    struct stat info{};
    if (fstat(root.get(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot look at ", folder));
    device_ = info.st_dev;
    GODWIT_RETURN_IF_ERROR(
        Annotate(Folder(std::move(root), info, ".", 0), absl::StrCat("cannot pack ", folder)));
    GODWIT_RETURN_IF_ERROR(tar_.Finish());
    return std::move(totals_);
  }

 private:
  static std::string Below(const std::string& path, const std::string& name) {
    return path == "." ? name : absl::StrCat(path, "/", name);
  }

  // A header with what all kinds of files have.
  static EntryPointer Entry(const std::string& path, const struct stat& info) {
    EntryPointer entry = TarWriter::NewEntry();
    archive_entry_set_pathname(entry.get(), path.c_str());
    archive_entry_set_mode(entry.get(), info.st_mode);
    archive_entry_set_uid(entry.get(), info.st_uid);
    archive_entry_set_gid(entry.get(), info.st_gid);
    archive_entry_set_mtime(entry.get(), info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    return entry;
  }

  // Adds the attributes of `seen`, which is the file's path in /proc/self/fd.
  absl::StatusOr<bool> AddAttributes(archive_entry* entry, const std::string& seen, bool follow,
                                     const std::string& path) {
    absl::StatusOr<Attributes> attributes = ReadAttributes(seen, follow);
    if (!attributes.ok()) return Annotate(attributes.status(), absl::CHexEscape(path));
    for (const auto& [name, value] : attributes->kept) {
      archive_entry_xattr_add_entry(entry, name.c_str(), value.data(), value.size());
    }
    return attributes->opaque && layout_ == Layout::kOverlay;
  }

  absl::Status Whiteout(const std::string& path) {
    ++totals_.entries;
    return tar_.WriteFile(path, "", 0);
  }

  absl::Status Folder(UniqueFd fd, const struct stat& info, const std::string& path, int depth) {
    if (depth > kMaxDepth) return CannotCarry(path, absl::StrCat("more than ", kMaxDepth, " folders deep"));
    EntryPointer entry = Entry(path, info);
    GODWIT_ASSIGN_OR_RETURN(const bool opaque,
                            AddAttributes(entry.get(), absl::StrCat("/proc/self/fd/", fd.get()), true, path));
    ++totals_.entries;
    GODWIT_RETURN_IF_ERROR(tar_.WriteHeader(entry.get()));
    if (opaque) {
      totals_.deleted.push_back(Below(path, "*"));
      GODWIT_RETURN_IF_ERROR(Whiteout(Below(path, ".wh..wh..opq")));
    }
    GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> names,
                            ListFolder(absl::StrCat("/proc/self/fd/", fd.get())));
    for (const std::string& name : names) GODWIT_RETURN_IF_ERROR(Member(fd.get(), name, path, depth));
    return absl::OkStatus();
  }

  absl::Status Member(int folder, const std::string& name, const std::string& folder_path, int depth) {
    const std::string path = Below(folder_path, name);
    struct stat info{};
    if (fstatat(folder, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      return ErrnoStatus(absl::StrCat("cannot look at ", absl::CHexEscape(path)));
    }
    if (layout_ == Layout::kOverlay && absl::StartsWith(name, ".wh.")) {
      return CannotCarry(path, "names that begin with .wh. mean removed files in an image layer");
    }
    if (info.st_dev != device_) return CannotCarry(path, "another file system is mounted there");
    switch (info.st_mode & S_IFMT) {
      case S_IFDIR: {
        UniqueFd fd(openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!fd.ok()) return ErrnoStatus(absl::StrCat("cannot open ", absl::CHexEscape(path)));
        return Folder(std::move(fd), info, path, depth + 1);
      }
      case S_IFREG: return Regular(folder, name, info, path);
      case S_IFLNK: return Link(folder, name, info, path);
      case S_IFIFO: return Special(folder, name, info, path);
      case S_IFSOCK: return absl::OkStatus();
      case S_IFCHR:
        if (layout_ == Layout::kOverlay && info.st_rdev == makedev(0, 0)) {
          totals_.deleted.push_back(path);
          return Whiteout(Below(folder_path, absl::StrCat(".wh.", name)));
        }
        [[fallthrough]];
      default:
        return CannotCarry(
            path, "it is a device file (remove it, or keep it out of the root file system and volumes)");
    }
  }

  absl::Status Special(int folder, const std::string& name, const struct stat& info,
                       const std::string& path) {
    EntryPointer entry = Entry(path, info);
    GODWIT_RETURN_IF_ERROR(
        AddAttributes(entry.get(), absl::StrCat("/proc/self/fd/", folder, "/", name), false, path).status());
    ++totals_.entries;
    return tar_.WriteHeader(entry.get());
  }

  absl::Status Link(int folder, const std::string& name, const struct stat& info, const std::string& path) {
    char target[PATH_MAX];
    const ssize_t length = readlinkat(folder, name.c_str(), target, sizeof(target) - 1);
    if (length < 0) return ErrnoStatus(absl::StrCat("cannot read the link ", absl::CHexEscape(path)));
    target[length] = '\0';
    EntryPointer entry = Entry(path, info);
    archive_entry_set_symlink(entry.get(), target);
    ++totals_.entries;
    return tar_.WriteHeader(entry.get());
  }

  absl::Status Regular(int folder, const std::string& name, const struct stat& info,
                       const std::string& path) {
    EntryPointer entry = Entry(path, info);
    ++totals_.entries;
    if (info.st_nlink > 1) {
      const auto [first, added] = linked_.emplace(info.st_ino, path);
      if (!added) {
        archive_entry_set_hardlink(entry.get(), first->second.c_str());
        archive_entry_set_size(entry.get(), 0);
        return tar_.WriteHeader(entry.get());
      }
    }
    UniqueFd fd(openat(folder, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!fd.ok()) return ErrnoStatus(absl::StrCat("cannot open ", absl::CHexEscape(path)));
    GODWIT_RETURN_IF_ERROR(
        AddAttributes(entry.get(), absl::StrCat("/proc/self/fd/", fd.get()), true, path).status());
    archive_entry_set_size(entry.get(), info.st_size);
    GODWIT_ASSIGN_OR_RETURN(auto extents, Extents(fd.get(), info, path));
    if (!(extents.size() == 1 && extents[0] == std::pair<off_t, off_t>(0, info.st_size))) {
      for (const auto& [begin, end] : extents)
        archive_entry_sparse_add_entry(entry.get(), begin, end - begin);
    }
    GODWIT_RETURN_IF_ERROR(tar_.WriteHeader(entry.get()));
    return Content(fd.get(), info.st_size, extents, path);
  }

  // The parts of a file that hold data, ascending; an all-hole file has one of length 0 at its end, as
  // libarchive wants.
  static absl::StatusOr<std::vector<std::pair<off_t, off_t>>> Extents(int fd, const struct stat& info,
                                                                      const std::string& path) {
    std::vector<std::pair<off_t, off_t>> extents;
    if (info.st_blocks * 512 >= info.st_size) return {{{0, info.st_size}}};
    for (off_t at = 0; at < info.st_size;) {
      const off_t begin = lseek(fd, at, SEEK_DATA);
      if (begin < 0 && errno == ENXIO) break;  // only a hole is left
      if (begin < 0) return ErrnoStatus(absl::StrCat("cannot look for data in ", absl::CHexEscape(path)));
      const off_t end = lseek(fd, begin, SEEK_HOLE);
      if (end < 0) return ErrnoStatus(absl::StrCat("cannot look for holes in ", absl::CHexEscape(path)));
      extents.emplace_back(begin, std::min<off_t>(end, info.st_size));
      at = end;
    }
    if (extents.empty()) extents.emplace_back(info.st_size, info.st_size);
    return extents;
  }

  absl::Status Content(int fd, off_t size, const std::vector<std::pair<off_t, off_t>>& extents,
                       const std::string& path) {
    off_t at = 0;
    for (const auto& [begin, end] : extents) {
      GODWIT_RETURN_IF_ERROR(Zeros(begin - at));
      at = begin;
      while (at < end) {
        const ssize_t got = pread(fd, buffer_.data(), std::min<size_t>(buffer_.size(), end - at), at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return ErrnoStatus(absl::StrCat("cannot read ", absl::CHexEscape(path)));
        if (got == 0)
          return absl::DataLossError(
              absl::StrCat(absl::CHexEscape(path), " became shorter while it was read"));
        GODWIT_RETURN_IF_ERROR(tar_.WriteData(absl::string_view(buffer_.data(), got)));
        at += got;
        totals_.bytes += got;
      }
    }
    return Zeros(size - at);
  }

  // libarchive is handed holes as zeros and leaves them out.
  absl::Status Zeros(off_t count) {
    static const std::string zeros(kPieceBytes, '\0');
    for (; count > 0; count -= std::min<off_t>(count, kPieceBytes)) {
      GODWIT_RETURN_IF_ERROR(
          tar_.WriteData(absl::string_view(zeros).substr(0, std::min<off_t>(count, kPieceBytes))));
    }
    return absl::OkStatus();
  }

  const Layout layout_;
  TarWriter tar_;
  std::string buffer_;
  dev_t device_ = 0;
  absl::flat_hash_map<ino_t, std::string> linked_;  // files with several names: the first of them
  PackTotals totals_;
};

}  // namespace

absl::StatusOr<PackTotals> Pack(const std::string& folder, Layout layout, const Sink& sink) {
  return Packer(layout, sink).Run(folder);
}

}  // namespace godwit::files
