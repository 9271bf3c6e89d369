// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/take.h"

#include <fcntl.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "agent/checkpoint/archive.h"
#include "agent/checkpoint/file_copy.h"
#include "agent/checkpoint/memory_copy.h"
#include "agent/checkpoint/settling.h"
#include "agent/checkpoint/sources.h"
#include "agent/criu/images.h"
#include "agent/criu/pagemap.h"
#include "agent/memory/pagers.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/nice.h"
#include "base/status.h"

namespace godwit::checkpoint {
namespace {

using agent_api::CheckpointSpec;
using agent_api::CheckpointState;
using agent_api::CheckpointStatus;
using agent_api::FreezeStep;
using agent_api::GuardReply;

constexpr absl::Duration kFillingLimit = absl::Seconds(60);

// A failure with its CamelCase reason.
struct Failure {
  std::string reason;
  std::string message;
};

Failure Because(absl::string_view reason, const absl::Status& status) {
  if (absl::IsCancelled(status)) {
    return {"Stopped",
            "the checkpoint was ended before it was complete: it was deleted, or the node's agent ended; the "
            "pod goes on"};
  }
  // What is written here is written to the disk.
  if (absl::IsResourceExhausted(status)) reason = "NoSpace";
  return {std::string(reason), std::string(status.message())};
}

// What a freeze was spent on. Thread-safe.
class Steps {
 public:
  // The freeze began so long ago.
  void Begin(absl::Duration ago) ABSL_LOCKS_EXCLUDED(mutex_) {
    begin_ = SteadyNow() - ago;
    absl::MutexLock lock(&mutex_);
    steps_.push_back({.name = "freeze", .offset = absl::ZeroDuration(), .duration = ago});
  }
  void Add(const std::string& name, const std::string& container, absl::Time begin)
      ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    steps_.push_back(
        {.name = name, .container = container, .offset = begin - begin_, .duration = SteadyNow() - begin});
  }
  std::vector<FreezeStep> Take() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    std::stable_sort(steps_.begin(), steps_.end(),
                     [](const FreezeStep& a, const FreezeStep& b) { return a.offset < b.offset; });
    return std::move(steps_);
  }

 private:
  absl::Time begin_;  // written before other threads are started
  absl::Mutex mutex_;
  std::vector<FreezeStep> steps_ ABSL_GUARDED_BY(mutex_);
};

class Taker {
 public:
  Taker(const CheckpointSpec& spec, const Node& node, const StartGuard& start_guard,
        const std::string& folder, const std::atomic<bool>& stop)
      : spec_(spec),
        node_(node),
        start_guard_(start_guard),
        folder_(folder),
        work_(absl::StrCat(folder, "/work")),
        guards_(GuardFolder(node, spec.checkpoint.uid)),
        stop_(stop) {}

  CheckpointStatus Run() {
    const absl::Cleanup clean = [this] {
      RemoveTree(work_).IgnoreError();
      RemoveTree(guards_).IgnoreError();
    };
    status_.criu_version = node_.criu_version;
    std::optional<Failure> failure = Prepare();
    if (!failure) failure = CopyFiles();
    if (!failure) failure = CopyMemory();
    if (!failure) failure = Frozen();
    if (!failure) failure = Archives();
    status_.steps = steps_.Take();
    status_.state = failure ? CheckpointState::kFailed : CheckpointState::kReady;
    if (failure) {
      status_.reason = failure->reason;
      status_.message = failure->message;
      for (const agent_api::Archive& archive : std::exchange(status_.archives, {}))
        RemoveTree(archive.path).IgnoreError();
    }
    return status_;
  }

