// SPDX-License-Identifier: Apache-2.0
// A pod's files on their way, in rounds: each container's writable layer and the emptyDirs, first whole while
// the pod runs, then what has changed, then, with it frozen, what changed last. A stop-and-copy has the last
// round only.
//
//   FileRounds files(pod, node.pack, node.mapped_files);
//   GODWIT_RETURN_IF_ERROR(files.Begin(/*last=*/false));
//   for (size_t i = 0; i < pod.parts.size(); ++i) files.Send(i, senders[i]);   // as often as it pays
//   ...                                                                        // all processes are frozen
//   GODWIT_RETURN_IF_ERROR(files.Begin(/*last=*/true));
//   for (...) { files.Send(i, senders[i]); senders[i].End(); }
//
// A FileSender lives as long as its container is on the way: CONTAINER_END counts the files of all rounds.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/files/changes.h"
#include "agent/files/layer.h"
#include "agent/migration/pod_on_node.h"
#include "agent/transfer/file_sender.h"
#include "agent/transfer/messages.h"

namespace godwit::migration {

// Not thread-safe.
class FileRounds {
 public:
  // PackHostFolder and FindMappedFiles of a node.
  using Pack = std::function<absl::StatusOr<files::PackTotals>(const std::string& path, files::Layout,
                                                               const files::Pass&, int round,
                                                               files::Snapshot&, const files::Sink&)>;
  using FindMapped = std::function<absl::StatusOr<files::MappedFiles>(const PodOnNode&)>;

  FileRounds(PodOnNode pod, Pack pack, FindMapped mapped);

  // Begins a round. `last`: everything that may write to the files is frozen; nothing follows.
  absl::Status Begin(bool last);

  struct Sent {
    int64_t entries = 0;  // files that were new or changed
    int64_t bytes = 0;    // of tar
    absl::Duration took;
  };
  // Sends the round of what the container needs: its writable layer and, with the first, the pod's emptyDirs.
  // Once a round and container. After an error nothing more can be sent.
  absl::StatusOr<Sent> Send(size_t container, transfer::FileSender& sender);

  // Rounds that were begun.
  int rounds() const { return round_ + 1; }

 private:
  struct Tree {
    size_t container;
    transfer::FileKind kind;
    std::string volume;  // its name; empty for a writable layer
    std::string path;
    files::Layout layout;
    files::Snapshot snapshot;
  };
  absl::Status SendTree(Tree& tree, transfer::FileSender& sender, Sent& sent);

  const PodOnNode pod_;
  const Pack pack_;
  const FindMapped mapped_;
  std::vector<Tree> trees_;
  int round_ = -1;
  files::Pass pass_;
};

}  // namespace godwit::migration
