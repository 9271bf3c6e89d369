// SPDX-License-Identifier: Apache-2.0
// A folder of CRIU images, as far as Godwit looks into it. It may come from another node or from an archive:
// nothing in it is believed before it is checked. Format (CRIU 4.2, criu/include/magic.h, images/*.proto):
// u32 0x54564319, u32 magic of the kind (inventory: the second alone; stats: 0x55105940 first), then records
// of u32 length and a protobuf message.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace godwit::criu {

inline constexpr uint32_t kInventoryMagic = 0x58313116;
inline constexpr uint32_t kPstreeMagic = 0x50273030;
inline constexpr uint32_t kStatsMagic = 0x57093306;

// First in every image but the inventory and the stats.
inline constexpr uint32_t kCommonMagic = 0x54564319;

// The records in the bytes of an image, as views into them; `name` is for errors. InvalidArgument when the
// bytes are something else.
absl::StatusOr<std::vector<absl::string_view>> SplitImage(absl::string_view bytes, uint32_t magic,
                                                          const std::string& name);

// Copies of them; at most 65536.
absl::StatusOr<std::vector<std::string>> ParseImage(absl::string_view bytes, uint32_t magic,
                                                    const std::string& name);

// The same of a file of at most 16 MiB.
absl::StatusOr<std::vector<std::string>> ReadImage(const std::string& path, uint32_t magic);

// What CRIU measured of a dump (stats-dump).
struct DumpStats {
  absl::Duration freezing;  // until all tasks stood still for CRIU
  absl::Duration frozen;    // while CRIU held them
  absl::Duration memory_dump;
  absl::Duration memory_write;
  int64_t pages_written = 0;  // private and shared memory
};
absl::StatusOr<DumpStats> ReadDumpStats(const std::string& folder);

// One task of the dumped tree.
struct DumpedTask {
  int32_t pid = 0;     // in the container's pid namespace
  int32_t parent = 0;  // 0: the root of the tree
  int32_t threads = 0;
};
absl::StatusOr<std::vector<DumpedTask>> ReadProcessTree(const std::string& folder);

// Is this folder what a finished dump leaves, and fit to be handed to runc and CRIU? Only regular files with
// plain names; inventory, process tree, and for each task its core image; descriptors.json as runc writes it:
// three strings (a longer list would make runc hand CRIU descriptors of its own). FailedPrecondition names
// what is wrong.
absl::Status CheckImages(const std::string& folder);

// Bytes of the page images (pages-*.img) and of everything in the folder.
struct ImageSizes {
  int64_t pages = 0;
  int64_t total = 0;
};
absl::StatusOr<ImageSizes> MeasureImages(const std::string& folder);

}  // namespace godwit::criu
