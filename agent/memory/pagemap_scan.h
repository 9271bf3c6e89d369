// SPDX-License-Identifier: Apache-2.0
// PAGEMAP_SCAN (Linux 6.7; Documentation/admin-guide/mm/pagemap.rst) over one task's memory.
//
// Only pages with content are ever looked at: present or swapped, and neither the zero page nor a guard page
// (MADV_GUARD_INSTALL, known from 6.15 on). What was dropped by MADV_DONTNEED is therefore not found, whether
// or not its page table is left, and no markers are put into empty page tables.
//
// To tell all that costs some 4 ms a GiB. The kernel has a short way for one question alone, which pages are
// not write-protected, 0.6 ms a GiB (fs/proc/task_mmu.c, pagemap_scan_pmd_entry): so Look and ArmWritten ask
// that first, and the rest only of what it names. To this question entries of page tables that are empty
// count as not protected, page tables that are not there do not. Hence, where it names nothing of a page
// table's span, that is either full of protected pages or not there at all, which its first page tells.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/memory/range.h"
#include "base/file.h"

namespace godwit::memory {

class PagemapScan {
 public:
  // FailedPrecondition when the kernel cannot.
  static absl::Status CheckSupport();

  // The memory that the process has at this moment; not what it has after an exec.
  static absl::StatusOr<PagemapScan> Open(const std::string& proc, pid_t pid);

  struct Pages {
    Ranges populated;
    Ranges written;  // those of `populated` that are not write-protected
  };
  // Adds to `pages`. PermissionDenied when a part is not registered with an asynchronous userfaultfd.
  absl::Status Look(Range range, Pages& pages) const;
  // The same without asking for a userfaultfd; `written` means nothing then.
  absl::Status LookUnregistered(Range range, Pages& pages) const;
  // Write-protects the pages that it finds. With PermissionDenied some may be protected though they were not
  // reported: the range has to be looked at by ArmAll.
  absl::Status ArmWritten(Range range, Ranges& written) const;
  absl::Status ArmAll(Range range, Ranges& populated) const;

 private:
  explicit PagemapScan(UniqueFd pagemap) : pagemap_(std::move(pagemap)) {}
  struct Question;
  static Question ShortQuestion();
  static bool HasShortWay();
  absl::Status Ask(const Question& question, Range range, Pages& pages) const;
  absl::StatusOr<Ranges> NotProtected(Range range) const;
  absl::StatusOr<uint64_t> FirstPopulated(Range range) const;
  absl::Status LookWhereAllIsProtected(Range range, Ranges& populated) const;
  absl::Status LookAtEach(Range range, Pages& pages) const;

  UniqueFd pagemap_;
};

}  // namespace godwit::memory
