// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/take.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <optional>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "agent/checkpoint/archive.h"
#include "agent/criu/images.h"
#include "agent/files/layer.h"
#include "agent/memory/pagers.h"
#include "agent/runtime/mounts.h"
#include "agent/runtime/volumes.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::checkpoint {
namespace {

using agent_api::CheckpointSpec;
using agent_api::CheckpointState;
using agent_api::CheckpointStatus;
using agent_api::GuardReply;

constexpr absl::Duration kFillingLimit = absl::Seconds(60);

// A failure with its CamelCase reason.
struct Failure {
  std::string reason;
  std::string message;
};

struct Source {
  runtime::Container container;
  std::string layer;  // the writable layer as seen from here; empty when the root is read-only
  Parts parts;
  Description description;
};

class Taker {
 public:
  Taker(const CheckpointSpec& spec, const Node& node, const StartGuard& start_guard,
        const std::string& folder)
      : spec_(spec),
        node_(node),
        start_guard_(start_guard),
        folder_(folder),
        work_(absl::StrCat(folder, "/work")) {}

  CheckpointStatus Run() {
    auto clean = absl::MakeCleanup([this] { RemoveTree(work_).IgnoreError(); });
    status_.criu_version = node_.criu_version;
    std::optional<Failure> failure = Find();
    if (!failure) failure = Frozen();
    if (!failure) failure = Archives();
    status_.state = failure ? CheckpointState::kFailed : CheckpointState::kReady;
    if (failure) {
      status_.reason = failure->reason;
      status_.message = failure->message;
      status_.archives.clear();
    }
    return status_;
  }

 private:
  static Failure Because(absl::string_view reason, const absl::Status& status) {
    return {std::string(reason), std::string(status.message())};
  }

  // Finds the containers and makes their work folders.
  std::optional<Failure> Find() {
    for (const agent_api::ContainerRef& ref : spec_.containers) {
      auto container = runtime::FindContainer(node_.host, ref.id);
      if (!container.ok()) return Because("ContainerNotFound", container.status());
      if (container->pod_uid != spec_.pod.uid) {
        return Failure{"ContainerNotFound",
                       absl::StrCat("container ", ref.id, " belongs to the pod with UID ", container->pod_uid,
                                    ", not to ", spec_.pod.uid)};
      }
      Source source{.container = *std::move(container)};
      auto mounts = runtime::ReadMounts(node_.host.proc, source.container.init_pid);
      if (!mounts.ok()) return Because("ContainerNotFound", mounts.status());
      auto layer = runtime::WritableLayer(*mounts);
      if (!layer.ok()) return Because("WritableLayerUnknown", layer.status());
      source.layer = node_.host.At(*layer);
      const std::string own = absl::StrCat(work_, "/", ref.name);
      source.parts.images = absl::StrCat(own, "/images");
      source.parts.rootfs_diff = absl::StrCat(own, "/rootfs-diff.tar");
      source.parts.dump_log = absl::StrCat(own, "/work/dump.log");
      source.parts.spec = absl::StrCat(own, "/spec.dump");
      for (const char* folder : {"/images", "/work", "/volumes"}) {
        absl::Status made = MakeFolders(absl::StrCat(own, folder), 0700);
        if (!made.ok()) return Because("StorageFailed", made);
      }
      absl::Status described = Describe(ref, source);
      if (!described.ok()) return Because("ContainerNotFound", described);
      sources_.push_back(std::move(source));
    }
    return std::nullopt;
  }

