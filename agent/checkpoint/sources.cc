// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/sources.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/files/layer.h"
#include "agent/runtime/layer.h"
#include "agent/runtime/volumes.h"
#include "agent/transfer/container_path.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::checkpoint {
namespace {

absl::Status Describe(const agent_api::CheckpointSpec& spec, const runtime::HostView& host,
                      const std::string& name, Source& source) {
  const std::string config = host.At(absl::StrCat(source.container.bundle, "/config.json"));
  GODWIT_ASSIGN_OR_RETURN(std::string text, ReadFile(config));
  GODWIT_RETURN_IF_ERROR(WriteFileDurably(source.parts.spec, text));
  struct stat info;
  if (stat(config.c_str(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot stat ", config));
  Description& d = source.description;
  d.pod = spec.pod;
  d.container = name;
  d.container_id = source.container.id;
  d.runtime = "runc";
  d.created_at = absl::TimeFromTimespec(info.st_mtim);
  d.pod_manifest = spec.pod_manifest;
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

absl::StatusOr<Source> FindSource(const agent_api::CheckpointSpec& spec, const runtime::HostView& host,
                                  const std::string& work, const agent_api::ContainerRef& ref) {
  Source source;
  GODWIT_ASSIGN_OR_RETURN(source.container, runtime::FindContainer(host, ref.id));
  if (source.container.pod_uid != spec.pod.uid) {
    return absl::FailedPreconditionError(absl::StrCat("container ", ref.id, " belongs to the pod with UID ",
                                                      source.container.pod_uid, ", not to ", spec.pod.uid));
  }
  GODWIT_ASSIGN_OR_RETURN(source.layer, runtime::FindWritableLayer(host, source.container));
  source.folder = absl::StrCat(work, "/", transfer::ContainerPath(ref.name));
  source.parts.images = absl::StrCat(source.folder, "/images");
  source.parts.dump_log = absl::StrCat(source.folder, "/work/dump.log");
  source.parts.spec = absl::StrCat(source.folder, "/spec.dump");
  for (const char* part : {"/images", "/work", "/files"})
    GODWIT_RETURN_IF_ERROR(MakeFolders(absl::StrCat(source.folder, part), 0700));
  GODWIT_RETURN_IF_ERROR(Describe(spec, host, ref.name, source));
  return source;
}

}  // namespace

absl::StatusOr<std::vector<Source>> FindSources(const agent_api::CheckpointSpec& spec,
                                                const runtime::HostView& host, const std::string& work) {
  std::vector<Source> sources;
  for (const agent_api::ContainerRef& ref : spec.containers) {
    GODWIT_ASSIGN_OR_RETURN(Source source, FindSource(spec, host, work, ref));
    sources.push_back(std::move(source));
  }
  return sources;
}

std::vector<SourceTree> FindTrees(const agent_api::CheckpointSpec& spec, const std::vector<Source>& sources) {
  std::vector<SourceTree> trees;
  std::vector<runtime::BundleMount> mounts;
  for (size_t i = 0; i < sources.size(); ++i) {
    const Source& source = sources[i];
    trees.push_back(
        {.source = i,
         .entry = "rootfs-diff.tar",
         .tree = {source.layer, files::Layout::kOverlay, absl::StrCat(source.folder, "/files/rootfs")}});
    mounts.insert(mounts.end(), source.container.mounts.begin(), source.container.mounts.end());
  }
  for (const std::string& volume : spec.empty_dirs) {
    const std::string folder = runtime::EmptyDirFolder(mounts, spec.pod.uid, volume);
    if (folder.empty()) continue;
    trees.push_back({.source = 0,
                     .entry = absl::StrCat("volumes/", volume, ".tar"),
                     .volume = volume,
                     .tree = {folder, files::Layout::kPlain,
                              absl::StrCat(sources.front().folder, "/files/volume-", volume)}});
  }
  return trees;
}

}  // namespace godwit::checkpoint
