// SPDX-License-Identifier: Apache-2.0
// CRIU's images of a task's private memory: pagemap-PID.img says which pages there are, pages-N.img holds
// them in that order (CRIU 4.2, images/pagemap.proto, criu/pagemap.c). A dump made with the page-hiding
// preload has only the pages that the page engine does not carry; here the others come in.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/memory/range.h"

namespace godwit::criu {

// Rewrites pagemap-<task>.img in `folder` so that a restore with --lazy-pages leaves `pages` to the
// lazy-pages daemon and takes all else from the images. InvalidArgument: the images are not sound, hold one
// of `pages` themselves, or one of `pages` is in no mapping that CRIU gives to the daemon (it would read as
// zeros). FailedPrecondition: a file of the task's is missing.
absl::Status AddLazyPages(const std::string& folder, pid_t task, const memory::Ranges& pages);

// The same with their content, read from `store` at the offset of their addresses: images that CRIU alone can
// restore. ResourceExhausted: the disk is full.
absl::Status AddPages(const std::string& folder, pid_t task, const memory::Ranges& pages, int store);

// What the images say, for the two above and for tests.
inline constexpr uint32_t kPagemapMagic = 0x56084025;
inline constexpr uint32_t kMmMagic = 0x57492820;

// Flags of an entry (criu/include/pagemap.h). Present alone moves on in pages-N.img: a lazy entry without it
// takes no room there.
inline constexpr uint32_t kInParent = 1, kLazy = 2, kPresent = 4;

struct PagemapEntry {
  memory::Range range;
  uint32_t flags = 0;
  bool operator==(const PagemapEntry&) const = default;
};

struct Pagemap {
  uint32_t pages_id = 0;              // N of pages-N.img
  std::vector<PagemapEntry> entries;  // by address, none overlaps another
};

// InvalidArgument: not a pagemap image, or entries that are not whole pages in order.
absl::StatusOr<Pagemap> ParsePagemap(absl::string_view bytes, const std::string& name);
std::string RenderPagemap(const Pagemap& pagemap);

// The mappings in an mm-PID.img whose pages a lazy-pages daemon may fill: the private anonymous ones that are
// neither locked nor of huge pages (vma_entry_can_be_lazy).
absl::StatusOr<memory::Ranges> ParseLazyMappings(absl::string_view bytes, const std::string& name);

}  // namespace godwit::criu
