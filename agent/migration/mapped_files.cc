// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/mapped_files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

constexpr size_t kMaxMaps = size_t{64} << 20;
constexpr absl::string_view kDeleted = " (deleted)";

// One line of /proc/PID/maps (proc_pid_maps(5)).
struct Mapping {
  absl::string_view range;  // "START-END"
  absl::string_view file;   // device, inode and path
  dev_t device = 0;
  ino_t inode = 0;
  std::string path;
};

// Of a shared, writable mapping of a file; nullopt for every other.
std::optional<Mapping> ParseMapping(absl::string_view line) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(' ', 5));
  if (fields.size() < 6 || fields[1].size() != 4 || fields[1][1] != 'w' || fields[1][3] != 's')
    return std::nullopt;
  const std::pair<absl::string_view, absl::string_view> device =
      absl::StrSplit(fields[3], absl::MaxSplits(':', 1));
  unsigned major = 0;
  unsigned minor = 0;
  Mapping mapping{.range = fields[0],
                  .file = line.substr(static_cast<size_t>(fields[3].data() - line.data()))};
  if (!absl::SimpleHexAtoi(device.first, &major) || !absl::SimpleHexAtoi(device.second, &minor) ||
      !absl::SimpleAtoi(fields[4], &mapping.inode) || mapping.inode == 0)
    return std::nullopt;
  mapping.device = makedev(major, minor);
  mapping.path = absl::StrReplaceAll(absl::StripLeadingAsciiWhitespace(fields[5]), {{"\\012", "\n"}});
  return mapping;
}

// As the names in /proc/PID/map_files are written: without leading zeros.
std::string RangeName(absl::string_view range) {
  const std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(range, absl::MaxSplits('-', 1));
  return absl::StrCat(ends.first.substr(ends.first.find_first_not_of('0')), "-",
                      ends.second.substr(ends.second.find_first_not_of('0')));
}

// The file at a container's path, in the folder that is its upper layer.
bool InLayer(int layer, const std::string& path, struct stat& info) {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
  const UniqueFd fd(static_cast<int>(syscall(SYS_openat2, layer, path.c_str(), &how, sizeof(how))));
  return fd.ok() && fstat(fd.get(), &info) == 0;
}

void Add(const Mapping& mapping, const std::string& process, dev_t overlay, int layer,
         files::MappedFiles& mapped) {
  mapped.files.insert({mapping.device, mapping.inode});
  struct stat info{};
  if (stat(absl::StrCat(process, "/map_files/", RangeName(mapping.range)).c_str(), &info) == 0)
    mapped.files.insert({info.st_dev, info.st_ino});
  if (InLayer(layer, mapping.path, info)) {
    mapped.files.insert({info.st_dev, info.st_ino});
  } else if (mapping.device == overlay) {
    // It has gone, and other names of it may be left; or it was renamed a moment ago.
    (absl::EndsWith(mapping.path, kDeleted) ? mapped.any_linked : mapped.any) = true;
  }
}

}  // namespace

absl::Status AddMappedFiles(const std::string& proc, const std::vector<pid_t>& pids, int layer,
                            files::MappedFiles& mapped) {
  absl::flat_hash_set<std::string> seen;  // many processes have the same file mapped, in many pieces
  for (const pid_t pid : pids) {
    const std::string process = absl::StrCat(proc, "/", pid);
    struct stat root{};
    if (stat(absl::StrCat(process, "/root").c_str(), &root) != 0) {
      if (errno == ENOENT || errno == ESRCH) continue;
      return ErrnoStatus(absl::StrCat("cannot look at the root of process ", pid));
    }
    const absl::StatusOr<std::string> maps = ReadFile(absl::StrCat(process, "/maps"), kMaxMaps);
    if (absl::IsNotFound(maps.status())) continue;
    if (!maps.ok())
      return Annotate(maps.status(), absl::StrCat("cannot tell what process ", pid, " has mapped"));
    for (absl::string_view line : absl::StrSplit(*maps, '\n', absl::SkipEmpty())) {
      const std::optional<Mapping> mapping = ParseMapping(line);
      if (mapping.has_value() && seen.emplace(mapping->file).second)
        Add(*mapping, process, root.st_dev, layer, mapped);
    }
  }
  return absl::OkStatus();
}

}  // namespace godwit::migration
