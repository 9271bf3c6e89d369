// SPDX-License-Identifier: Apache-2.0
// The mappings of a task with all their flags, from the kernel's own list of them: a BPF iterator (task_vma,
// Documentation/bpf/bpf_iterators.rst) over one task. smaps tells the same flags, but walks all page tables
// of the task for it, 10 ms a GiB; this takes a microsecond a mapping.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/memory/range.h"
#include "base/file.h"

namespace godwit::memory {

struct Vma {
  Range range;
  uint64_t flags = 0;  // vm_flags (include/linux/mm.h), whose higher bits differ between kernels
};

class VmaIterator {
 public:
  // Loads the program: some 100 ms and 20 MiB for a moment, to read the kernel's BTF. FailedPrecondition:
  // this kernel cannot (older than 6.1, without BTF, or locked down).
  static absl::StatusOr<VmaIterator> Load();

  // In the order of their addresses; `pid` in this process' pid namespace. A task without memory has none.
  // NotFound when it is gone. The list is of one moment only if the task stands still.
  absl::StatusOr<std::vector<Vma>> Read(pid_t pid) const;

 private:
  explicit VmaIterator(UniqueFd program) : program_(std::move(program)) {}

  UniqueFd program_;
};

}  // namespace godwit::memory
