// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/files/change_mark.h"
#include "agent/files/changes.h"
#include "agent/files/content.h"
#include "agent/files/extended_attributes.h"
#include "agent/files/layer.h"
#include "agent/files/look_ahead.h"
#include "agent/files/tar.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::files {
namespace {

constexpr int kMaxDepth = 400;  // folders within folders; one descriptor is held for each
constexpr char kTooManyHeld[] = "godwit.io/too-many-held";

absl::Status CannotCarry(absl::string_view path, absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("the file \"", absl::CHexEscape(path), "\" cannot be carried: ", why));
}

std::string Below(const std::string& path, const std::string& name) {
  return path == "." ? name : absl::StrCat(path, "/", name);
}

// The same for lengths; the root's own path counts as none.
int64_t BytesOf(const std::string& path) { return path == "." ? 0 : static_cast<int64_t>(path.size()); }
int64_t BytesBelow(int64_t folder, const std::string& name) {
  return (folder == 0 ? 0 : folder + 1) + static_cast<int64_t>(name.size());
}

absl::Status TooManyFiles() {
  return absl::ResourceExhaustedError(
      absl::StrCat("it has more than ", kMaxEntries, " files, too many to be carried"));
}

// What is in a folder, sorted; of more than a tree may have, only that there are too many.
absl::StatusOr<std::vector<std::string>> NamesIn(const std::string& folder) {
  struct Close {
    void operator()(DIR* dir) const { closedir(dir); }
  };
  const std::unique_ptr<DIR, Close> dir(opendir(folder.c_str()));
  if (dir == nullptr) return ErrnoStatus(absl::StrCat("cannot open ", folder));
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(dir.get());
    if (entry == nullptr) break;
    const absl::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (static_cast<int64_t>(names.size()) == kMaxEntries) return TooManyFiles();
    names.emplace_back(name);
  }
  if (errno != 0) return ErrnoStatus(absl::StrCat("cannot list ", folder));
  std::sort(names.begin(), names.end());
  return names;
}

bool IsWhiteout(const struct stat& info, Layout layout) {
  return layout == Layout::kOverlay && S_ISCHR(info.st_mode) && info.st_rdev == makedev(0, 0);
}

// Walks a tree beside what is known of it. Each node comes with what was known (its name alone when it is
// new) and leaves as what was packed.
class Packer {
 public:
  enum class Kind {
    kAlone,    // nothing will follow: no more of the snapshot is kept than the walk needs
    kBase,     // changes will follow
    kChanges,  // a change tar
  };
  Packer(Layout layout, Kind kind, const Pass& pass, Snapshot& snapshot, const Sink& sink)
      : layout_(layout), kind_(kind), pass_(pass), snapshot_(snapshot), tar_(sink) {}

