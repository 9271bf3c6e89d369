// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/preload/settings.h"

namespace godwit::preload {
namespace {

constexpr size_t kMaxFile = size_t{256} << 20;

}  // namespace

bool Number(const char*& at, const char* end, unsigned base, uint64_t* out) {
  const char* begin = at;
  for (*out = 0; at < end && at - begin < 16; ++at) {
    const unsigned digit = *at >= '0' && *at <= '9'   ? static_cast<unsigned>(*at - '0')
                           : *at >= 'a' && *at <= 'f' ? static_cast<unsigned>(*at - 'a' + 10)
                                                      : base;
    if (digit >= base) break;
    *out = *out * base + digit;
  }
  return at > begin;
}

bool Skip(const char*& at, const char* end, char c) {
  if (at >= end || *at != c) return false;
  ++at;
  return true;
}

size_t CountLines(const char* text, size_t size) {
  size_t lines = 0;
  for (const char* at = text;
       (at = static_cast<const char*>(memchr(at, '\n', static_cast<size_t>(text + size - at)))) != nullptr;
       ++at)
    ++lines;
  return lines;
}

bool Refuse(const char* what, const char* detail, int error) {
  Say(what, detail, error);
  return false;
}

bool MapText(const char* path, const char* name, Text* text) {
  char what[96];
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  snprintf(what, sizeof(what), "cannot open the file of %s", name);
  if (fd < 0) return Refuse(what, path, errno);
  struct stat status{};
  if (fstat(fd, &status) != 0 || status.st_size < 0 || static_cast<size_t>(status.st_size) > kMaxFile) {
    close(fd);
    snprintf(what, sizeof(what), "the file of %s is too large:", name);
    return Refuse(what, path, 0);
  }
  text->size = static_cast<size_t>(status.st_size);
  void* bytes = text->size == 0 ? nullptr : mmap(nullptr, text->size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  snprintf(what, sizeof(what), "cannot read the file of %s", name);
  if (bytes == MAP_FAILED) return Refuse(what, path, error);
  text->bytes = static_cast<const char*>(bytes);
  return true;
}

void UnmapText(const Text& text) {
  if (text.bytes != nullptr) munmap(const_cast<char*>(text.bytes), text.size);
}

}  // namespace godwit::preload
