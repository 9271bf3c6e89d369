// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/archive.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::checkpoint {
namespace {

constexpr int kFormatVersion = 1;
constexpr size_t kMaxOwnFile = size_t{16} << 20;

// config.dump, as checkpointctl's ContainerConfig.
struct ConfigDump {
  std::string id, name, rootfs_image, rootfs_image_ref, rootfs_image_name, runtime;
  absl::Time created, checkpointed;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("id", self.id);
    field.Required("name", self.name);
    field.Required("rootfsImage", self.rootfs_image);
    field.Required("rootfsImageRef", self.rootfs_image_ref);
    field.Required("rootfsImageName", self.rootfs_image_name);
    field.Required("runtime", self.runtime);
    field.Required("createdTime", self.created);
    field.Required("checkpointedTime", self.checkpointed);
  }
};

// godwit.json.
struct OwnFile {
  int version = 0;
  agent_api::PodName pod;
  std::string container;
  json::Raw pod_manifest;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("version", self.version);
    field.Required("pod", self.pod);
    field.Required("container", self.container);
    field("podManifest", self.pod_manifest);
  }
};

std::string ConfigDumpText(const Description& d) {
  ConfigDump dump{.id = d.container_id,
                  .name = d.container,
                  .rootfs_image = d.image_id,
                  .rootfs_image_ref = d.image_id,
                  .rootfs_image_name = d.image_name,
                  .runtime = d.runtime,
                  .created = d.created_at,
                  .checkpointed = d.checkpointed_at};
  return json::Encode(dump);
}

std::string OwnFileText(const Description& d) {
  return json::Encode(OwnFile{
      .version = kFormatVersion, .pod = d.pod, .container = d.container, .pod_manifest = d.pod_manifest});
}

absl::Status AddPart(TarWriter& tar, const Parts& parts, const std::string& name, const std::string& path) {
  const auto made = parts.made.find(name);
  if (made != parts.made.end()) return tar.AddContent(name, made->second.bytes, made->second.write);
  return path.empty() ? absl::OkStatus() : tar.AddFile(name, path);
}

absl::Status AddParts(TarWriter& tar, const Description& description, const Parts& parts) {
  GODWIT_RETURN_IF_ERROR(tar.AddText("godwit.json", OwnFileText(description)));
  GODWIT_RETURN_IF_ERROR(tar.AddText("config.dump", ConfigDumpText(description)));
  const std::pair<const char*, const std::string*> single[] = {
      {"spec.dump", &parts.spec}, {"dump.log", &parts.dump_log}, {"rootfs-diff.tar", &parts.rootfs_diff}};
  for (const auto& [name, path] : single) GODWIT_RETURN_IF_ERROR(AddPart(tar, parts, name, *path));
  GODWIT_ASSIGN_OR_RETURN(auto images, ListFolder(parts.images));
  GODWIT_RETURN_IF_ERROR(tar.AddFolder("checkpoint"));
  for (const std::string& image : images) {
    GODWIT_RETURN_IF_ERROR(
        AddPart(tar, parts, absl::StrCat("checkpoint/", image), absl::StrCat(parts.images, "/", image)));
  }
  for (const auto& [volume, path] : parts.volumes) {
    GODWIT_RETURN_IF_ERROR(AddPart(tar, parts, absl::StrCat("volumes/", volume, ".tar"), path));
  }
  return absl::OkStatus();
}

bool PlainName(absl::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." && !absl::StrContains(name, '/');
}

// Where an entry of the archive goes, noted in `parts`; DataLoss for names that no archive of ours has.
absl::StatusOr<std::string> Place(absl::string_view name, const std::string& folder, Parts& parts) {
  absl::string_view rest = name;
  if (absl::ConsumePrefix(&rest, "checkpoint/") && PlainName(rest))
    return absl::StrCat(parts.images, "/", rest);
  rest = name;
  if (absl::ConsumePrefix(&rest, "volumes/") && absl::ConsumeSuffix(&rest, ".tar") && PlainName(rest)) {
    return parts.volumes[std::string(rest)] = absl::StrCat(folder, "/volumes/", rest, ".tar");
  }
  if (name == "spec.dump") return parts.spec = absl::StrCat(folder, "/spec.dump");
  if (name == "dump.log") return parts.dump_log = absl::StrCat(folder, "/dump.log");
  if (name == "rootfs-diff.tar") return parts.rootfs_diff = absl::StrCat(folder, "/rootfs-diff.tar");
  if (name == "config.dump" || name == "godwit.json") return absl::StrCat(folder, "/", name);
  return absl::DataLossError(absl::StrCat("entry ", name, " does not belong into a checkpoint archive"));
}

