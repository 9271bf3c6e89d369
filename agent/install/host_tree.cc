// SPDX-License-Identifier: Apache-2.0
#include "agent/install/host_tree.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::install {
namespace {

constexpr size_t kMaxFile = 256u << 20;
constexpr int kMaxDepth = 16;
constexpr size_t kDigestLength = 16;  // hexadecimal digits of a SHA-256: they name, they do not protect

class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  // With its length, so that no two sequences of texts are the same bytes.
  void Add(absl::string_view text) {
    const std::string length = absl::StrCat(text.size(), ":");
    EVP_DigestUpdate(context_.get(), length.data(), length.size());
    EVP_DigestUpdate(context_.get(), text.data(), text.size());
  }
  std::string Hex() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), bytes, &size);
    return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(bytes), size))
        .substr(0, kDigestLength);
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

// One thing in a tree. `visit` is called for folders before what is in them, in the order of names.
struct Entry {
  std::string path;     // below the tree's root, "" for the root
  mode_t mode = 0;      // type and permissions
  std::string content;  // of a file, or the target of a link
};

template <class Visit>
absl::Status Walk(const std::string& root, const std::string& path, int depth, Visit visit) {
  const std::string full = absl::StrCat(root, path);
  struct stat info;
  if (depth > kMaxDepth) return absl::InvalidArgumentError(absl::StrCat(full, " is too deep a tree"));
  if (lstat(full.c_str(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot look at ", full));
  Entry entry = {.path = path, .mode = info.st_mode};
  if (S_ISREG(info.st_mode)) {
    GODWIT_ASSIGN_OR_RETURN(entry.content, ReadFile(full, kMaxFile));
  } else if (S_ISLNK(info.st_mode)) {
    entry.content = ReadLink(full);
  } else if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(full, " is neither file, folder nor link"));
  }
  GODWIT_RETURN_IF_ERROR(visit(entry));
  if (!S_ISDIR(info.st_mode)) return absl::OkStatus();
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(full));
  for (const std::string& name : names) {
    GODWIT_RETURN_IF_ERROR(Walk(root, absl::StrCat(path, "/", name), depth + 1, visit));
  }
  return absl::OkStatus();
}

// etc/ is digested apart: it is not in the source.
absl::StatusOr<std::string> DigestOf(const std::string& tree, const std::string& runtime_json) {
  Digest digest;
  GODWIT_RETURN_IF_ERROR(Walk(tree, "", 0, [&digest](const Entry& entry) {
    if (entry.path == "/etc" || absl::StartsWith(entry.path, "/etc/") || entry.path.empty())
      return absl::OkStatus();
    digest.Add(entry.path);
    // A link's permissions mean nothing; those of the others are made so by Copy.
    digest.Add(absl::StrCat(S_ISLNK(entry.mode) ? entry.mode & S_IFMT : entry.mode & (S_IFMT | 0755)));
    digest.Add(entry.content);
    return absl::OkStatus();
  }));
  digest.Add(runtime_json);
  return digest.Hex();
}

absl::Status Copy(const std::string& source, const std::string& target) {
  return Walk(source, "", 0, [&target](const Entry& entry) -> absl::Status {
    const std::string path = absl::StrCat(target, entry.path);
    if (S_ISDIR(entry.mode)) return MakeFolders(path, 0755);
    if (S_ISREG(entry.mode)) return WriteFileDurably(path, entry.content, entry.mode & 0755);
    return symlink(entry.content.c_str(), path.c_str()) == 0
               ? absl::OkStatus()
               : ErrnoStatus(absl::StrCat("cannot make link ", path));
  });
}

// A link that is there as a whole, before and after.
absl::Status PointLink(const std::string& link, const std::string& target) {
  if (ReadLink(link) == target) return absl::OkStatus();
  const std::string fresh = link + ".new";
  unlink(fresh.c_str());
  if (symlink(target.c_str(), fresh.c_str()) != 0)
    return ErrnoStatus(absl::StrCat("cannot make link ", fresh));
  if (rename(fresh.c_str(), link.c_str()) != 0)
    return ErrnoStatus(absl::StrCat("cannot point ", link, " to ", target));
  return absl::OkStatus();
}

