// SPDX-License-Identifier: Apache-2.0
// A tree that is changed at random in all the ways that a process may change files.
#pragma once

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace godwit::files {

class RandomTree {
 public:
  RandomTree(std::string root, unsigned seed) : root_(std::move(root)), random_(seed) {}

  // One change; some do nothing, when what they want to change is not there.
  void Change() {
    const std::string path = Any();
    switch (Below(20)) {
      case 0: Write(path, O_CREAT | O_TRUNC); break;
      case 1: Write(path, O_CREAT | O_APPEND); break;
      case 2: Write(path, 0); break;
      case 3: (void)truncate(path.c_str(), Below(400'000)); break;
      case 4: Punch(path); break;
      case 5: (void)mkdir(path.c_str(), 0755); break;
      case 6: (void)mkdir(path.c_str(), 0700); break;
      case 7: RemoveTree(path).IgnoreError(); break;
      case 8: (void)unlink(path.c_str()); break;
      case 9: (void)link(Any().c_str(), path.c_str()); break;
      case 10: (void)link(Any().c_str(), path.c_str()); break;
      case 11: (void)symlink(absl::StrCat("to ", Below(100)).c_str(), path.c_str()); break;
      case 12: (void)mkfifo(path.c_str(), 0600); break;
      case 13: (void)rename(Any().c_str(), path.c_str()); break;
      case 14:
        (void)syscall(SYS_renameat2, AT_FDCWD, Any().c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE);
        break;
      case 15: (void)chmod(path.c_str(), 0600 | Below(0200)); break;
      case 16: (void)lchown(path.c_str(), static_cast<uid_t>(Below(9)), static_cast<gid_t>(Below(9))); break;
      case 17: Attribute(path); break;
      case 18: Store(path); break;
      case 19: {
        const timespec times[] = {{1, 2}, {Below(2'000'000'000), Below(1'000'000'000)}};
        (void)utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW);
        break;
      }
    }
  }

 private:
  int Below(int bound) { return static_cast<int>(random_() % static_cast<unsigned>(bound)); }

  // Of few names, so that they meet again and again.
  std::string Any() {
    std::string path = root_;
    for (int depth = Below(3); depth >= 0; --depth)
      absl::StrAppend(&path, "/", std::string(1, "abcdef"[Below(6)]));
    return path;
  }
  std::string Bytes(int most) {
    std::string bytes(static_cast<size_t>(Below(most)), '\0');
    for (char& c : bytes) c = static_cast<char>(random_());
    return bytes;
  }
  void Write(const std::string& path, int flags) {
    const UniqueFd fd(open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOFOLLOW | flags, 0640));
    if (!fd.ok()) return;
    const std::string bytes = Bytes(Below(4) == 0 ? 300'000 : 5'000);
    (void)!((flags & O_APPEND) != 0 ? write(fd.get(), bytes.data(), bytes.size())
                                    : pwrite(fd.get(), bytes.data(), bytes.size(), Below(400'000)));
  }
  void Punch(const std::string& path) {
    const UniqueFd fd(open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOFOLLOW));
    if (fd.ok())
      (void)fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, Below(300'000),
                      1 + Below(200'000));
  }
  void Attribute(const std::string& path) {
    // An ACL as the kernel takes it: version 2; owner, user 7, group, mask, others.
    static constexpr char kAcl[] =
        "\2\0\0\0\1\0\7\0\377\377\377\377\2\0\6\0\7\0\0\0\4\0\5\0\377\377\377\377\20\0\7\0\377\377\377\377 "
        "\0\0\0"
        "\377\377\377\377";
    const std::string name = Below(2) == 0 ? absl::StrCat("user.", Below(3)) : "system.posix_acl_default";
    if (Below(3) == 0) {
      (void)lremovexattr(path.c_str(), name.c_str());
    } else if (name[0] == 'u') {
      const std::string value = Bytes(40);
      (void)lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0);
    } else {
      (void)lsetxattr(path.c_str(), name.c_str(), kAcl, sizeof(kAcl) - 1, 0);
    }
  }
  // A store through a mapping that is there for a moment.
  void Store(const std::string& path) {
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_NONBLOCK | O_NOFOLLOW));
    struct stat info{};
    if (!fd.ok() || fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0) return;
    void* mapped =
        mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (mapped == MAP_FAILED) return;
    static_cast<char*>(mapped)[random_() % static_cast<size_t>(info.st_size)] = static_cast<char>(random_());
    munmap(mapped, static_cast<size_t>(info.st_size));
  }

  const std::string root_;
  std::mt19937_64 random_;
};

}  // namespace godwit::files
