// SPDX-License-Identifier: Apache-2.0
#include "runtime/criu_launcher/small_tar.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>

namespace godwit::small_tar {
namespace {

constexpr size_t kMaxEntries = 256;
constexpr size_t kMaxArchive = size_t{512} * (kMaxEntries + 8);
constexpr size_t kBlock = 512;
constexpr size_t kStored = 65535;         // bytes in a stored block of deflate (RFC 1951, 3.2.4)
constexpr unsigned kMaxOctal = 07777777;  // seven digits
constexpr long long kMaxTime = 077777777777;

// The header of ustar (POSIX.1-2001, pax, "ustar Interchange Format").
struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[8],
      user[32], group[32], major[8], minor[8], prefix[155], padding[12];
};
static_assert(sizeof(Header) == kBlock);

uint32_t Crc32(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      made[i] = i;
      for (int bit = 0; bit < 8; ++bit) made[i] = (made[i] >> 1) ^ ((made[i] & 1) != 0 ? 0xedb88320u : 0);
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (char c : bytes) crc = table[(crc ^ static_cast<unsigned char>(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

void PutLittle(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t Little(std::string_view bytes, size_t at, int count) {
  uint64_t value = 0;
  for (int i = 0; i < count; ++i)
    value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[at + static_cast<size_t>(i)])) << (8 * i);
  return value;
}

// RFC 1952, of stored blocks.
std::string Gzip(std::string_view bytes) {
  std::string out("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10);
  for (size_t at = 0; at == 0 || at < bytes.size(); at += kStored) {
    const std::string_view part = bytes.substr(at, kStored);
    out.push_back(at + part.size() == bytes.size() ? 1 : 0);
    PutLittle(out, part.size(), 2);
    PutLittle(out, ~part.size(), 2);
    out += part;
  }
  PutLittle(out, Crc32(bytes), 4);
  PutLittle(out, bytes.size(), 4);
  return out;
}

bool Gunzip(std::string_view archive, std::string* bytes) {
  if (archive.size() < 18 || archive.substr(0, 4) != std::string_view("\x1f\x8b\x08\0", 4)) return false;
  size_t at = 10;
  for (bool last = false; !last;) {
    if (archive.size() - at < 5 || static_cast<unsigned char>(archive[at]) > 1) return false;
    last = archive[at] == 1;
    const size_t size = Little(archive, at + 1, 2);
    if ((size ^ Little(archive, at + 3, 2)) != 0xffff || archive.size() - at - 5 < size) return false;
    bytes->append(archive.substr(at + 5, size));
    at += 5 + size;
  }
  return archive.size() - at == 8 && Little(archive, at, 4) == Crc32(*bytes) &&
         Little(archive, at + 4, 4) == bytes->size();
}

template <size_t N>
void PutOctal(char (&field)[N], unsigned long long value) {
  field[N - 1] = '\0';
  for (size_t i = N - 1; i-- > 0; value /= 8) field[i] = static_cast<char>('0' + value % 8);
}

template <size_t N>
bool Octal(const char (&field)[N], unsigned long long* value) {
  *value = 0;
  for (size_t i = 0; i < N - 1; ++i) {
    if (field[i] < '0' || field[i] > '7') return false;
    *value = *value * 8 + static_cast<unsigned long long>(field[i] - '0');
  }
  return field[N - 1] == '\0';
}

template <size_t N>
std::string_view Text(const char (&field)[N]) {
  return {field, strnlen(field, N)};
}

unsigned Checksum(const Header& header) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(&header);
  unsigned sum = 0;
  for (size_t i = 0; i < sizeof(Header); ++i) {
    const bool own = i >= offsetof(Header, checksum) && i < offsetof(Header, type);
    sum += own ? ' ' : bytes[i];
  }
  return sum;
}

Header HeaderOf(const Entry& entry) {
  Header header{};
  const std::string name = entry.name == "." ? "./" : "./" + entry.name + (entry.type == '5' ? "/" : "");
  memcpy(header.name, name.data(), name.size());
  memcpy(header.link, entry.link.data(), entry.link.size());
  PutOctal(header.mode, entry.mode);
  PutOctal(header.uid, entry.uid);
  PutOctal(header.gid, entry.gid);
  PutOctal(header.size, 0);
  PutOctal(header.mtime, static_cast<unsigned long long>(entry.mtime));
  header.type = entry.type;
  memcpy(header.magic,
         "ustar\0"
         "00",
         8);
  PutOctal(header.major, entry.major);
  PutOctal(header.minor, entry.minor);
  snprintf(header.checksum, sizeof(header.checksum), "%06o", Checksum(header));
  header.checksum[7] = ' ';
  return header;
}

bool GoodName(std::string_view name) {
  return !name.empty() && name.size() <= 96 && name.find('/') == std::string_view::npos && name != "..";
}

// The entry of a header; it is the very header that HeaderOf makes of it.
bool EntryOf(const Header& header, Entry* entry) {
  std::string_view name = Text(header.name);
  if (name.substr(0, 2) != "./") return false;
  name.remove_prefix(2);
  if (header.type == '5' && !name.empty() && name.back() == '/') name.remove_suffix(1);
  entry->name = name.empty() ? "." : std::string(name);
  entry->type = header.type;
  entry->link = std::string(Text(header.link));
  unsigned long long mode = 0, uid = 0, gid = 0, mtime = 0, major = 0, minor = 0;
  if (!Octal(header.mode, &mode) || !Octal(header.uid, &uid) || !Octal(header.gid, &gid) ||
      !Octal(header.mtime, &mtime) || !Octal(header.major, &major) || !Octal(header.minor, &minor))
    return false;
  entry->mode = static_cast<unsigned>(mode);
  entry->uid = static_cast<unsigned>(uid);
  entry->gid = static_cast<unsigned>(gid);
  entry->mtime = static_cast<long long>(mtime);
  entry->major = static_cast<unsigned>(major);
  entry->minor = static_cast<unsigned>(minor);
  if (!GoodName(entry->name) || strchr("023456", entry->type) == nullptr || entry->type == '\0' ||
      (mode & ~07777ull) != 0)
    return false;
  const Header again = HeaderOf(*entry);
  return memcmp(&again, &header, sizeof(Header)) == 0;
}

bool Describe(int folder, const char* name, Entry* entry) {
  struct stat status{};
  if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0) return false;
  entry->name = name;
  entry->mode = status.st_mode & 07777;
  entry->uid = status.st_uid;
  entry->gid = status.st_gid;
  entry->mtime = status.st_mtim.tv_sec;
  if (!GoodName(entry->name) || entry->uid > kMaxOctal || entry->gid > kMaxOctal || entry->mtime < 0 ||
      entry->mtime > kMaxTime || (!S_ISDIR(status.st_mode) && status.st_nlink != 1))
    return false;
  switch (status.st_mode & S_IFMT) {
    case S_IFREG: entry->type = '0'; return status.st_size == 0;  // something is mounted there
    case S_IFDIR: entry->type = '5'; return true;
    case S_IFIFO: entry->type = '6'; return true;
    case S_IFLNK: {
      char target[101];
      const ssize_t size = readlinkat(folder, name, target, sizeof(target));
      if (size <= 0 || size > 100) return false;
      entry->type = '2';
      entry->link.assign(target, static_cast<size_t>(size));
      return true;
    }
    case S_IFCHR:
    case S_IFBLK:
      entry->type = S_ISCHR(status.st_mode) ? '3' : '4';
      entry->major = major(status.st_rdev);
      entry->minor = minor(status.st_rdev);
      return entry->major <= kMaxOctal && entry->minor <= kMaxOctal;
    default: return false;
  }
}

// Names in a folder, sorted; false when it cannot be read or has too many.
bool Names(int folder, std::vector<std::string>* names) {
  const int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return false;
  const std::unique_ptr<DIR, int (*)(DIR*)> reader(fdopendir(copy), closedir);
  if (reader == nullptr) {
    close(copy);
    return false;
  }
  errno = 0;
  while (const dirent* found = readdir(reader.get())) {
    if (strcmp(found->d_name, ".") == 0 || strcmp(found->d_name, "..") == 0) continue;
    if (names->size() == kMaxEntries) return false;
    names->emplace_back(found->d_name);
  }
  std::sort(names->begin(), names->end());
  return errno == 0;
}

bool EmptyFolder(int folder, const char* name) {
  const int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return false;
  std::vector<std::string> names;
  const bool empty = Names(fd, &names) && names.empty();
  close(fd);
  return empty;
}

// As tar does it for root: what is there is replaced, but for a folder, which is taken as it is.
bool Make(int folder, const Entry& entry) {
  const char* name = entry.name.c_str();
  if (entry.type == '5') {
    if (mkdirat(folder, name, 0700) == 0) return true;
    struct stat status{};
    return errno == EEXIST && fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISDIR(status.st_mode);
  }
  unlinkat(folder, name, 0);
  if (entry.type == '2') return symlinkat(entry.link.c_str(), folder, name) == 0;
  const mode_t kind = entry.type == '0'   ? S_IFREG
                      : entry.type == '3' ? S_IFCHR
                      : entry.type == '4' ? S_IFBLK
                                          : S_IFIFO;
  return mknodat(folder, name, kind | 0600, makedev(entry.major, entry.minor)) == 0;
}

bool Dress(int folder, const Entry& entry) {
  const char* name = entry.name.c_str();
  const timespec times[2] = {{0, UTIME_NOW}, {static_cast<time_t>(entry.mtime), 0}};
  return fchownat(folder, name, entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) == 0 &&
         (entry.type == '2' || fchmodat(folder, name, entry.mode, 0) == 0) &&
         utimensat(folder, name, times, AT_SYMLINK_NOFOLLOW) == 0;
}

bool WriteWhole(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// A file that is small and at its beginning, read without moving on in it.
bool ReadSmallFile(int fd, std::string* bytes) {
  struct stat status{};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_size > static_cast<off_t>(kMaxArchive) || lseek(fd, 0, SEEK_CUR) != 0)
    return false;
  bytes->resize(static_cast<size_t>(status.st_size));
  return pread(fd, bytes->data(), bytes->size(), 0) == status.st_size;
}

int Say(const char* what, const char* where) {
  fprintf(stderr, "godwit tar: cannot %s %s: %s\n", what, where, strerror(errno));
  return 2;
}

}  // namespace

bool ReadFolder(int folder, std::vector<Entry>* entries) {
  std::vector<std::string> names;
  if (!Names(folder, &names)) return false;
  names.insert(names.begin(), ".");
  for (const std::string& name : names) {
    Entry entry;
    if (!Describe(folder, name.c_str(), &entry)) return false;
    if (entry.type == '5' && name != "." && !EmptyFolder(folder, name.c_str())) return false;
    entries->push_back(entry);
  }
  return true;
}

std::string Pack(const std::vector<Entry>& entries) {
  std::string tar;
  for (const Entry& entry : entries) {
    const Header header = HeaderOf(entry);
    tar.append(reinterpret_cast<const char*>(&header), sizeof(header));
  }
  tar.append(2 * kBlock, '\0');
  return Gzip(tar);
}

bool Unpack(std::string_view archive, std::vector<Entry>* entries) {
  std::string tar;
  if (!Gunzip(archive, &tar) || tar.size() % kBlock != 0 || tar.size() < 3 * kBlock) return false;
  const size_t content = tar.size() - 2 * kBlock;
  if (std::any_of(tar.begin() + static_cast<ptrdiff_t>(content), tar.end(), [](char c) { return c != '\0'; }))
    return false;
  for (size_t at = 0; at < content; at += kBlock) {
    Header header;
    memcpy(&header, tar.data() + at, sizeof(header));
    Entry entry;
    if (entries->size() > kMaxEntries || !EntryOf(header, &entry)) return false;
    if ((entry.name == ".") != (at == 0) || (at == 0 && entry.type != '5')) return false;
    entries->push_back(entry);
  }
  return true;
}

bool WriteFolder(int folder, const std::vector<Entry>& entries) {
  for (const Entry& entry : entries) {
    if (entry.name != "." && (!Make(folder, entry) || !Dress(folder, entry))) return false;
  }
  return std::all_of(entries.begin(), entries.end(),
                     [&](const Entry& entry) { return entry.name != "." || Dress(folder, entry); });
}

bool Run(const std::vector<std::string>& arguments, int* status) {
  static const std::vector<std::string> create = {
      "--create",          "--gzip",        "--no-unquote",           "--no-wildcards",
      "--one-file-system", "--check-links", "--preserve-permissions", "--sparse",
      "--numeric-owner",   "--directory",   "/proc/self/fd/0",        "."};
  static const std::vector<std::string> extract = {"--extract", "--gzip", "--no-unquote", "--no-wildcards",
                                                   "--directory"};
  std::vector<Entry> entries;
  if (arguments == create) {
    if (!ReadFolder(STDIN_FILENO, &entries)) return false;
    *status = WriteWhole(STDOUT_FILENO, Pack(entries)) ? 0 : Say("write", "the archive");
    return true;
  }
  if (arguments.size() != extract.size() + 1 ||
      !std::equal(extract.begin(), extract.end(), arguments.begin()))
    return false;
  std::string archive;
  if (!ReadSmallFile(STDIN_FILENO, &archive) || !Unpack(archive, &entries)) return false;
  const int folder = open(arguments.back().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return false;
  *status = WriteFolder(folder, entries) ? 0 : Say("extract into", arguments.back().c_str());
  return true;
}

}  // namespace godwit::small_tar
