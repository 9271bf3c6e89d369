// SPDX-License-Identifier: Apache-2.0
// By which number the page engine knows memory: a task's process id in its container, above 0, or, for an
// object of shared memory, a key below 0. The key's lower 31 bits are the id by which CRIU names the object's
// image (pagemap-shmem-ID.img): its inode number on the source.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace godwit::memory {

inline constexpr uint32_t kSharedFlag = uint32_t{1} << 31;
// Objects with greater ids are not carried. (CRIU cuts inode numbers to 32 bits.)
inline constexpr uint64_t kMaxSharedId = kSharedFlag - 1;

constexpr bool IsShared(pid_t key) { return key < 0; }
// `id`: 1 to kMaxSharedId.
constexpr pid_t SharedKey(uint32_t id) { return static_cast<pid_t>(id | kSharedFlag); }
constexpr uint32_t SharedId(pid_t key) { return static_cast<uint32_t>(key) & ~kSharedFlag; }

}  // namespace godwit::memory
