// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/preload/settings.h"
#include "runtime/preload/text.h"

namespace godwit::preload {
namespace {

SharedObject* objects = nullptr;  // mapped, never freed; CRIU's processes have it in common
size_t object_count = 0;
int last_memfd = -1;

SharedObject* Find(uint64_t id) {
  for (size_t i = 0; i < object_count; ++i) {
    if (objects[i].id == id) return &objects[i];
  }
  return nullptr;
}

bool SkipWord(const char*& at, const char* end, const char* word) {
  while (*word != '\0') {
    if (!Skip(at, end, *word++)) return false;
  }
  return true;
}

// "/proc/12/fd/3"; copied to `out`.
bool Path(const char*& at, const char* end, char (&out)[sizeof(SharedObject::path)]) {
  const char* const begin = at;
  uint64_t number = 0;
  if (!SkipWord(at, end, "/proc/") || !Number(at, end, 10, &number) || !SkipWord(at, end, "/fd/") ||
      !Number(at, end, 10, &number))
    return false;
  const auto size = static_cast<size_t>(at - begin);
  if (size >= sizeof(out)) return false;
  memcpy(out, begin, size);
  out[size] = '\0';
  return true;
}

struct Detail {
  explicit Detail(const SharedObject& object) {
    snprintf(text, sizeof(text), "%s, for shared memory %llu", object.path,
             static_cast<unsigned long long>(object.id));
  }
  char text[96];
};

// Not by ENOENT, which CRIU takes for an image that is empty.
bool Fail(int folder, const SharedObject& object, const char* what, int error) {
  SayFrom(folder, what, Detail(object).text, error);
  errno = ESTALE;
  return false;
}

}  // namespace

ssize_t ParseShared(const char* text, size_t size, SharedObject* list, size_t capacity) {
  const char* at = text;
  const char* const end = text + size;
  size_t count = 0;
  while (at < end) {
    SharedObject object{};
    if (!Number(at, end, 10, &object.id) || !Skip(at, end, ' ') || !Number(at, end, 10, &object.inode) ||
        !Skip(at, end, ' ') || !Path(at, end, object.path) || !Skip(at, end, '\n'))
      return -1;
    if (count == capacity || object.id == 0) return -1;
    for (size_t i = 0; i < count; ++i) {
      if (list[i].id == object.id) return -1;
    }
    list[count++] = object;
  }
  return static_cast<ssize_t>(count);
}

uint64_t IdOfSharedImage(const char* name) {
  constexpr char kPrefix[] = "pagemap-shmem-";
  if (strncmp(name, kPrefix, sizeof(kPrefix) - 1) != 0) return 0;
  const char* at = name + sizeof(kPrefix) - 1;
  uint64_t id = 0;
  return Number(at, name + strlen(name), 10, &id) && strcmp(at, ".img") == 0 ? id : 0;
}

bool LoadShared(const char* path) {
  Text text;
  if (!MapText(path, "shared memory", &text)) return false;
  if (text.size == 0) return true;
  const size_t lines = CountLines(text.bytes, text.size);
  void* memory = mmap(nullptr, (lines + 1) * sizeof(SharedObject), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Refuse("cannot map memory for the list of", path, errno);
  objects = static_cast<SharedObject*>(memory);
  const ssize_t count = ParseShared(text.bytes, text.size, objects, lines);
  UnmapText(text);
  if (count < 0) return Refuse("the file of shared memory is broken:", path, 0);
  object_count = static_cast<size_t>(count);
  return true;
}

void NoteMemfd(int fd) { last_memfd = fd; }

bool PutSharedInPlace(int folder, const char* image) {
  SharedObject* const object = object_count == 0 ? nullptr : Find(IdOfSharedImage(image));
  if (object == nullptr) return true;
  char path[sizeof(kUpToTheRoot) + sizeof(object->path)];
  snprintf(path, sizeof(path), "%s%s", kUpToTheRoot, object->path);
  const int fd = static_cast<int>(syscall(SYS_openat, folder, path, O_RDWR | O_CLOEXEC, 0));
  if (fd < 0) return Fail(folder, *object, "cannot open", errno);
  struct stat made{}, there{};
  const bool same = fstat(last_memfd, &made) == 0 && fstat(fd, &there) == 0 && made.st_dev == there.st_dev &&
                    there.st_ino == object->inode;
  const bool taken = same && ftruncate(fd, made.st_size) == 0 && dup3(fd, last_memfd, 0) >= 0;
  const int error = errno;
  close(fd);
  if (!same) return Fail(folder, *object, "not what it was, or CRIU made no memfd:", 0);
  if (!taken) return Fail(folder, *object, "cannot take", error);
  object->taken = 1;
  return true;
}

bool AllSharedTaken() {
  for (size_t i = 0; i < object_count; ++i) {
    if (objects[i].taken == 0) return Refuse("CRIU's restore has not asked for", Detail(objects[i]).text, 0);
  }
  return true;
}

}  // namespace godwit::preload