  absl::StatusOr<PackTotals> Run(const std::string& folder) {
    GODWIT_ASSIGN_OR_RETURN(UniqueFd root, OpenFile(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    struct stat info{};
    struct statfs system{};
    if (fstat(root.get(), &info) != 0 || fstatfs(root.get(), &system) != 0)
      return ErrnoStatus(absl::StrCat("cannot look at ", folder));
    device_ = info.st_dev;
    in_memory_ = system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC;
    if (kind_ == Kind::kChanges && pass_.last) {
      LookAhead(root.get(), snapshot_, [this](const Node& node, const struct stat& file) {
        return file.st_dev == device_ && Unchanged(node, file);
      });
    }
    GODWIT_RETURN_IF_ERROR(Annotate(Folder(std::move(root), info, ".", snapshot_.root, 0),
                                    absl::StrCat("cannot pack ", folder)));
    GODWIT_RETURN_IF_ERROR(tar_.Finish());
    return std::move(totals_);
  }

 private:
  static bool Known(const Node& node) { return node.seen.mode != 0; }

  bool Settled(const struct stat& info) const {
    return !CtimeMayStay(info, pass_.begun) &&
           !(S_ISREG(info.st_mode) && (in_memory_ || pass_.mapped.MayHold(info)));
  }
  bool Unchanged(const Node& node, const struct stat& info) const {
    return node.settled && node.seen == FileStat(info) &&
           !(S_ISREG(info.st_mode) && pass_.mapped.MayHold(info));
  }
  // Has it gone between two looks at it?
  bool Vanished(int error) const {
    return !pass_.last && (error == ENOENT || error == ENOTDIR || error == ELOOP || error == ENXIO);
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

  // The attributes of `seen`, which is the file's path in /proc/self/fd.
  absl::StatusOr<Attributes> AttributesOf(const std::string& seen, bool follow,
                                          const std::string& path) const {
    absl::StatusOr<Attributes> attributes = ReadAttributes(seen, follow);
    if (!attributes.ok()) return Annotate(attributes.status(), absl::CHexEscape(path));
    attributes->opaque = attributes->opaque && layout_ == Layout::kOverlay;
    return attributes;
  }
  static void Add(const Attributes& attributes, archive_entry* entry) {
    for (const auto& [name, value] : attributes.kept)
      archive_entry_xattr_add_entry(entry, name.c_str(), value.data(), value.size());
  }

  absl::Status Header(archive_entry* entry) {
    ++totals_.entries;
    return tar_.WriteHeader(entry);
  }
  absl::Status Whiteout(const std::string& path) {
    ++totals_.entries;
    return tar_.WriteFile(path, "", 0);
  }
  absl::Status Removed(const std::string& path) {
    EntryPointer entry = TarWriter::NewEntry();
    archive_entry_set_pathname(entry.get(), path.c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_size(entry.get(), 0);
    Mark(entry.get(), Change::kRemoved);
    return Header(entry.get());
  }

  // --- one folder
  absl::Status Folder(UniqueFd fd, const struct stat& info, const std::string& path, Node& node, int depth) {
    if (depth > kMaxDepth) return CannotCarry(path, absl::StrCat("more than ", kMaxDepth, " folders deep"));
    if (Unchanged(node, info)) return Members(fd.get(), path, node.children, depth);
    const std::string seen = absl::StrCat("/proc/self/fd/", fd.get());
    GODWIT_ASSIGN_OR_RETURN(const Attributes attributes, AttributesOf(seen, true, path));
    // A folder that began to hide what lies below it is another one: the target's must go, so that its own
    // hides too.
    if (Known(node) && (!S_ISDIR(node.seen.mode) || (attributes.opaque && !node.opaque)))
      GODWIT_RETURN_IF_ERROR(Forget(node, path));
    EntryPointer entry = Entry(path, info);
    Add(attributes, entry.get());
    GODWIT_RETURN_IF_ERROR(Header(entry.get()));
    if (attributes.opaque && kind_ != Kind::kChanges) {
      totals_.deleted.push_back(Below(path, "*"));
      GODWIT_RETURN_IF_ERROR(Whiteout(Below(path, ".wh..wh..opq")));
    }
    node.seen = FileStat(info);
    node.settled = Settled(info);
    node.opaque = attributes.opaque;
    GODWIT_RETURN_IF_ERROR(List(seen, path, node));
    GODWIT_RETURN_IF_ERROR(Members(fd.get(), path, node.children, depth));
    if (kind_ == Kind::kAlone) {
      snapshot_.held.Set(snapshot_.held.count() - static_cast<int64_t>(node.children.size()));
      node.children = {};
    }
    return absl::OkStatus();
  }

  // The target's copy goes, with all that is known of it.
  absl::Status Forget(Node& node, const std::string& path) {
    Node fresh{.name = std::move(node.name)};
    Drop(node, BytesOf(path));
    node = std::move(fresh);
    return path == "." ? absl::OkStatus() : Removed(path);
  }

  // What is known of the node and below it counts no more; its name does. `path`: the length of its path.
  void Drop(const Node& node, int64_t path) {
    snapshot_.blocks -= static_cast<int64_t>(node.blocks.size());
    for (const Node& child : node.children) {
      const int64_t below = BytesBelow(path, child.name);
      Drop(child, below);
      snapshot_.path_bytes -= below;
    }
    snapshot_.entries -= static_cast<int64_t>(node.children.size());
  }

  absl::Status CheckBounds() const {
    if (snapshot_.entries > kMaxEntries) return TooManyFiles();
    if (snapshot_.path_bytes + said_ > kMaxPathBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the paths of its files and the targets of its links have more than ",
                       kMaxPathBytes >> 20, " MiB in all, too many to be carried"));
    }
    return absl::OkStatus();
  }
  // A name says so much beside its path, which other names of the same file may say as well: that costs
  // nothing on the disk.
  absl::Status Say(size_t bytes) {
    said_ += static_cast<int64_t>(bytes);
    return CheckBounds();
  }
  absl::Status Hold(int64_t entries) {
    if (snapshot_.held.Set(entries)) return absl::OkStatus();
    absl::Status error =
        absl::ResourceExhaustedError(absl::StrCat("with it the agent would have to remember more than ",
                                                  kMaxHeldEntries, " files of all pods at a time"));
    error.SetPayload(kTooManyHeld, absl::Cord());
    return error;
  }

  // Makes the children those that the folder has now; what has gone is packed as removed.
  absl::Status List(const std::string& seen, const std::string& path, Node& node) {
    GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> names, NamesIn(seen));
    const int64_t folder = BytesOf(path);
    std::vector<Node> children;
    children.reserve(names.size());
    auto known = node.children.begin();
    auto gone = [&](const std::string* next) -> absl::Status {
      for (; known != node.children.end() && (next == nullptr || known->name < *next); ++known) {
        const int64_t bytes = BytesBelow(folder, known->name);
        Drop(*known, bytes);
        --snapshot_.entries;
        snapshot_.path_bytes -= bytes;
        if (Known(*known)) GODWIT_RETURN_IF_ERROR(Removed(Below(path, known->name)));
      }
      return absl::OkStatus();
    };
    for (std::string& name : names) {
      GODWIT_RETURN_IF_ERROR(gone(&name));
      if (known != node.children.end() && known->name == name) {
        children.push_back(std::move(*known++));
        continue;
      }
      ++snapshot_.entries;
      snapshot_.path_bytes += BytesBelow(folder, name);
      GODWIT_RETURN_IF_ERROR(CheckBounds());
      children.push_back({.name = std::move(name)});
    }
    GODWIT_RETURN_IF_ERROR(gone(nullptr));
    node.children = std::move(children);
    return Hold(kind_ == Kind::kAlone ? snapshot_.held.count() + static_cast<int64_t>(node.children.size())
                                      : snapshot_.entries);
  }

  absl::Status Members(int folder, const std::string& path, std::vector<Node>& nodes, int depth) {
    for (Node& node : nodes) {
      if (std::exchange(node.unchanged, false)) continue;
      struct stat info{};
      if (fstatat(folder, node.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISDIR(info.st_mode) && !S_ISCHR(info.st_mode) && info.st_nlink == 1 && Unchanged(node, info))
          continue;
        GODWIT_RETURN_IF_ERROR(Member(folder, info, Below(path, node.name), node, depth));
      } else if (Vanished(errno)) {
        GODWIT_RETURN_IF_ERROR(Gone(Below(path, node.name), node));
      } else {
        return ErrnoStatus(absl::StrCat("cannot look at ", absl::CHexEscape(Below(path, node.name))));
      }
    }
    return absl::OkStatus();
  }

  // Nothing that travels is there (any more). The folder was stamped when it went, or will be: it is listed
  // again.
  absl::Status Gone(const std::string& path, Node& node) {
    return Known(node) ? Forget(node, path) : absl::OkStatus();
  }

  absl::Status Member(int folder, const struct stat& info, const std::string& path, Node& node, int depth) {
    if (layout_ == Layout::kOverlay && absl::StartsWith(node.name, ".wh."))
      return CannotCarry(path, "names that begin with .wh. mean removed files in an image layer");
    if (path.size() > kMaxPath)
      return CannotCarry(path.substr(0, 64) + "...",
                         absl::StrCat("its path is longer than ", kMaxPath, " bytes"));
    if (info.st_dev != device_) return CannotCarry(path, "another file system is mounted there");
    switch (info.st_mode & S_IFMT) {
      case S_IFDIR: return Enter(folder, path, node, depth);
      case S_IFREG: return Regular(folder, info, path, node);
      case S_IFLNK: return Link(folder, info, path, node);
      case S_IFIFO: return Special(folder, info, path, node);
      case S_IFSOCK: return Gone(path, node);
      case S_IFCHR:
        if (IsWhiteout(info, layout_)) return Hidden(info, path, node);
        [[fallthrough]];
      default:
        return CannotCarry(
            path, "it is a device file (remove it, or keep it out of the root file system and volumes)");
    }
  }

  absl::Status Enter(int folder, const std::string& path, Node& node, int depth) {
    UniqueFd fd(openat(folder, node.name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    struct stat info{};
    if (!fd.ok() && Vanished(errno)) return Gone(path, node);
    if (!fd.ok() || fstat(fd.get(), &info) != 0)
      return ErrnoStatus(absl::StrCat("cannot open ", absl::CHexEscape(path)));
    return Folder(std::move(fd), info, path, node, depth + 1);
  }

  // What an overlay's upper folder marks as removed. All such marks may be one file with many names: its
  // times say nothing.
  absl::Status Hidden(const struct stat& info, const std::string& path, Node& node) {
    if (Known(node) && S_ISCHR(node.seen.mode)) return absl::OkStatus();
    if (kind_ == Kind::kChanges) {
      Drop(node, BytesOf(path));
      GODWIT_RETURN_IF_ERROR(Removed(path));
    } else {
      totals_.deleted.push_back(path);
      const size_t name = path.size() - node.name.size();
      GODWIT_RETURN_IF_ERROR(Whiteout(absl::StrCat(path.substr(0, name), ".wh.", node.name)));
    }
    node = {.name = std::move(node.name), .seen = FileStat(info), .settled = true};
    return absl::OkStatus();
  }

  // --- files that are replaced as a whole
  // What is packed at `path` takes the place of what was known there.
  void Replace(Node& node, const struct stat& info, const std::string& path) {
    Drop(node, BytesOf(path));
    node = {.name = std::move(node.name), .seen = FileStat(info), .settled = Settled(info)};
  }

  absl::Status Special(int folder, const struct stat& info, const std::string& path, Node& node) {
    if (Unchanged(node, info)) return absl::OkStatus();
    EntryPointer entry = Entry(path, info);
    const absl::StatusOr<Attributes> attributes =
        AttributesOf(absl::StrCat("/proc/self/fd/", folder, "/", node.name), false, path);
    if (!pass_.last && absl::IsNotFound(attributes.status())) return Gone(path, node);
    GODWIT_RETURN_IF_ERROR(attributes.status());
    Add(*attributes, entry.get());
    for (const auto& [name, value] : attributes->kept)
      GODWIT_RETURN_IF_ERROR(Say(name.size() + value.size()));
    Replace(node, info, path);
    return Header(entry.get());
  }

  absl::Status Link(int folder, const struct stat& info, const std::string& path, Node& node) {
    if (Unchanged(node, info)) return absl::OkStatus();
    char target[PATH_MAX];
    const ssize_t length = readlinkat(folder, node.name.c_str(), target, sizeof(target) - 1);
    if (length < 0 && (Vanished(errno) || (!pass_.last && errno == EINVAL))) return Gone(path, node);
    if (length < 0) return ErrnoStatus(absl::StrCat("cannot read the link ", absl::CHexEscape(path)));
    target[length] = '\0';
    GODWIT_RETURN_IF_ERROR(Say(static_cast<size_t>(length)));
    EntryPointer entry = Entry(path, info);
    archive_entry_set_symlink(entry.get(), target);
    Replace(node, info, path);
    return Header(entry.get());
  }

  // --- regular files
  // A file with several names: the first that the walk meets stands for all.
  struct First {
    std::string path;
    FileStat seen;
    bool settled;
    bool kept;  // the target's file stays what it is, with the names that it had after the last pass
  };

  absl::Status Regular(int folder, const struct stat& looked, const std::string& path, Node& node) {
    if (looked.st_nlink > 1) {
      if (const auto first = linked_.find(looked.st_ino); first != linked_.end())
        return Name(looked, path, first->second, node);
    }
    if (Unchanged(node, looked)) {
      if (looked.st_nlink > 1) linked_[looked.st_ino] = {path, node.seen, true, node.linked};
      return absl::OkStatus();
    }
    // Looked at before it is opened: to open a FIFO or a device that has taken its place is to act on it.
    const UniqueFd place(openat(folder, node.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!place.ok() && Vanished(errno)) return Gone(path, node);
    struct stat info{};
    if (!place.ok() || fstat(place.get(), &info) != 0)
      return ErrnoStatus(absl::StrCat("cannot open ", absl::CHexEscape(path)));
    if (!S_ISREG(info.st_mode)) return Gone(path, node);  // a moment ago it was
    const UniqueFd fd(open(absl::StrCat("/proc/self/fd/", place.get()).c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.ok()) return ErrnoStatus(absl::StrCat("cannot open ", absl::CHexEscape(path)));
    return Send(fd.get(), info, path, node);
  }

  // A further name of a file that the target has by now.
  absl::Status Name(const struct stat& info, const std::string& path, const First& first, Node& node) {
    const bool there = first.kept && node.linked && node.seen.inode == info.st_ino;
    Drop(node, BytesOf(path));
    const FileStat seen(info);
    node = {.name = std::move(node.name),
            .seen = seen,
            .settled = first.settled && first.seen == seen,
            .linked = true};
    if (there) return absl::OkStatus();
    GODWIT_RETURN_IF_ERROR(Say(first.path.size()));
    EntryPointer entry = Entry(path, info);
    archive_entry_set_hardlink(entry.get(), first.path.c_str());
    archive_entry_set_size(entry.get(), 0);
    return Header(entry.get());
  }

  absl::Status Send(int fd, const struct stat& info, const std::string& path, Node& node) {
    // Takes the inode's lock, where reading alone would not: a write in flight ends first.
    (void)lseek(fd, 0, SEEK_HOLE);
    const bool several = info.st_nlink > 1;
    const bool same = Known(node) && S_ISREG(node.seen.mode) && node.seen.inode == info.st_ino;
    const bool patch = same && node.hashed;
    EntryPointer entry = Entry(path, info);
    GODWIT_ASSIGN_OR_RETURN(const Attributes attributes,
                            AttributesOf(absl::StrCat("/proc/self/fd/", fd), true, path));
    Add(attributes, entry.get());
    Content content(fd, info, absl::CHexEscape(path), !pass_.last, buffer_);
    if (patch) {
      snapshot_.blocks -= static_cast<int64_t>(node.blocks.size());
    } else {
      Drop(node, BytesOf(path));
      node = {.name = std::move(node.name), .linked = several};
    }
    const bool hash = kind_ != Kind::kAlone && snapshot_.blocks + BlockCount(info.st_size) <= kMaxBlocks;
    Extents extents;
    if (patch) {
      Mark(entry.get(), Change::kPatched);
      GODWIT_ASSIGN_OR_RETURN(extents, content.Changed(node.blocks));
    } else {
      GODWIT_ASSIGN_OR_RETURN(extents, content.Data());
      if (hash) extents = content.Aligned(extents);
    }
    ++totals_.entries;
    GODWIT_RETURN_IF_ERROR(content.Write(entry.get(), extents, tar_, hash ? &node.blocks : nullptr));
    totals_.bytes += content.bytes();
    if (!hash) node.blocks.clear();
    snapshot_.blocks += static_cast<int64_t>(node.blocks.size());
    node.hashed = hash;
    node.seen = FileStat(info);
    node.settled = Settled(info) && !content.shortened();
    if (several) linked_[info.st_ino] = {path, node.seen, node.settled, patch && node.linked};
    node.linked = several;
    return absl::OkStatus();
  }

  const Layout layout_;
  const Kind kind_;
  const Pass& pass_;
  Snapshot& snapshot_;
  TarWriter tar_;
  std::string buffer_;
  dev_t device_ = 0;
  bool in_memory_ = false;
  absl::flat_hash_map<ino_t, First> linked_;
  int64_t said_ = 0;  // bytes that names said beside their paths, in this pass
  PackTotals totals_;
};

}  // namespace

bool TooManyHeld(const absl::Status& error) { return error.GetPayload(kTooManyHeld).has_value(); }

absl::StatusOr<PackTotals> Pack(const std::string& folder, Layout layout, const Sink& sink) {
  Snapshot snapshot;
  const Pass pass{.last = true};
  return Packer(layout, Packer::Kind::kAlone, pass, snapshot, sink).Run(folder);
}

absl::StatusOr<PackTotals> PackBase(const std::string& folder, Layout layout, const Pass& pass,
                                    Snapshot& snapshot, const Sink& sink) {
  return Packer(layout, pass.last ? Packer::Kind::kAlone : Packer::Kind::kBase, pass, snapshot, sink)
      .Run(folder);
}

absl::StatusOr<PackTotals> PackChanges(const std::string& folder, Layout layout, const Pass& pass,
                                       Snapshot& snapshot, const Sink& sink) {
  return Packer(layout, Packer::Kind::kChanges, pass, snapshot, sink).Run(folder);
}

}  // namespace godwit::files