// Whether a complete version is there and is what its name says.
bool IsIntact(const std::string& version, const std::string& digest) {
  absl::StatusOr<std::string> runtime_json = ReadFile(version + "/etc/runtime.json");
  if (!runtime_json.ok()) return false;
  absl::StatusOr<std::string> have = DigestOf(version, *runtime_json);
  return have.ok() && *have == digest;
}

absl::Status MakeVersion(const std::string& source, const std::string& versions, const std::string& digest,
                         const std::string& runtime_json) {
  const std::string fresh = absl::StrCat(versions, "/.new-", digest);
  const std::string version = absl::StrCat(versions, "/", digest);
  GODWIT_RETURN_IF_ERROR(RemoveTree(fresh));
  GODWIT_RETURN_IF_ERROR(MakeFolders(fresh));
  GODWIT_RETURN_IF_ERROR(Copy(source, fresh));
  GODWIT_RETURN_IF_ERROR(MakeFolders(fresh + "/etc"));
  GODWIT_RETURN_IF_ERROR(WriteFileDurably(fresh + "/etc/runtime.json", runtime_json, 0644));
  if (FileExists(version)) {  // damaged
    const std::string old = absl::StrCat(versions, "/.damaged-", digest, "-", getpid());
    if (rename(version.c_str(), old.c_str()) != 0)
      return ErrnoStatus(absl::StrCat("cannot move ", version, " away"));
  }
  if (rename(fresh.c_str(), version.c_str()) != 0) return ErrnoStatus(absl::StrCat("cannot make ", version));
  return SyncFolder(versions);
}

}  // namespace

std::string ReadLink(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t size = readlink(path.c_str(), target, sizeof(target));
  return size <= 0 ? "" : std::string(target, static_cast<size_t>(size));
}

absl::StatusOr<std::string> InstallTree(const std::string& source, const std::string& folder,
                                        const std::string& runtime_json) {
  GODWIT_ASSIGN_OR_RETURN(const std::string digest, DigestOf(source, runtime_json));
  const std::string versions = folder + "/versions";
  GODWIT_RETURN_IF_ERROR(MakeFolders(versions));
  if (!IsIntact(absl::StrCat(versions, "/", digest), digest)) {
    GODWIT_RETURN_IF_ERROR(MakeVersion(source, versions, digest, runtime_json));
  }
  GODWIT_RETURN_IF_ERROR(PointLink(folder + "/current", absl::StrCat("versions/", digest)));
  for (const char* name : {"bin", "criu", "etc"}) {
    GODWIT_RETURN_IF_ERROR(PointLink(absl::StrCat(folder, "/", name), absl::StrCat("current/", name)));
  }
  GODWIT_RETURN_IF_ERROR(SyncFolder(folder));
  return digest;
}

bool RunsFrom(const std::string& path, const std::string& proc) {
  absl::StatusOr<std::vector<std::string>> names = ListFolder(proc);
  if (!names.ok()) return true;  // nobody knows
  return std::any_of(names->begin(), names->end(), [&](const std::string& name) {
    int pid = 0;
    return absl::SimpleAtoi(name, &pid) &&
           absl::StartsWith(ReadLink(absl::StrCat(proc, "/", name, "/exe")), absl::StrCat(path, "/"));
  });
}

absl::Status RemoveOldVersions(const std::string& folder, const std::string& proc) {
  const std::string versions = folder + "/versions";
  const std::string current = ReadLink(folder + "/current");
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(versions));
  for (const std::string& name : names) {
    const std::string version = absl::StrCat(versions, "/", name);
    if (current == absl::StrCat("versions/", name) || RunsFrom(version, proc)) continue;
    GODWIT_RETURN_IF_ERROR(RemoveTree(version));
  }
  return absl::OkStatus();
}

absl::Status KeepRuntimeOnly(const std::string& folder) {
  GODWIT_RETURN_IF_ERROR(RemoveTree(folder + "/criu"));
  GODWIT_RETURN_IF_ERROR(RemoveTree(folder + "/current/criu"));
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> programs, ListFolder(folder + "/current/bin"));
  for (const std::string& program : programs) {
    if (program == "godwit-runtime") continue;
    GODWIT_RETURN_IF_ERROR(RemoveTree(absl::StrCat(folder, "/current/bin/", program)));
  }
  return absl::OkStatus();
}

}  // namespace godwit::install
