// SPDX-License-Identifier: Apache-2.0
// CRIU's images of a task's private memory: pagemap-PID.img says which pages there are, pages-N.img holds
// them in that order (CRIU 4.2, images/pagemap.proto, criu/pagemap.c). A dump made with the page-hiding
// preload has only the pages that the page engine does not carry; here the others come in.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/memory/range.h"

namespace godwit::criu {

// What the images say.
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

// Reads `size` bytes of whole pages at `address`. Called in the order of addresses, once a page.
using ReadPages = std::function<absl::Status(uint64_t address, char* to, size_t size)>;

// What is known of a task's pages beside the images.
struct Content {
  memory::Ranges there;
  ReadPages read;  // of `there`
};

// Rewrites pagemap-<task>.img in `folder` so that a restore with --lazy-pages leaves `pages` to the
// lazy-pages daemon and takes all else from the images. Returns those of `pages` that the daemon is to fill:
// all but those of droppable mappings (below), and of those that are wiped in children as far as `content`
// has them, which come into the images themselves. InvalidArgument: the images are not sound, hold one of
// `pages` themselves, or one of `pages` is in no mapping that CRIU gives to the daemon (it would read as
// zeros). FailedPrecondition: a file of the task's is missing.
absl::StatusOr<memory::Ranges> AddLazyPages(const std::string& folder, pid_t task,
                                            const memory::Ranges& pages, const Content& content = {});

// The same images with the content of these pages among CRIU's own: what CRIU alone can restore. Made while
// they are written to an archive; the folder stays as it is.
class CompletePages {
 public:
  // Takes the next piece, at most 1 MiB.
  using Sink = std::function<absl::Status(absl::string_view)>;

  // Errors as of AddLazyPages.
  static absl::StatusOr<CompletePages> Plan(const std::string& folder, pid_t task,
                                            const memory::Ranges& pages);

  // The two files and what they are to hold.
  const std::string& pagemap_name() const { return pagemap_name_; }
  std::string pagemap() const;
  const std::string& pages_name() const { return pages_name_; }
  int64_t pages_bytes() const { return pages_bytes_; }
  absl::Status WritePages(const ReadPages& read, const Sink& sink) const;  // of `pages`

 private:
  CompletePages() = default;

  std::string folder_, pagemap_name_, pages_name_;
  uint32_t pages_id_ = 0;
  std::vector<PagemapEntry> own_;  // CRIU's
  std::vector<PagemapEntry> all_;
  int64_t pages_bytes_ = 0;
};

// InvalidArgument: not a pagemap image, or entries that are not whole pages in order.
absl::StatusOr<Pagemap> ParsePagemap(absl::string_view bytes, const std::string& name);
std::string RenderPagemap(const Pagemap& pagemap);

struct Mappings {
  // Whose pages a lazy-pages daemon may fill: the private anonymous ones that are neither locked nor of huge
  // pages (vma_entry_can_be_lazy).
  memory::Ranges lazy;
  // Whose content the kernel may drop at any time (MAP_DROPPABLE, Linux 6.11), such as glibc's random
  // numbers. CRIU keeps none of it; up to Linux 6.16 the tracker takes them for private ones.
  memory::Ranges droppable;
  // Which children find empty (MADV_WIPEONFORK). The kernel gives a child the userfaultfd of such a mapping
  // and none of its pages: a lazy-pages daemon would put the parent's there.
  memory::Ranges wiped;
};

// Of an mm-PID.img. InvalidArgument: it is not one, or its mappings are not in order.
absl::StatusOr<Mappings> ParseMappings(absl::string_view bytes, const std::string& name);

}  // namespace godwit::criu
