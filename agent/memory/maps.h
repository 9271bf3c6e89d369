// SPDX-License-Identifier: Apache-2.0
// What /proc/PID/maps and smaps say of a task's address space, as far as the page engine depends on it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/memory/range.h"

namespace godwit::memory {

// A mapping of anonymous memory that processes share: mmap(MAP_SHARED | MAP_ANONYMOUS), which the kernel
// shows as "/dev/zero (deleted)". Not memfd_create(2)'s, shmat(2)'s or a tmpfs file's.
struct SharedMapping {
  Range range;
  std::string device;  // as the text has it: "00:01"
  uint64_t inode = 0;  // of the object, which other mappings may be of as well
};

struct AddressSpace {
  // The mappings that CRIU can restore with their pages missing (criu/include/vma.h 4.2,
  // vma_entry_can_be_lazy): private and anonymous, not the kernel's own, not hugetlb, locked or droppable,
  // and no device memory or shadow stack. Nor anonymous code that comes before any file's: CRIU puts its own
  // instructions over the first executable mapping's for a moment (compel/src/lib/infect.c 4.2,
  // get_exec_start), and pages may be read at that moment. One range a mapping, in the order of their
  // addresses; neighbours are not joined.
  std::vector<Range> private_anonymous;
  std::vector<SharedMapping> shared_anonymous;
  Range vdso;             // empty: there is none
  bool aio_ring = false;  // io_setup(2) was called
};

// Of the text of maps, and of its lines in smaps. An ordinary line has 100 bytes, and vm.max_map_count is
// 65530 unless somebody raised it; but names of files may be as long as whoever maps them likes.
inline constexpr size_t kMostMapsText = size_t{64} << 20;

// The text of maps or of smaps. maps does not tell what is locked, droppable, device memory or a shadow
// stack: these are then among private_anonymous. DataLoss when it is neither. Ranges
// ascend and do not overlap, whatever the text says: of a running process it is of more than one moment.
absl::StatusOr<AddressSpace> ParseMaps(absl::string_view text);

// Of a line of maps or smaps: whether it tells more of the mapping before it, as smaps' "Rss:  4 kB" does.
bool IsDetail(absl::string_view row);
// Of any other line. DataLoss when it is none.
absl::StatusOr<Range> RangeOfMapping(absl::string_view row);

// maps costs microseconds; smaps walks all the page tables of the task.
enum class MapsFile { kMaps, kSmaps };

// NotFound when the process is gone; one that is ending has no mappings. ResourceExhausted: there is more
// text than kMostMapsText. Little memory is taken, however much there is.
absl::StatusOr<AddressSpace> ReadAddressSpace(const std::string& proc, pid_t pid, MapsFile file);

}  // namespace godwit::memory