 private:
  std::optional<Failure> Prepare() {
    auto sources = FindSources(spec_, node_.host, work_);
    if (!sources.ok()) return Because("ContainerNotFound", sources.status());
    sources_ = *std::move(sources);
    if (node_.check_addresses && !sources_.empty()) {
      const absl::Status own = node_.check_addresses(sources_.front().container, spec_.pod_addresses);
      if (!own.ok())
        return Because(absl::IsInvalidArgument(own) ? "AddressNotOwn" : "RuntimeUnavailable", own);
    }
    trees_ = FindTrees(spec_, sources_);
    absl::Status made = MakeFolders(guards_, 0700);
    if (!made.ok()) return Because("StorageFailed", made);
    std::vector<std::string> ids;
    for (const Source& source : sources_) ids.push_back(source.container.id);
    absl::Status filled = memory::AwaitFilled(node_.host.At(agent_api::kPagersFolder), ids, kFillingLimit);
    if (!filled.ok()) return Because("MemoryNotFilled", filled);
    return std::nullopt;
  }

  // All of them, while the pod runs.
  std::optional<Failure> CopyFiles() {
    migration::PodOnNode pod;
    for (const Source& source : sources_) pod.parts.push_back({source.container, source.layer});
    std::vector<FileCopy::Tree> trees;
    for (const SourceTree& one : trees_) trees.push_back(one.tree);
    files_.emplace(node_.host, std::move(pod), trees, stop_);
    return CopyFilesAgain();
  }
  // What has changed since.
  std::optional<Failure> CopyFilesAgain() {
    absl::Status copied = files_->CopyRound();
    if (!copied.ok()) return Because("FilesNotReadable", copied);
    return std::nullopt;
  }

  // While the pod runs. Leaves copy_ empty where CRIU is to dump the memory.
  std::optional<Failure> CopyMemory() {
    std::vector<MemoryCopy::Container> containers;
    for (const Source& source : sources_)
      containers.push_back({source.description.container, node_.host.At(source.container.cgroup)});
    copy_.emplace(std::move(containers), node_.memory, work_, node_.disk_reserve, stop_);
    absl::Status possible = copy_->Attach();
    if (possible.ok()) possible = CopyRounds();
    if (possible.ok()) possible = copy_->CheckPinned();  // sooner than in the freeze
    if (possible.ok()) return std::nullopt;
    if (!absl::IsFailedPrecondition(possible) && !absl::IsDeadlineExceeded(possible))
      return Because("CopyFailed", possible);
    LOG(WARNING)
        << Log("memory is dumped in the freeze").With("checkpoint", spec_.checkpoint.uid).With(possible);
    status_.fallback = std::string(possible.message());
    copy_.reset();
    return std::nullopt;
  }

  // One round at least.
  absl::Status CopyRounds() {
    const absl::Time begin = SteadyNow();
    do {
      GODWIT_ASSIGN_OR_RETURN(const int64_t dirty, copy_->CopyRound());
      settling_.Add(dirty);
    } while (!settling_.Settled(SteadyNow() - begin));
    return absl::OkStatus();
  }

  agent_api::GuardSpec GuardSpecFor() const {
    agent_api::GuardSpec guard{.migration_uid = spec_.checkpoint.uid,
                               .socket = absl::StrCat(guards_, "/guard.sock"),
                               .journal = absl::StrCat(work_, "/journal"),
                               .log = absl::StrCat(guards_, "/guard.log"),
                               .runtime = node_.runtime,
                               .criu_folder = node_.criu_folder,
                               .freeze_limit = spec_.freeze_limit,
                               .addresses = spec_.pod_addresses};
    for (const Source& source : sources_) {
      guard.containers.push_back({.name = source.description.container,
                                  .id = source.container.id,
                                  .cgroup = source.container.cgroup,
                                  .runc_root = source.container.runtime_root,
                                  .init_pid = source.container.init_pid,
                                  .root_device = source.container.root_device,
                                  .place = source.container.place,
                                  .images = source.parts.images,
                                  .work = absl::StrCat(source.folder, "/work"),
                                  .hidden = copy_ ? HiddenFile(source) : "",
                                  .smaps = node_.write_smaps ? SmapsFolder(source) : ""});
    }
    return guard;
  }

  std::string SmapsFolder(const Source& source) const {
    return absl::StrCat(guards_, "/smaps-", source.description.container);
  }
  std::string HiddenFile(const Source& source) const {
    return absl::StrCat(guards_, "/hidden-", source.description.container);
  }

