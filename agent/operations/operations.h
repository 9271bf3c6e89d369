// SPDX-License-Identifier: Apache-2.0
// The migrations and restores that this node has a part in, by UID: what the API asks for, done by Source and
// Target.
//
//   <folder>/migrations/<uid>/source, <folder>/migrations/<uid>/target, <folder>/restores/<uid>
//
// Thread-safe. A side, once begun, works in a thread of its own; everything here only looks at it or leaves
// word.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "agent/memory/page_server.h"
#include "agent/migration/source.h"
#include "agent/migration/target.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/stream.h"

namespace godwit::operations {

// Gets the archive `archive` of a restore to the new file `path`.
using Fetch =
    std::function<absl::Status(const agent_api::RestoreSpec& spec, const agent_api::Archive& archive,
                               const std::string& path, absl::Time deadline)>;

// Where an archive of a checkpoint of this node lies, by its file name; both may be somebody's word.
using FindArchive = std::function<absl::StatusOr<std::string>(const std::string& checkpoint_uid,
                                                              const std::string& file_name)>;

struct Options {
  std::string folder;
  std::string node;  // this one's name
  migration::SourceNode source;
  migration::TargetNode target;
  Fetch fetch;
  FindArchive find_archive;
  std::function<int64_t()> memory_available;  // bytes
};

class Operations {
 public:
  // Takes up what an earlier agent left.
  static absl::StatusOr<std::unique_ptr<Operations>> Open(Options options);

  // PUT begins or says how far it is; AlreadyExists for another spec of the same UID. ResourceExhausted when
  // there is no room for what is announced. GET: NotFound when there is none. Forget: OK when there is none,
  // FailedPrecondition while it works.
  absl::StatusOr<agent_api::TargetStatus> PutTarget(const agent_api::TargetSpec& spec);
  absl::StatusOr<agent_api::TargetStatus> GetTarget(const std::string& uid) const;
  absl::Status AbortTarget(const std::string& uid, const agent_api::AbortRequest& why);
  absl::Status TakeOver(const std::string& uid);
  absl::Status ForgetTarget(const std::string& uid);

  absl::StatusOr<agent_api::SourceStatus> PutSource(const agent_api::SourceSpec& spec);
  absl::StatusOr<agent_api::SourceStatus> GetSource(const std::string& uid) const;
  // Of a source that copies in rounds; each may be repeated. FailedPrecondition for another, or one that has
  // gone on.
  absl::Status SwitchSource(const std::string& uid);
  absl::Status SetSourceLimits(const std::string& uid, const agent_api::PreCopyLimits& limits);
  absl::Status AbortSource(const std::string& uid, const agent_api::AbortRequest& why);
  absl::Status ReclaimSource(const std::string& uid, const agent_api::AbortRequest& why);
  absl::Status FinishSource(const std::string& uid, const agent_api::FinishRequest& request = {});
  absl::Status ForgetSource(const std::string& uid);

  absl::StatusOr<agent_api::TargetStatus> PutRestore(const agent_api::RestoreSpec& spec);
  absl::StatusOr<agent_api::TargetStatus> GetRestore(const std::string& uid) const;
  absl::Status AbortRestore(const std::string& uid, const agent_api::AbortRequest& why);
  absl::Status ForgetRestore(const std::string& uid);

  // The memory that a container of a pod with a permit of this node is to be filled from; NotFound when there
  // is none for exactly that pod.
  absl::StatusOr<memory::PageServer::Found> FindPages(const std::string& sandbox_uid,
                                                      const std::string& container) const;

  // What an earlier agent left and could not be taken up (a disk that was not readable, perhaps): tries once
  // more. One thread at a time.
  void TakeUpAgain();

  // Target::LoseMemory of that migration, if there is one here.
  void LoseMemory(const std::string& migration_uid, const std::string& container,
                  const std::string& why) const;

  // Serves a source's stream whose HELLO has been read; returns at its end.
  void ServeMigration(const std::shared_ptr<transfer::Stream>& stream, const transfer::Hello& hello);

  // Whether there is a side of that UID, in work or ended.
  bool Knows(const std::string& uid) const;

  struct Working {
    int sources = 0;
    int targets = 0;
    int restores = 0;
    int frozen = 0;                   // sources whose pod stands still
    int64_t dirty_rate = 0;           // of all that are pre-copied now, bytes a second
    absl::Duration predicted_freeze;  // the longest of them
    int64_t missing_bytes = 0;        // of pods that run here and pull them still
    absl::Duration slow_fault;        // on them: 99 % of each pod's were served within
  };
  Working Count() const;
  // Bytes on the disk under our folders.
  int64_t ImagesBytes() const;

 private:
  // One kind of side. A UID stays taken from the moment in which it is begun.
  template <class Side>
  struct Sides {
    mutable absl::Mutex mutex;
    std::map<std::string, std::shared_ptr<Side>> by_uid ABSL_GUARDED_BY(mutex);
    // What an earlier agent left and this one could not take up, and why: their folders are touched no more.
    std::map<std::string, absl::Status> left ABSL_GUARDED_BY(mutex);
  };

  explicit Operations(Options options) : options_(std::move(options)) {}
  absl::Status Recover();
  void TakeUpSource(const std::string& uid);
  void TakeUpTarget(const std::string& uid);
  void TakeUpRestore(const std::string& uid);
  std::string MigrationFolder(const std::string& uid, const char* side) const;
  std::string RestoreFolder(const std::string& uid) const;
  migration::BringState BringFrom(const agent_api::RestoreSpec& spec) const;

  const Options options_;
  Sides<migration::Source> sources_;
  Sides<migration::Target> targets_;
  Sides<migration::Target> restores_;
};

}  // namespace godwit::operations
