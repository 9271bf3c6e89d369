// SPDX-License-Identifier: Apache-2.0
// What CRIU reads in place of a task's smaps (criu_environment.h: kSmapsVariable). CRIU 4.2 opens it by its
// name in the task's folder of /proc (criu/proc_parse.c, parse_smaps; criu/util.c, do_open_proc).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace godwit::preload {

// The process id N of "/proc/N"; 0: it is another path.
uint64_t TaskOfFolder(const char* path);

// A descriptor of the task's file in `files`; `folder` is a descriptor of a task's folder in /proc. -1: there
// is no such file, and the kernel's is to be read.
int OpenSmaps(const char* files, int folder);

}  // namespace godwit::preload