  static std::optional<Failure> Refused(const absl::StatusOr<GuardReply>& reply) {
    if (!reply.ok()) return Because("GuardLost", reply.status());
    if (!reply->ok) return Failure{reply->reason, reply->message};
    return std::nullopt;
  }

  // From the last round to the thaw.
  std::optional<Failure> Frozen() {
    auto guard = start_guard_(GuardSpecFor());
    if (!guard.ok()) return Because("GuardFailed", guard.status());
    // Before the files that it uses go.
    absl::Cleanup dismiss = [&guard] { (*guard)->Thaw("no checkpoint is taken").IgnoreError(); };
    if (auto failure = Refused((*guard)->Arm())) return failure;
    if (auto failure = CopyFilesAgain()) return failure;
    if (copy_) {  // what was written since, also while runc and CRIU came to their gates
      if (const absl::Status copied = CopyRounds(); !copied.ok()) return Because("CopyFailed", copied);
      copy_->ReserveMemory(node_.memory_for_pages());
    }
    if (stop_) return Because("", absl::CancelledError());
    const absl::StatusOr<GuardReply> frozen = (*guard)->Freeze();
    if (auto failure = Refused(frozen)) return failure;
    status_.frozen_at = frozen->frozen_at;
    steps_.Begin(frozen->frozen_for);

    absl::Status packed;
    std::thread packer([this, &packed] {
      const absl::Time begin = SteadyNow();
      packed = files_->CopyLast();
      steps_.Add("files", "", begin);
    });
    std::optional<Failure> failure;
    for (size_t i = 0; i < sources_.size() && !failure; ++i) failure = Dump(**guard, i);
    packer.join();
    std::move(dismiss).Cancel();
    const absl::StatusOr<GuardReply> thawed = (*guard)->Thaw("the checkpoint's memory and files are read");
    if (copy_) copy_->Detach();
    if (thawed.ok()) status_.freeze = thawed->frozen_for;
    if (failure) return failure;
    if (!packed.ok()) return Because("FilesNotReadable", packed);
    if (auto lost = Refused(thawed)) return lost;
    // It had thawed before, and what was read since is of more than one moment.
    if (thawed->reason != kThawed) return Failure{thawed->reason, thawed->message};
    return std::nullopt;
  }

  // While CRIU dumps, this thread copies the pages that it is to leave out.
  std::optional<Failure> Dump(migration::Guard& guard, size_t index) {
    const Source& source = sources_[index];
    const std::string& name = source.description.container;
    if (copy_) {
      if (absl::Status hidden = HideOwned(index); !hidden.ok()) return Because("CopyFailed", hidden);
    }
    if (node_.write_smaps) {
      const absl::Time begin = SteadyNow();
      absl::Status written = node_.write_smaps(node_.host.At(source.container.cgroup), SmapsFolder(source));
      if (!written.ok()) return Because("StorageFailed", written);
      steps_.Add("mappings", name, begin);
    }
    std::optional<Failure> failure;
    std::thread dumping([&] {
      const absl::Time begin = SteadyNow();
      failure = Refused(guard.Dump(name, spec_.freeze_limit + absl::Seconds(10)));
      steps_.Add("dump", name, begin);
    });
    absl::Status copied;
    if (copy_) {
      const absl::Time begin = SteadyNow();
      copied = copy_->CopyLast(index);
      // Opened since the last look, it may have been written to meanwhile.
      if (copied.ok()) copied = copy_->CheckPinned();
      steps_.Add("pages", name, begin);
    }
    dumping.join();
    if (failure) return failure;
    if (!copied.ok()) return Because("CopyFailed", copied);
    return std::nullopt;
  }

  // Which pages CRIU is to leave out must be known before its gate is opened.
  absl::Status HideOwned(size_t index) {
    const absl::Time begin = SteadyNow();
    GODWIT_ASSIGN_OR_RETURN(const std::string hidden, copy_->LookOwned(index));
    const std::string path = HiddenFile(sources_[index]);
    GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
    GODWIT_RETURN_IF_ERROR(WriteAll(file.get(), hidden, path));
    steps_.Add("hide", sources_[index].description.container, begin);
    return absl::OkStatus();
  }

