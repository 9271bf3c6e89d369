// SPDX-License-Identifier: Apache-2.0
// Writes the files that a peer sends into a folder of ours. All that the peer says is hostile: names are
// bounded and of few characters, nothing outside the folder can be reached, sizes and numbers are limited,
// every byte is checksummed.
//
//   <folder>/containers/<container>/images/<name>     kImage
//   <folder>/containers/<container>/rootfs-<n>.tar    kRootfs, round n
//   <folder>/volumes/<name>-<n>.tar                   kVolume, round n
//   <folder>/<container>.tar                          kArchive
//
// Images that their sender says need no disk are in a folder of their own,
// <memory_folder>/containers/<container>/images.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/transfer/checksum.h"
#include "agent/transfer/frame.h"
#include "agent/transfer/messages.h"
#include "base/file.h"

namespace godwit::transfer {

struct ReceiveRules {
  std::string folder;                   // exists, ours alone
  std::string memory_folder;            // exists, ours alone, bounded; empty: all images go to `folder`
  std::vector<std::string> containers;  // whose files may come
  std::set<FileKind> kinds;             // what may come
  int64_t max_bytes = 0;                // of all files together
  int max_files = 10'000;
};

struct ReceivedTotals {
  int64_t page_bytes = 0;   // images named pages-*.img
  int64_t image_bytes = 0;  // other images
  int64_t file_bytes = 0;   // writable layers, volumes, archives
};

// Not thread-safe.
class FileReceiver {
 public:
  explicit FileReceiver(ReceiveRules rules) : rules_(std::move(rules)) {}

  // Takes a FILE_BEGIN, FILE_DATA, FILE_END or CONTAINER_END frame. InvalidArgument: the peer broke a rule;
  // DataLoss: a checksum or a size is wrong; ResourceExhausted: more than was allowed, or the disk is full.
  // After an error the receiver is useless.
  absl::Status Take(const Frame& frame);

  // Begins anew: removes all that came. For a stream that was cut, and goes on over another connection.
  void Clear();

  // Containers whose CONTAINER_END came and was right.
  const std::set<std::string>& complete() const { return complete_; }
  // Tars that are complete, by path below the folder, round after round from 0 on.
  std::vector<std::string> rootfs(const std::string& container) const;
  const std::map<std::string, std::vector<std::string>>& volumes() const { return volumes_; }
  // Files that are complete, by path below the folder.
  bool HasFile(const std::string& path) const { return finished_.contains(path); }
  // Where the images are that have come of a container, or will.
  std::string ImagesFolder(const std::string& container) const;
  const ReceivedTotals& totals() const { return totals_; }

 private:
  struct Incoming {
    UniqueFd fd;
    FileBegin begin;
    std::string path;  // below the folder
    int64_t size = 0;
    Checksum checksum;
  };
  struct Count {
    int64_t files = 0;
    int64_t bytes = 0;
    int open = 0;
    std::optional<bool> images_in_memory;  // as the first of them says
  };

  absl::Status Begin(const FileBegin& begin);
  absl::Status Data(const FileData& data);
  absl::Status End(const FileEnd& end);
  absl::Status EndContainer(const ContainerEnd& end);
  absl::StatusOr<std::string> PathFor(const FileBegin& begin) const;
  absl::StatusOr<std::string> RoundPath(const FileBegin& begin) const;
  const std::string& RootOf(const FileBegin& begin) const;
  absl::StatusOr<UniqueFd> Create(const std::string& root, const std::string& path) const;

  ReceiveRules rules_;
  absl::flat_hash_map<uint32_t, Incoming> open_;
  std::map<std::string, Count> counts_;  // by container
  std::set<std::string> begun_;          // paths
  std::set<std::string> finished_;       // paths
  std::set<uint32_t> used_ids_;
  std::set<std::string> complete_;
  std::map<std::string, std::vector<std::string>> rootfs_;   // by container
  std::map<std::string, std::vector<std::string>> volumes_;  // by volume
  int64_t bytes_ = 0;
  ReceivedTotals totals_;
};

}  // namespace godwit::transfer
