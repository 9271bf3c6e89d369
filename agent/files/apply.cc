// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/files/change_mark.h"
#include "agent/files/extended_attributes.h"
#include "agent/files/layer.h"
#include "agent/files/tar.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::files {
namespace {

constexpr absl::string_view kWhiteout = ".wh.";
constexpr absl::string_view kOpaque = ".wh..wh..opq";

absl::Status Hostile(absl::string_view path, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("the tar entry \"", absl::CHexEscape(path), "\" is refused: ", why));
}

// A path inside the folder, in parts; the folder itself has none.
struct Place {
  std::string folder;  // "" is the root
  std::string name;    // "" for the root itself
  std::string text;    // for messages
};

absl::StatusOr<Place> PlaceOf(const char* raw) {
  if (raw == nullptr || *raw == '\0') return Hostile("", "it has no name");
  Place place{.text = raw};
  if (place.text.size() > kMaxPath) return Hostile(place.text.substr(0, 64), "its name is too long");
  if (place.text.front() == '/') return Hostile(place.text, "its name is an absolute path");
  std::vector<absl::string_view> parts = absl::StrSplit(place.text, '/', absl::SkipEmpty());
  std::erase(parts, ".");
  for (absl::string_view part : parts) {
    if (part == "..") return Hostile(place.text, "its name leads upwards");
  }
  if (parts.empty()) return place;
  place.name = std::string(parts.back());
  parts.pop_back();
  place.folder = absl::StrJoin(parts, "/");
  return place;
}

// Resolved by the kernel: below `root`, through folders only, on one file system.
absl::StatusOr<UniqueFd> OpenBelow(int root, const std::string& path) {
  open_how how{};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
  const long fd = syscall(SYS_openat2, root, path.empty() ? "." : path.c_str(), &how, sizeof(how));
  if (fd < 0) return ErrnoStatus(absl::StrCat("cannot enter the folder \"", absl::CHexEscape(path), "\""));
  return UniqueFd(static_cast<int>(fd));
}

std::string Seen(int folder, const std::string& name) {
  return name.empty() ? absl::StrCat("/proc/self/fd/", folder)
                      : absl::StrCat("/proc/self/fd/", folder, "/", name);
}

class Applier {
 public:
  Applier(TarReader tar, UniqueFd root, Layout layout)
      : tar_(std::move(tar)), root_(std::move(root)), layout_(layout) {}

  absl::Status Run() {
    for (;;) {
      GODWIT_ASSIGN_OR_RETURN(archive_entry * entry, tar_.Next());
      if (entry == nullptr) break;
      GODWIT_RETURN_IF_ERROR(One(entry));
    }
    // Last, because what is put into a folder changes its time.
    for (const auto& [path, time] : folder_times_) {
      GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenBelow(root_.get(), path));
      const timespec times[] = {time, time};
      if (utimensat(AT_FDCWD, Seen(fd.get(), "").c_str(), times, 0) != 0)
        return ErrnoStatus(absl::StrCat("cannot set the time of \"", absl::CHexEscape(path), "\""));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status One(archive_entry* entry) {
    GODWIT_ASSIGN_OR_RETURN(Place place, PlaceOf(archive_entry_pathname(entry)));
    GODWIT_ASSIGN_OR_RETURN(UniqueFd folder, OpenBelow(root_.get(), place.folder));
    if (place.name.empty()) {
      if (archive_entry_filetype(entry) != AE_IFDIR)
        return Hostile(place.text, "the folder itself as a file");
      return SetUp(entry, folder.get(), place);
    }
    GODWIT_RETURN_IF_ERROR(KeepTime(folder.get(), place.folder));
    GODWIT_ASSIGN_OR_RETURN(const Change change, ChangeOf(entry, place));
    if (change == Change::kRemoved) return Remove(folder.get(), place);
    if (change == Change::kPatched) return Patch(entry, folder.get(), place);
    if (layout_ == Layout::kOverlay && absl::StartsWith(place.name, kWhiteout))
      return Whiteout(folder.get(), place);
    if (archive_entry_hardlink(entry) != nullptr) return HardLink(entry, folder.get(), place);
    switch (archive_entry_filetype(entry)) {
      case AE_IFDIR: return Folder(entry, folder.get(), place);
      case AE_IFREG: return Regular(entry, folder.get(), place);
      case AE_IFLNK: return SymbolicLink(entry, folder.get(), place);
      case AE_IFIFO: return Fifo(entry, folder.get(), place);
      default: return Hostile(place.text, "neither file, folder, link nor FIFO");
    }
  }

  // What the folder's time is before anything in it is touched; the tar's word on it comes before.
  absl::Status KeepTime(int folder, const std::string& path) {
    const auto [kept, added] = folder_times_.try_emplace(path);
    if (!added) return absl::OkStatus();
    struct stat info{};
    if (fstat(folder, &info) != 0)
      return ErrnoStatus(absl::StrCat("cannot look at \"", absl::CHexEscape(path), "\""));
    kept->second = info.st_mtim;
    return absl::OkStatus();
  }

  absl::StatusOr<Change> ChangeOf(archive_entry* entry, const Place& place) const {
    if (layout_ != Layout::kChanges) return Change::kReplaced;
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      if (absl::string_view(name) != kChangeMark) continue;
      const absl::string_view word(static_cast<const char*>(value), size);
      if (archive_entry_filetype(entry) == AE_IFREG && archive_entry_hardlink(entry) == nullptr) {
        if (word == "removed") return Change::kRemoved;
        if (word == "patched") return Change::kPatched;
      }
      return Hostile(place.text, "it is marked as no change is");
    }
    return Change::kReplaced;
  }

