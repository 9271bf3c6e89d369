// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/smaps.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/preload/settings.h"

namespace godwit::preload {

uint64_t TaskOfFolder(const char* path) {
  constexpr char kProc[] = "/proc/";
  constexpr size_t kPrefix = sizeof(kProc) - 1, kMaxDigits = 10;
  if (strncmp(path, kProc, kPrefix) != 0) return 0;
  const char* at = path + kPrefix;
  uint64_t pid = 0;
  for (; *at >= '0' && *at <= '9' && static_cast<size_t>(at - path) < kPrefix + kMaxDigits; ++at)
    pid = pid * 10 + static_cast<uint64_t>(*at - '0');
  return *at == '\0' ? pid : 0;
}

int OpenSmaps(const char* files, int folder) {
  char name[32], path[kMaxPath], file[kMaxPath + 24];
  snprintf(name, sizeof(name), "/proc/self/fd/%d", folder);
  const ssize_t size = readlink(name, path, sizeof(path) - 1);
  path[size < 0 ? 0 : size] = '\0';
  const uint64_t pid = TaskOfFolder(path);
  if (pid == 0) return -1;
  snprintf(file, sizeof(file), "%s/%llu", files, static_cast<unsigned long long>(pid));
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0));
}

}  // namespace godwit::preload
