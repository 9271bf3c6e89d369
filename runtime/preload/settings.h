// SPDX-License-Identifier: Apache-2.0
// What was asked of this process, read once when the library is loaded.
#pragma once

#include <stddef.h>

namespace godwit::preload {

inline constexpr size_t kMaxPath = 1024;  // bytes of a path in a variable; a longer one is an error

struct Settings {
  bool broken;  // a variable made no sense: requests are refused
  int socket;   // the descriptor on which runc talks to CRIU
  char hold_cgroup[kMaxPath];
  char outside_cgroup[kMaxPath];
  char gate[kMaxPath];
  char messages[kMaxPath];
  char hidden_pages[kMaxPath];
  char smaps[kMaxPath];
  char shared_memory[kMaxPath];
  char done[kMaxPath];
  unsigned char log_level;              // the most that CRIU may log; 0: as its request says
  const volatile unsigned char* abort;  // mapped; nullptr when not asked for
};

// Asked of CRIU's main process and of its children alike: they are who dumps namespaces.
bool HidesConntrack();

// The settings, or nullptr where this library has nothing to do: another program, another CRIU command, or a
// process that CRIU has forked.
const Settings* Active();

// Has the one who started this dump asked for its end?
bool AbortRequested();

// Appends one line to the messages file, if there is one. `detail` may be empty, `error` (errno) 0.
void Say(const char* message, const char* detail, int error);

// The same from a process that may be in the container's tree of mounts; `folder` is a descriptor of a folder
// in this machine's.
void SayFrom(int folder, const char* message, const char* detail, int error);

// From such a folder to the root of its tree: put before an absolute path. It lies less deep than this.
inline constexpr char kUpToTheRoot[] =
    "../../../../../../../../../../../../../../../../../../../../../../../..";

// Appends bytes to the messages file. False when there is none.
bool AppendMessages(const void* data, size_t size);

}  // namespace godwit::preload