  static absl::Status Remove(int folder, const Place& place) {
    if (unlinkat(folder, place.name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
    if (errno != EISDIR && errno != EPERM)
      return ErrnoStatus(absl::StrCat("cannot replace \"", absl::CHexEscape(place.text), "\""));
    return RemoveTree(Seen(folder, place.name));
  }

  absl::Status Whiteout(int folder, const Place& place) const {
    if (place.name == kOpaque) {
      GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> names, ListFolder(Seen(folder, "")));
      for (const std::string& name : names) {
        GODWIT_RETURN_IF_ERROR(Remove(folder, {.folder = place.folder, .name = name, .text = name}));
      }
      return absl::OkStatus();
    }
    const std::string hidden = place.name.substr(kWhiteout.size());
    if (hidden.empty() || hidden == "." || hidden == ".." || absl::StartsWith(hidden, kWhiteout)) {
      return Hostile(place.text, "no such file can have been removed");
    }
    return Remove(folder, {.folder = place.folder, .name = hidden, .text = place.text});
  }

  absl::Status Folder(archive_entry* entry, int folder, const Place& place) {
    struct stat there{};
    const bool exists = fstatat(folder, place.name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0;
    if (!exists || !S_ISDIR(there.st_mode)) {
      if (exists) GODWIT_RETURN_IF_ERROR(Remove(folder, place));
      if (mkdirat(folder, place.name.c_str(), 0700) != 0) {
        return ErrnoStatus(absl::StrCat("cannot make the folder \"", absl::CHexEscape(place.text), "\""));
      }
    }
    return SetUp(entry, folder, place);
  }

  absl::Status HardLink(archive_entry* entry, int folder, const Place& place) {
    GODWIT_ASSIGN_OR_RETURN(Place target, PlaceOf(archive_entry_hardlink(entry)));
    if (target.name.empty()) return Hostile(place.text, "a link to the folder itself");
    GODWIT_ASSIGN_OR_RETURN(UniqueFd target_folder, OpenBelow(root_.get(), target.folder));
    struct stat info{};
    if (fstatat(target_folder.get(), target.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(info.st_mode)) {
      return Hostile(place.text, "a hard link to what is no file");
    }
    if (target.folder == place.folder && target.name == place.name)
      return Hostile(place.text, "a hard link to itself");
    GODWIT_RETURN_IF_ERROR(Remove(folder, place));
    if (linkat(target_folder.get(), target.name.c_str(), folder, place.name.c_str(), 0) != 0) {
      return ErrnoStatus(absl::StrCat("cannot link \"", absl::CHexEscape(place.text), "\""));
    }
    return absl::OkStatus();
  }

  absl::Status SymbolicLink(archive_entry* entry, int folder, const Place& place) {
    const char* target = archive_entry_symlink(entry);
    if (target == nullptr || *target == '\0') return Hostile(place.text, "a link to nowhere");
    GODWIT_RETURN_IF_ERROR(Remove(folder, place));
    if (symlinkat(target, folder, place.name.c_str()) != 0) {
      return ErrnoStatus(absl::StrCat("cannot make the link \"", absl::CHexEscape(place.text), "\""));
    }
    return SetUp(entry, folder, place);
  }

  absl::Status Fifo(archive_entry* entry, int folder, const Place& place) {
    GODWIT_RETURN_IF_ERROR(Remove(folder, place));
    if (mkfifoat(folder, place.name.c_str(), 0600) != 0) {
      return ErrnoStatus(absl::StrCat("cannot make the FIFO \"", absl::CHexEscape(place.text), "\""));
    }
    return SetUp(entry, folder, place);
  }

  absl::Status Regular(archive_entry* entry, int folder, const Place& place) {
    GODWIT_RETURN_IF_ERROR(Remove(folder, place));
    UniqueFd fd(
        openat(folder, place.name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd.ok()) return ErrnoStatus(absl::StrCat("cannot create \"", absl::CHexEscape(place.text), "\""));
    GODWIT_RETURN_IF_ERROR(Fill(fd.get(), entry, place));
    return SetUp(entry, folder, place);
  }

  // The file may be replaced by nobody meanwhile, and what it is was made by the tars before.
  absl::Status Patch(archive_entry* entry, int folder, const Place& place) {
    open_how how{};
    how.flags = O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
    UniqueFd fd(static_cast<int>(syscall(SYS_openat2, folder, place.name.c_str(), &how, sizeof(how))));
    struct stat info{};
    if (!fd.ok() || fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode))
      return Hostile(place.text, "no such file is there to be patched");
    GODWIT_RETURN_IF_ERROR(Fill(fd.get(), entry, place));
    return SetUp(entry, folder, place);
  }

  // The entry's data into the file, at its places, and the entry's length.
  absl::Status Fill(int fd, archive_entry* entry, const Place& place) {
    absl::string_view data;
    int64_t offset = 0;
    for (;;) {
      GODWIT_ASSIGN_OR_RETURN(const bool more, tar_.NextData(data, offset));
      if (!more) break;
      if (lseek(fd, offset, SEEK_SET) < 0)
        return ErrnoStatus(absl::StrCat("cannot write \"", absl::CHexEscape(place.text), "\""));
      GODWIT_RETURN_IF_ERROR(WriteAll(fd, data, absl::CHexEscape(place.text)));
    }
    if (ftruncate(fd, archive_entry_size(entry)) != 0)
      return ErrnoStatus(absl::StrCat("cannot write \"", absl::CHexEscape(place.text), "\""));
    return absl::OkStatus();
  }

  // Owner, mode, attributes and time, in the order in which none undoes another. No call follows a link:
  // should somebody else use the folder after all, what was made a moment ago may have become one.
  absl::Status SetUp(archive_entry* entry, int folder, const Place& place) {
    const std::string what = absl::StrCat("cannot set up \"", absl::CHexEscape(place.text), "\"");
    const auto uid = static_cast<uid_t>(archive_entry_uid(entry));
    const auto gid = static_cast<gid_t>(archive_entry_gid(entry));
    const int empty = place.name.empty() ? AT_EMPTY_PATH : 0;
    if (fchownat(folder, place.name.c_str(), uid, gid, AT_SYMLINK_NOFOLLOW | empty) != 0)
      return ErrnoStatus(what);
    const bool link = archive_entry_filetype(entry) == AE_IFLNK;
    if (!link) {
      GODWIT_RETURN_IF_ERROR(Annotate(SetMode(folder, place, archive_entry_perm(entry)), what));
      GODWIT_RETURN_IF_ERROR(SetAttributes(entry, folder, place));
    }
    const timespec time{archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
    if (archive_entry_filetype(entry) == AE_IFDIR) {
      const std::string path =
          place.folder.empty() ? place.name : absl::StrCat(place.folder, "/", place.name);
      folder_times_[path] = time;
      return absl::OkStatus();
    }
    const timespec times[] = {time, time};
    if (utimensat(folder, place.name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) return ErrnoStatus(what);
    return absl::OkStatus();
  }

  // By its descriptor: chmod(2) would follow a link, and fchmodat(2) minds its flag from Linux 6.6 on only.
  static absl::Status SetMode(int folder, const Place& place, mode_t mode) {
    const std::string name = place.name.empty() ? "." : place.name;
    const UniqueFd fd(openat(folder, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!fd.ok()) return ErrnoStatus("cannot open it");
    struct stat status;
    if (fstat(fd.get(), &status) != 0) return ErrnoStatus("cannot stat it");
    if (S_ISLNK(status.st_mode)) return absl::AbortedError("it has become a link");
    if (chmod(absl::StrCat("/proc/self/fd/", fd.get()).c_str(), mode) != 0) return ErrnoStatus("chmod");
    return absl::OkStatus();
  }

  // Those of the entry and no others: a folder may have been there before, or hand down an ACL.
  absl::Status SetAttributes(archive_entry* entry, int folder, const Place& place) const {
    const std::string seen = Seen(folder, place.name);
    const bool follow = place.name.empty();
    std::set<absl::string_view> wanted;
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      if (layout_ == Layout::kChanges && absl::string_view(name) == kChangeMark) continue;
      if (!MayBeSet(name))
        return Hostile(place.text, absl::StrCat("it has the extended attribute ", absl::CHexEscape(name)));
      wanted.insert(name);
      if ((follow ? setxattr : lsetxattr)(seen.c_str(), name, value, size, 0) != 0) {
        return ErrnoStatus(absl::StrCat("cannot set the extended attribute ", name, " of \"",
                                        absl::CHexEscape(place.text), "\""));
      }
    }
    GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> present, SettableAttributes(seen, follow));
    for (const std::string& extra : present) {
      if (wanted.contains(extra)) continue;
      if ((follow ? removexattr : lremovexattr)(seen.c_str(), extra.c_str()) != 0) {
        return ErrnoStatus(absl::StrCat("cannot remove the extended attribute ", extra, " of \"",
                                        absl::CHexEscape(place.text), "\""));
      }
    }
    return absl::OkStatus();
  }

  TarReader tar_;
  UniqueFd root_;
  const Layout layout_;
  std::map<std::string, timespec> folder_times_;  // to be set at the end
};

}  // namespace

absl::Status Apply(const std::string& tar_file, const std::string& folder, Layout layout) {
  GODWIT_ASSIGN_OR_RETURN(TarReader tar, TarReader::Open(tar_file));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd root, OpenFile(folder, O_PATH | O_DIRECTORY | O_NOFOLLOW));
  return Annotate(Applier(std::move(tar), std::move(root), layout).Run(),
                  absl::StrCat("cannot apply ", tar_file, " to ", folder));
}

}  // namespace godwit::files