  // The copied pages go into CRIU's images on their way into the archive.
  absl::Status Complete(size_t index) {
    Parts& parts = sources_[index].parts;
    GODWIT_ASSIGN_OR_RETURN(auto lacking, copy_->Lacking(index));
    for (const auto& [task, pages] : lacking) {
      GODWIT_ASSIGN_OR_RETURN(criu::CompletePages plan, criu::CompletePages::Plan(parts.images, task, pages));
      const auto complete = std::make_shared<const criu::CompletePages>(std::move(plan));
      status_.memory_bytes += static_cast<int64_t>(memory::Bytes(pages));
      const std::string pagemap = complete->pagemap();
      parts.made[absl::StrCat("checkpoint/", complete->pagemap_name())] = {
          .bytes = static_cast<int64_t>(pagemap.size()),
          .write = [pagemap](const TarWriter::Sink& sink) { return sink(pagemap); }};
      parts.made[absl::StrCat("checkpoint/", complete->pages_name())] = {
          .bytes = complete->pages_bytes(),
          .write = [this, index, task, complete](const TarWriter::Sink& sink) {
            return complete->WritePages(
                [this, index, task](uint64_t address, char* to, size_t size) {
                  return copy_->Take(index, task, address, to, size);
                },
                sink);
          }};
    }
    return absl::OkStatus();
  }

  // The rounds of each of its trees go in as one tar.
  absl::Status AddFiles(size_t index) {
    for (size_t i = 0; i < trees_.size(); ++i) {
      if (trees_[i].source != index) continue;
      Parts& parts = sources_[index].parts;
      GODWIT_ASSIGN_OR_RETURN(parts.made[trees_[i].entry], files_->Whole(i));
      if (!trees_[i].volume.empty()) parts.volumes[trees_[i].volume] = "";
    }
    return absl::OkStatus();
  }

  std::optional<Failure> Archives() {
    const ScopedNice gives_way;  // to the pod, which goes on
    for (size_t i = 0; i < sources_.size(); ++i) {
      if (stop_) return Because("", absl::CancelledError());
      Source& source = sources_[i];
      absl::Status sound = criu::CheckImages(source.parts.images);
      auto sizes = criu::MeasureImages(source.parts.images);
      if (sizes.ok()) status_.memory_bytes += sizes->pages;
      if (sound.ok() && copy_) sound = Complete(i);
      if (!sound.ok()) return Because("DumpFailed", sound);
      if (absl::Status files = AddFiles(i); !files.ok()) return Because("StorageFailed", files);
      if (!FileExists(source.parts.dump_log)) source.parts.dump_log.clear();
      source.description.checkpointed_at = status_.frozen_at;
      auto archive = WriteArchive(source.description, source.parts,
                                  absl::StrCat(folder_, "/", ArchiveFileName(source.description)));
      if (!archive.ok()) return Because("StorageFailed", archive.status());
      status_.archives.push_back(*std::move(archive));
    }
    absl::Status synced = SyncFolder(folder_);
    if (!synced.ok()) return Because("StorageFailed", synced);
    return std::nullopt;
  }

  // The guard's word for a thaw that was asked for.
  static constexpr char kThawed[] = "Thawed";

  const CheckpointSpec& spec_;
  const Node& node_;
  const StartGuard& start_guard_;
  const std::string folder_;
  const std::string work_;
  const std::string guards_;
  const std::atomic<bool>& stop_;
  std::vector<Source> sources_;
  std::vector<SourceTree> trees_;
  std::optional<FileCopy> files_;
  std::optional<MemoryCopy> copy_;
  Settling settling_;
  Steps steps_;
  CheckpointStatus status_;
};

}  // namespace

std::string GuardFolder(const Node& node, const std::string& uid) {
  return absl::StrCat(node.guards_folder, "/", uid);
}

CheckpointStatus Take(const CheckpointSpec& spec, const Node& node, const StartGuard& start_guard,
                      const std::string& folder, const std::atomic<bool>& stop) {
  return Taker(spec, node, start_guard, folder, stop).Run();
}

}  // namespace godwit::checkpoint
