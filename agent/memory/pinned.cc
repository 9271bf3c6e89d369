// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/pinned.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/memory/maps.h"
#include "agent/memory/task_status.h"
#include "base/file.h"

namespace godwit::memory {
namespace {

struct Descriptors {
  int direct = 0, io_uring = 0, rdma = 0, vfio = 0;
};

// "flags:  0140002", in octal, of /proc/PID/fdinfo/FD (proc_pid_fdinfo(5)).
bool IsDirect(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return false;  // closed meanwhile
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (!absl::ConsumePrefix(&line, "flags:")) continue;
    return (strtoull(std::string(absl::StripAsciiWhitespace(line)).c_str(), nullptr, 8) & O_DIRECT) != 0;
  }
  return false;
}

void Count(const std::string& folder, const char* fd, Descriptors& found) {
  char text[PATH_MAX];
  const ssize_t size = readlink(absl::StrCat(folder, "/fd/", fd).c_str(), text, sizeof(text));
  if (size <= 0) return;
  const absl::string_view target(text, static_cast<size_t>(size));
  if (target == "anon_inode:[io_uring]") ++found.io_uring;
  if (absl::StartsWith(target, "/dev/infiniband/")) ++found.rdma;
  if (absl::StartsWith(target, "/dev/vfio/")) ++found.vfio;
  // The same flag makes a pipe keep its messages apart.
  if (absl::StartsWith(target, "/") && IsDirect(absl::StrCat(folder, "/fdinfo/", fd))) ++found.direct;
}

}  // namespace

std::vector<Pinned> FindPinnedOf(const std::string& proc, pid_t pid) {
  const std::string folder = absl::StrCat(proc, "/", pid);
  const absl::StatusOr<TaskStatus> status = ReadTaskStatus(proc, pid);
  if (!status.ok()) return {};
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(absl::StrCat(folder, "/fd").c_str()), &closedir);
  Descriptors found;
  while (const dirent* entry = dir == nullptr ? nullptr : readdir(dir.get())) {
    if (entry->d_name[0] != '.') Count(folder, entry->d_name, found);
  }
  const absl::StatusOr<AddressSpace> space = ReadAddressSpace(proc, pid, MapsFile::kMaps);

  std::vector<Pinned> pinned;
  const auto add = [&](int count, absl::string_view one, absl::string_view many) {
    if (count == 0) return;
    pinned.push_back({absl::StrCat("process ", pid, " (", status->command, ") ",
                                   count == 1 ? std::string(one) : absl::StrCat("has ", count, " ", many))});
  };
  add(found.direct, "has a file open with O_DIRECT", "files open with O_DIRECT");
  add(found.io_uring, "uses io_uring", "io_uring rings");
  add(found.rdma, "has an RDMA device open", "RDMA devices open");
  add(found.vfio, "has a VFIO device open", "VFIO devices open");
  if (space.ok()) add(space->aio_ring ? 1 : 0, "uses asynchronous I/O (io_setup)", "");
  return pinned;
}

}  // namespace godwit::memory