absl::Status Matches(const agent_api::Archive& recorded, int fd, const std::string& path) {
  int64_t size = 0;
  GODWIT_ASSIGN_OR_RETURN(std::string digest, DigestOf(fd, size));
  if (size != recorded.size) {
    return absl::DataLossError(absl::StrCat("archive ", path, " has ", size,
                                            " bytes, its checkpoint recorded ", recorded.size,
                                            ": it was cut or replaced; take a new checkpoint"));
  }
  if (digest != recorded.digest) {
    return absl::DataLossError(absl::StrCat("archive ", path, " has the digest ", digest,
                                            ", its checkpoint recorded ", recorded.digest,
                                            ": its content has changed; take a new checkpoint"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ArchiveFileName(const Description& d) {
  const std::string rest =
      absl::StrCat("_", d.pod.name_space, "-", d.container, "-",
                   absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", d.checkpointed_at, absl::UTCTimeZone()), ".tar");
  // A name of at most 255 bytes, with some for temporary ones. The archives of a checkpoint are of one pod.
  constexpr size_t kMaxName = 230;
  const absl::string_view pod =
      absl::string_view(d.pod.name).substr(0, kMaxName - rest.size() - sizeof("checkpoint-"));
  return absl::StrCat("checkpoint-", pod, rest);
}

absl::StatusOr<agent_api::Archive> WriteArchive(const Description& description, const Parts& parts,
                                                const std::string& path) {
  auto discard = absl::MakeCleanup([&path] { unlink(path.c_str()); });
  GODWIT_ASSIGN_OR_RETURN(auto tar, TarWriter::Create(path));
  absl::Status written = AddParts(*tar, description, parts);
  if (written.ok()) written = tar->Finish();
  if (!written.ok()) return Annotate(written, absl::StrCat("cannot write the archive ", path));
  std::move(discard).Cancel();
  return agent_api::Archive{
      .container = description.container, .path = path, .size = tar->size(), .digest = tar->digest()};
}

absl::Status VerifyArchive(const agent_api::Archive& recorded, const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_RDONLY | O_NOFOLLOW));
  return Matches(recorded, file.get(), path);
}

absl::StatusOr<Parts> ExtractArchive(const agent_api::Archive& recorded, const std::string& path,
                                     const std::string& folder) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_RDONLY | O_NOFOLLOW));
  GODWIT_RETURN_IF_ERROR(Matches(recorded, file.get(), path));
  Parts parts;
  parts.images = absl::StrCat(folder, "/images");
  GODWIT_RETURN_IF_ERROR(MakeFolders(parts.images, 0700));
  GODWIT_RETURN_IF_ERROR(MakeFolders(absl::StrCat(folder, "/volumes"), 0700));
  auto discard = absl::MakeCleanup([&folder] { RemoveTree(folder).IgnoreError(); });
  absl::Status extracted = ExtractTar(file.get(), recorded.size,
                                      [&](const std::string& name) { return Place(name, folder, parts); });
  if (!extracted.ok()) return Annotate(extracted, absl::StrCat("cannot unpack the archive ", path));
  std::move(discard).Cancel();
  return parts;
}

absl::StatusOr<json::Raw> ReadPodManifest(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_RDONLY | O_NOFOLLOW));
  static std::atomic<uint64_t> number = 0;  // others may read the same archive
  const std::string copy =
      absl::StrCat(path.substr(0, path.rfind('/') + 1), ".godwit-json.", getpid(), ".", number++);
  auto discard = absl::MakeCleanup([&copy] { unlink(copy.c_str()); });
  // It is the first entry: the rest, which may be as large as the pod's memory, is not read.
  GODWIT_RETURN_IF_ERROR(ExtractFirst(file.get(), "godwit.json", kMaxOwnFile, copy));
  GODWIT_ASSIGN_OR_RETURN(std::string text, ReadFile(copy, kMaxOwnFile));
  GODWIT_ASSIGN_OR_RETURN(OwnFile own, json::Decode<OwnFile>(text, {.max_bytes = kMaxOwnFile}));
  if (own.version != kFormatVersion) {
    return absl::UnimplementedError(absl::StrCat("archive ", path, " is of format version ", own.version,
                                                 ", this agent reads ", kFormatVersion,
                                                 ": use an agent that is at least as new as its writer"));
  }
  return own.pod_manifest;
}

}  // namespace godwit::checkpoint
