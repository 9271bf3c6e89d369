// SPDX-License-Identifier: Apache-2.0
// Shared memory that is there before the tasks are (criu_environment.h: kSharedMemoryVariable). A task that
// restores an object makes a memfd, gives it the object's size, maps it and opens the image of its pages
// (CRIU 4.2: criu/memfd.c, memfd_open_inode_nocache; criu/shmem.c, restore_memfd_shmem_content and
// open_shmem). When it opens the image, the memfd's descriptor becomes one of the object that is there; the
// image has no pages.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

namespace godwit::preload {

struct SharedObject {
  uint64_t id, inode;
  char path[48];        // "/proc/<pid>/fd/<n>"
  unsigned char taken;  // by a task
};

// The lines of the file. Returns how many there are, or -1 when they are not as they should be, or more than
// `capacity`.
ssize_t ParseShared(const char* text, size_t size, SharedObject* objects, size_t capacity);

// The id of "pagemap-shmem-<id>.img", or 0.
uint64_t IdOfSharedImage(const char* name);

// Reads the file. False: the restore must not go on; the messages file has the reason.
bool LoadShared(const char* path);
// The calling task has made this memfd.
void NoteMemfd(int fd);
// Before the calling task opens an image of `folder`, a descriptor on this machine's files. False: it must
// not go on (errno is set).
bool PutSharedInPlace(int folder, const char* image);
// In CRIU's main process, when all tasks are restored: whether each object was taken. Says which was not.
bool AllSharedTaken();

}  // namespace godwit::preload