  absl::Status Describe(const agent_api::ContainerRef& ref, Source& source) {
    const std::string config = node_.host.At(absl::StrCat(source.container.bundle, "/config.json"));
    GODWIT_ASSIGN_OR_RETURN(std::string text, ReadFile(config));
    GODWIT_RETURN_IF_ERROR(WriteFileDurably(source.parts.spec, text));
    struct stat info;
    if (stat(config.c_str(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot stat ", config));
    Description& d = source.description;
    d.pod = spec_.pod;
    d.container = ref.name;
    d.container_id = source.container.id;
    d.runtime = "runc";
    d.created_at = absl::TimeFromTimespec(info.st_mtim);
    d.pod_manifest = spec_.pod_manifest;
    GODWIT_ASSIGN_OR_RETURN(auto document, json::Parse(text));
    const auto* annotations =
        document.IsObject() && document.HasMember("annotations") ? &document["annotations"] : nullptr;
    for (const char* key : {"io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"}) {
      if (!annotations || !annotations->IsObject() || !annotations->HasMember(key)) continue;
      const auto& value = (*annotations)[key];
      if (value.IsString()) d.image_name = d.image_id = value.GetString();
    }
    return absl::OkStatus();
  }

  agent_api::GuardSpec GuardSpecFor() const {
    const std::string own = absl::StrCat(node_.guards_folder, "/", spec_.checkpoint.uid);
    agent_api::GuardSpec guard{.migration_uid = spec_.checkpoint.uid,
                               .socket = absl::StrCat(own, "/guard.sock"),
                               .journal = absl::StrCat(work_, "/journal"),
                               .log = absl::StrCat(own, "/guard.log"),
                               .runtime = node_.runtime,
                               .criu_folder = node_.criu_folder,
                               .freeze_limit = spec_.freeze_limit};
    for (const Source& source : sources_) {
      guard.containers.push_back({.name = source.description.container,
                                  .id = source.container.id,
                                  .cgroup = source.container.cgroup,
                                  .runc_root = source.container.runtime_root,
                                  .init_pid = source.container.init_pid,
                                  .images = source.parts.images,
                                  .work = absl::StrCat(work_, "/", source.description.container, "/work"),
                                  .smaps = node_.write_smaps ? SmapsFolder(source) : ""});
    }
    return guard;
  }

  std::string SmapsFolder(const Source& source) const {
    return absl::StrCat(node_.guards_folder, "/", spec_.checkpoint.uid, "/smaps-",
                        source.description.container);
  }

  static std::optional<Failure> Refused(const absl::StatusOr<GuardReply>& reply) {
    if (!reply.ok()) return Because("GuardLost", reply.status());
    if (!reply->ok) return Failure{reply->reason, reply->message};
    return std::nullopt;
  }

  // From the freeze to the thaw.
  std::optional<Failure> Frozen() {
    const std::string guards = absl::StrCat(node_.guards_folder, "/", spec_.checkpoint.uid);
    auto clean = absl::MakeCleanup([&guards] { RemoveTree(guards).IgnoreError(); });
    absl::Status made = MakeFolders(guards, 0700);
    if (!made.ok()) return Because("StorageFailed", made);
    std::vector<std::string> ids;
    for (const Source& source : sources_) ids.push_back(source.container.id);
    absl::Status filled = memory::AwaitFilled(node_.host.At(agent_api::kPagersFolder), ids, kFillingLimit);
    if (!filled.ok()) return Because("MemoryNotFilled", filled);
    auto guard = start_guard_(GuardSpecFor());
    if (!guard.ok()) return Because("GuardFailed", guard.status());
    auto frozen = (*guard)->Freeze();
    if (auto failure = Refused(frozen)) return failure;
    status_.frozen_at = frozen->frozen_at;

    absl::Status packed;
    std::thread packer([this, &packed] { packed = PackFiles(); });
    std::optional<Failure> failure;
    for (const Source& source : sources_) {
      absl::Status written;
      if (node_.write_smaps)
        written = node_.write_smaps(node_.host.At(source.container.cgroup), SmapsFolder(source));
      if (!written.ok()) failure = Because("StorageFailed", written);
      if (failure) break;
      failure = Refused((*guard)->Dump(source.description.container, spec_.freeze_limit + absl::Seconds(10)));
      if (failure) break;
    }
    packer.join();
    auto thawed = (*guard)->Thaw("the checkpoint's memory and files are read");
    if (thawed.ok()) status_.freeze = thawed->frozen_for;
    if (failure) return failure;
    if (!packed.ok()) return Because("FilesNotReadable", packed);
    return Refused(thawed);
  }

  absl::Status PackTo(const std::string& folder, files::Layout layout, const std::string& path) {
    GODWIT_ASSIGN_OR_RETURN(UniqueFd out, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
    return files::Pack(folder, layout,
                       [&](absl::string_view bytes) { return WriteAll(out.get(), bytes, path); })
        .status();
  }

  // Writable layers and emptyDirs, while nothing writes to them.
  absl::Status PackFiles() {
    std::vector<runtime::BundleMount> mounts;
    for (const Source& source : sources_) {
      GODWIT_RETURN_IF_ERROR(PackTo(source.layer, files::Layout::kOverlay, source.parts.rootfs_diff));
      mounts.insert(mounts.end(), source.container.mounts.begin(), source.container.mounts.end());
    }
    for (const std::string& volume : spec_.empty_dirs) {
      const std::string folder = runtime::EmptyDirFolder(mounts, spec_.pod.uid, volume);
      if (folder.empty()) continue;
      Source& first = sources_.front();
      const std::string path =
          absl::StrCat(work_, "/", first.description.container, "/volumes/", volume, ".tar");
      GODWIT_RETURN_IF_ERROR(PackTo(node_.host.At(folder), files::Layout::kPlain, path));
      first.parts.volumes[volume] = path;
    }
    return absl::OkStatus();
  }

  std::optional<Failure> Archives() {
    for (Source& source : sources_) {
      absl::Status sound = criu::CheckImages(source.parts.images);
      if (!sound.ok()) return Because("DumpFailed", sound);
      auto sizes = criu::MeasureImages(source.parts.images);
      if (sizes.ok()) status_.memory_bytes += sizes->pages;
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

  const CheckpointSpec& spec_;
  const Node& node_;
  const StartGuard& start_guard_;
  const std::string folder_;
  const std::string work_;
  std::vector<Source> sources_;
  CheckpointStatus status_;
};

}  // namespace

CheckpointStatus Take(const CheckpointSpec& spec, const Node& node, const StartGuard& start_guard,
                      const std::string& folder) {
  return Taker(spec, node, start_guard, folder).Run();
}

}  // namespace godwit::checkpoint
