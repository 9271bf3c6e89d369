// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/criu/criu_environment.h"

namespace godwit::preload {
namespace {

Settings settings;
// One page that the kernel empties in every forked child (MADV_WIPEONFORK): its first byte says "CRIU's main
// process". Process ids would not do: a restored task in a new pid namespace can have the same.
unsigned char* main_process = nullptr;
bool no_conntrack = false;

// The descriptor N of "criu [options] swrk N", or -1 for any other command.
int SwrkSocket() {
  static char command[4096];
  const int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t size = read(fd, command, sizeof(command) - 1);
  close(fd);
  if (size <= 0) return -1;
  command[size] = '\0';
  for (const char* at = command; at < command + size; at += strlen(at) + 1) {
    if (strcmp(at, "swrk") != 0) continue;
    const char* number = at + strlen(at) + 1;
    if (number >= command + size || *number < '0' || *number > '9') return -1;
    return atoi(number);
  }
  return -1;
}

// Copies a variable and removes it, so that programs that CRIU starts do not see it.
void Take(const char* name, char (&out)[kMaxPath]) {
  const char* value = getenv(name);
  if (value == nullptr) return;
  if (value[0] != '/' || strlen(value) >= kMaxPath) {
    settings.broken = true;
  } else {
    strcpy(out, value);
  }
  unsetenv(name);
}

void TakeLogLevel() {
  const char* value = getenv(criu::kLogLevelVariable);
  if (value == nullptr) return;
  if (value[0] < '1' || value[0] > '4' || value[1] != '\0') {
    settings.broken = true;
  } else {
    settings.log_level = static_cast<unsigned char>(value[0] - '0');
  }
  unsetenv(criu::kLogLevelVariable);
}

void MapAbortFile() {
  char path[kMaxPath] = "";
  Take(criu::kAbortVariable, path);
  if (path[0] == '\0') return;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  void* page = fd < 0 ? MAP_FAILED : mmap(nullptr, 1, PROT_READ, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) {
    settings.broken = true;
    Say("cannot map the abort file", path, errno);
  } else {
    settings.abort = static_cast<const unsigned char*>(page);
  }
  if (fd >= 0) close(fd);
}

// CRIU's stderr is a restored container's; what the C library prints goes through this stream.
void RedirectStderr() {
  if (settings.messages[0] == '\0') return;
  FILE* file = fopen(settings.messages, "ae");
  if (file == nullptr) return;
  setvbuf(file, nullptr, _IONBF, 0);
  stderr = file;
}

__attribute__((constructor)) void Load() {
  settings.socket = SwrkSocket();
  if (settings.socket < 0) return;
  Take(criu::kMessagesVariable, settings.messages);
  Take(criu::kHoldCgroupVariable, settings.hold_cgroup);
  Take(criu::kOutsideCgroupVariable, settings.outside_cgroup);
  Take(criu::kGateVariable, settings.gate);
  Take(criu::kHiddenPagesVariable, settings.hidden_pages);
  Take(criu::kSmapsVariable, settings.smaps);
  Take(criu::kSharedMemoryVariable, settings.shared_memory);
  Take(criu::kDoneVariable, settings.done);
  no_conntrack = getenv(criu::kNoConntrackVariable) != nullptr;
  unsetenv(criu::kNoConntrackVariable);
  TakeLogLevel();
  MapAbortFile();
  if (settings.broken)
    Say("a GODWIT_CRIU_ variable is neither an absolute path of less than 1024 bytes nor what else it may be",
        "", 0);
  RedirectStderr();
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED || madvise(page, 4096, MADV_WIPEONFORK) != 0) {
    Say("cannot tell CRIU's main process from its children: MADV_WIPEONFORK", "", errno);
    _exit(1);  // before CRIU has begun: runc reports that it ended
  }
  main_process = static_cast<unsigned char*>(page);
  *main_process = 1;
}

bool Append(int folder, const char* path, const void* data, size_t size) {
  const int fd = openat(folder, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return false;
  const bool written = syscall(SYS_write, fd, data, size) == static_cast<long>(size);
  close(fd);
  return written;
}

struct Line {
  Line(const char* message, const char* detail, int error) {
    const int length =
        snprintf(text, sizeof(text), "godwit-preload: %s%s%s%s%s\n", message, detail[0] != '\0' ? " " : "",
                 detail, error != 0 ? ": " : "", error != 0 ? strerrordesc_np(error) : "");
    if (length > 0)
      size = static_cast<size_t>(length) < sizeof(text) ? static_cast<size_t>(length) : sizeof(text) - 1;
  }
  char text[kMaxPath + 256];
  size_t size = 0;
};

}  // namespace

const Settings* Active() { return main_process != nullptr && *main_process == 1 ? &settings : nullptr; }

bool HidesConntrack() { return no_conntrack; }

bool AbortRequested() {
  const Settings* active = Active();
  return active != nullptr && active->abort != nullptr && *active->abort != 0;
}

bool AppendMessages(const void* data, size_t size) {
  return settings.messages[0] != '\0' && Append(AT_FDCWD, settings.messages, data, size);
}

void Say(const char* message, const char* detail, int error) {
  const Line line(message, detail, error);
  AppendMessages(line.text, line.size);
}

void SayFrom(int folder, const char* message, const char* detail, int error) {
  if (settings.messages[0] == '\0') return;
  char path[sizeof(kUpToTheRoot) + kMaxPath];
  snprintf(path, sizeof(path), "%s%s", kUpToTheRoot, settings.messages);
  const Line line(message, detail, error);
  Append(folder, path, line.text, line.size);
}

}  // namespace godwit::preload
