// SPDX-License-Identifier: Apache-2.0
// smaps as CRIU needs it, without the walk over page tables: each mapping's line and its VmFlags, made of
// maps and of what a VmaIterator tells. CRIU's dump is given it instead of the kernel's (criu_environment.h).
//
// The names are those of fs/proc/task_mmu.c (show_smap_vma_flags), as far as CRIU minds them
// (criu/proc_parse.c 4.2, __parse_vmflags). Bits above the 32nd differ between kernels and architectures;
// what they mean is learnt from the kernel's own smaps of mappings of this process. A mapping with a bit that
// was not learnt makes no text: CRIU reads the kernel's then.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/memory/vma_iterator.h"

namespace godwit::memory {

class VmFlagNames {
 public:
  // `smaps`: the kernel's text for the process whose mappings `vmas` are. Those that are in both count.
  // FailedPrecondition: the kernel's bits are not those that are known here.
  absl::Status Learn(absl::string_view smaps, const std::vector<Vma>& vmas);

  // "lo hg"; FailedPrecondition for a bit that was not learnt.
  absl::StatusOr<std::string> Of(uint64_t flags) const;

 private:
  std::map<uint64_t, std::string> learnt_;  // by bit; an empty name: nothing that CRIU minds
};

// The text. DataLoss when `maps` and `vmas` are not of the same mappings; FailedPrecondition as above.
absl::StatusOr<std::string> ComposeSmaps(absl::string_view maps, const std::vector<Vma>& vmas,
                                         const VmFlagNames& names);

class ShortSmaps {
 public:
  // FailedPrecondition: this kernel cannot. Makes and removes a few mappings in this process to learn from.
  static absl::StatusOr<ShortSmaps> Load();

  // Of a process that stands still. NotFound: it is gone.
  absl::StatusOr<std::string> Read(const std::string& proc, pid_t pid) const;

  // Makes `folder` anew, with a file for each process of the cgroup2 folder, which is frozen; its name is the
  // process id. A process whose mappings cannot be told has none, and CRIU reads the kernel's smaps.
  absl::Status Write(const std::string& proc, const std::string& cgroup, const std::string& folder) const;

 private:
  ShortSmaps(VmaIterator iterator, VmFlagNames names)
      : iterator_(std::move(iterator)), names_(std::move(names)) {}

  VmaIterator iterator_;
  VmFlagNames names_;
};

}  // namespace godwit::memory
