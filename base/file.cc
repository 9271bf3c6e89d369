// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit {
namespace {

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// A name beside `path` that no other writer of this machine uses now.
std::string TemporaryName(const std::string& path) {
  static std::atomic<uint64_t> count = 0;
  return absl::StrCat(path, ".", getpid(), ".", count.fetch_add(1), ".tmp");
}

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};
using Folder = std::unique_ptr<DIR, CloseFolder>;

// Names in the folder behind `fd` (taken over).
absl::StatusOr<std::vector<std::string>> Names(UniqueFd fd, const std::string& path) {
  const int raw = fd.Release();
  Folder folder(fdopendir(raw));
  if (folder == nullptr) {
    absl::Status status = ErrnoStatus(absl::StrCat("cannot list ", path));
    close(raw);
    return status;
  }
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = readdir(folder.get());
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  if (errno != 0) return ErrnoStatus(absl::StrCat("cannot list ", path));
  std::sort(names.begin(), names.end());
  return names;
}

// Opens a folder by its name in `parent`: no link is followed and no mount crossed, bind mounts included.
int OpenInside(int parent, const std::string& name) {
  open_how how = {};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH;
  return static_cast<int>(syscall(SYS_openat2, parent, name.c_str(), &how, sizeof how));
}

// Empties folders. One descriptor is open for each level, so what lies deeper than kMaxDepth is moved up to
// the top folder first: a tree of any depth can be removed.
class TreeRemover {
 public:
  explicit TreeRemover(int top) : top_(top) {}

  absl::Status Empty(int folder, const std::string& path, int depth) {
    UniqueFd copy(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!copy.ok()) return ErrnoStatus(absl::StrCat("cannot open ", path));
    GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, Names(std::move(copy), path));
    for (const std::string& name : names) {
      GODWIT_RETURN_IF_ERROR(RemoveEntry(folder, name, absl::StrCat(path, "/", name), depth));
    }
    return absl::OkStatus();
  }

 private:
  static constexpr int kMaxDepth = 48;

  absl::Status RemoveEntry(int folder, const std::string& name, const std::string& path, int depth) {
    if (unlinkat(folder, name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
    if (errno != EISDIR) return ErrnoStatus(absl::StrCat("cannot remove ", path));
    if (unlinkat(folder, name.c_str(), AT_REMOVEDIR) == 0) return absl::OkStatus();
    if (errno != ENOTEMPTY && errno != EEXIST) return ErrnoStatus(absl::StrCat("cannot remove ", path));
    if (depth >= kMaxDepth) {
      const std::string lifted = absl::StrCat(".removed.", getpid(), ".", ++lifted_);
      if (renameat(folder, name.c_str(), top_, lifted.c_str()) != 0) {
        return ErrnoStatus(absl::StrCat("cannot move ", path, " up to remove it"));
      }
      return RemoveEntry(top_, lifted, path, 0);
    }
    UniqueFd child(OpenInside(folder, name));
    if (!child.ok()) {
      if (errno == EXDEV)
        return absl::FailedPreconditionError(absl::StrCat("cannot remove ", path, ": it is a mount point"));
      return ErrnoStatus(absl::StrCat("cannot open ", path));
    }
    GODWIT_RETURN_IF_ERROR(Empty(child.get(), path, depth + 1));
    if (unlinkat(folder, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(absl::StrCat("cannot remove ", path));
  }

  const int top_;
  int lifted_ = 0;
};

}  // namespace

void UniqueFd::Reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, mode_t mode) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.ok()) return ErrnoStatus(absl::StrCat("cannot open ", path));
  return fd;
}

absl::Status MakePipe(UniqueFd& read_end, UniqueFd& write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("cannot make a pipe");
  read_end.Reset(ends[0]);
  write_end.Reset(ends[1]);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY));
  std::string content;
  while (true) {
    char buffer[16384];
    const ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("cannot read ", path));
    if (n == 0) return content;
    if (content.size() + static_cast<size_t>(n) > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot read ", path, ": over the limit of ", max_bytes, " bytes"));
    }
    content.append(buffer, static_cast<size_t>(n));
  }
}

absl::Status WriteAll(int fd, absl::string_view data, absl::string_view what) {
  while (!data.empty()) {
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("cannot write ", what));
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status WriteKernelFile(const std::string& path, absl::string_view content) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_WRONLY));
  const ssize_t n = write(fd.get(), content.data(), content.size());
  if (n < 0) return ErrnoStatus(absl::StrCat("cannot write \"", content, "\" to ", path));
  if (static_cast<size_t>(n) != content.size()) {
    return absl::InternalError(
        absl::StrCat("cannot write \"", content, "\" to ", path, ": only ", n, " bytes were taken"));
  }
  return absl::OkStatus();
}

absl::Status WriteFileDurably(const std::string& path, absl::string_view content, mode_t mode) {
  const std::string temporary = TemporaryName(path);
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  absl::Status status = WriteAll(fd.get(), content, temporary);
  if (status.ok() && fchmod(fd.get(), mode) != 0)
    status = ErrnoStatus(absl::StrCat("cannot set the mode of ", temporary));
  if (status.ok() && fsync(fd.get()) != 0) status = ErrnoStatus(absl::StrCat("cannot sync ", temporary));
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus(absl::StrCat("cannot rename ", temporary, " to ", path));
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return SyncFolder(FolderOf(path));
}

absl::Status SyncFolder(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY | O_DIRECTORY));
  if (fsync(fd.get()) != 0) return ErrnoStatus(absl::StrCat("cannot sync the folder ", path));
  return absl::OkStatus();
}

absl::Status MakeFolders(const std::string& path, mode_t mode) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (!part.empty() && mkdir(part.c_str(), mode) != 0 && errno != EEXIST) {
      return ErrnoStatus(absl::StrCat("cannot make the folder ", part));
    }
    if (slash == std::string::npos) break;
  }
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot make the folder ", path));
  if (!S_ISDIR(info.st_mode)) return ErrnoStatus(ENOTDIR, absl::StrCat("cannot make the folder ", path));
  return absl::OkStatus();
}

absl::Status RemoveTree(const std::string& path) {
  std::string trimmed = path;
  while (trimmed.size() > 1 && absl::EndsWith(trimmed, "/")) trimmed.pop_back();
  if (trimmed.empty() || trimmed == "/")
    return absl::InvalidArgumentError(absl::StrCat("cannot remove \"", path, "\""));
  if (unlink(trimmed.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  if (errno != EISDIR) return ErrnoStatus(absl::StrCat("cannot remove ", trimmed));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd top, OpenFile(trimmed, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  GODWIT_RETURN_IF_ERROR(TreeRemover(top.get()).Empty(top.get(), trimmed, 0));
  if (rmdir(trimmed.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("cannot remove ", trimmed));
}

absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY | O_DIRECTORY));
  return Names(std::move(fd), path);
}

bool FileExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

absl::StatusOr<int64_t> FreeBytes(const std::string& path) {
  struct statvfs info;
  if (statvfs(path.c_str(), &info) != 0)
    return ErrnoStatus(absl::StrCat("cannot tell the free space of ", path));
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

}  // namespace godwit
