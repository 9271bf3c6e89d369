// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/file_receiver.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/transfer/container_path.h"
#include "agent/transfer/stream.h"
#include "base/status.h"

namespace godwit::transfer {
namespace {

constexpr size_t kMaxOpenFiles = 256;  // a page image for each task may be open, and the tars
constexpr size_t kMaxName = 128;

// What CRIU's image files, Kubernetes' containers and volumes are called; never "." or "..", never a path.
bool IsPlainName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxName && name.front() != '.' && absl::c_all_of(name, [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
}

// Of "<volume>-<round>".
std::string VolumeOf(const std::string& name) {
  return name.substr(0, std::min(name.rfind('-'), name.size()));
}

absl::Status Broken(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the peer broke the stream's rules: ", what));
}

}  // namespace

absl::Status FileReceiver::Take(const Frame& frame) {
  switch (frame.type) {
    case FrameType::kFileBegin: {
      GODWIT_ASSIGN_OR_RETURN(FileBegin begin, DecodeMessage<FileBegin>(frame));
      return Begin(begin);
    }
    case FrameType::kFileData: {
      GODWIT_ASSIGN_OR_RETURN(FileData data, DecodeFileData(frame.payload));
      return Data(data);
    }
    case FrameType::kFileEnd: {
      GODWIT_ASSIGN_OR_RETURN(FileEnd end, DecodeMessage<FileEnd>(frame));
      return End(end);
    }
    case FrameType::kContainerEnd: {
      GODWIT_ASSIGN_OR_RETURN(ContainerEnd end, DecodeMessage<ContainerEnd>(frame));
      return EndContainer(end);
    }
    default: return Broken(absl::StrCat("a ", FrameTypeName(frame.type), " frame among files"));
  }
}

absl::StatusOr<std::string> FileReceiver::PathFor(const FileBegin& begin) const {
  if (!IsPlainName(begin.container) || !absl::c_linear_search(rules_.containers, begin.container)) {
    return Broken(absl::StrCat("a file of container \"", absl::CEscape(begin.container),
                               "\", which was not announced"));
  }
  if (!rules_.kinds.contains(begin.kind)) return Broken("a file of a kind that is not expected here");
  if (begin.kind == FileKind::kArchive ? !begin.name.empty() : !IsPlainName(begin.name)) {
    return Broken(absl::StrCat("the file name \"", absl::CEscape(begin.name), "\""));
  }
  switch (begin.kind) {
    case FileKind::kImage: return absl::StrCat(ContainerPath(begin.container), "/images/", begin.name);
    case FileKind::kRootfs:
    case FileKind::kVolume: return RoundPath(begin);
    case FileKind::kArchive: return absl::StrCat(begin.container, ".tar");
  }
  return Broken("a file of an unknown kind");
}

// The tar of a round: the one that follows those that are complete.
absl::StatusOr<std::string> FileReceiver::RoundPath(const FileBegin& begin) const {
  const bool volume = begin.kind == FileKind::kVolume;
  const std::string tree = volume ? VolumeOf(begin.name) : "";
  const auto& trees = volume ? volumes_ : rootfs_;
  const auto found = trees.find(volume ? tree : begin.container);
  const std::string next = absl::StrCat(found == trees.end() ? 0 : found->second.size());
  if ((volume && tree.empty()) || begin.name != (volume ? absl::StrCat(tree, "-", next) : next)) {
    return Broken(absl::StrCat("the ", json::Name(begin.kind), " \"", begin.name, "\" where round ", next,
                               " should come"));
  }
  return volume ? absl::StrCat("volumes/", begin.name, ".tar")
                : absl::StrCat(ContainerPath(begin.container), "/rootfs-", begin.name, ".tar");
}

std::vector<std::string> FileReceiver::rootfs(const std::string& container) const {
  const auto found = rootfs_.find(container);
  return found == rootfs_.end() ? std::vector<std::string>() : found->second;
}

const std::string& FileReceiver::RootOf(const FileBegin& begin) const {
  const bool memory = begin.kind == FileKind::kImage && begin.in_memory && !rules_.memory_folder.empty();
  return memory ? rules_.memory_folder : rules_.folder;
}

std::string FileReceiver::ImagesFolder(const std::string& container) const {
  const auto found = counts_.find(container);
  const bool memory = found != counts_.end() && found->second.images_in_memory.value_or(false);
  return absl::StrCat(RootOf({.kind = FileKind::kImage, .in_memory = memory}), "/", ContainerPath(container),
                      "/images");
}

// The folder is ours and its names were checked, so plain paths would do; the flags are the second lock on
// the door.
absl::StatusOr<UniqueFd> FileReceiver::Create(const std::string& root, const std::string& path) const {
  const std::string full = absl::StrCat(root, "/", path);
  const size_t slash = full.rfind('/');
  constexpr int kFolder = O_PATH | O_DIRECTORY | O_NOFOLLOW;
  absl::StatusOr<UniqueFd> folder = OpenFile(full.substr(0, slash), kFolder);
  if (absl::IsNotFound(folder.status())) {
    GODWIT_RETURN_IF_ERROR(MakeFolders(full.substr(0, slash), 0700));
    folder = OpenFile(full.substr(0, slash), kFolder);
  }
  GODWIT_RETURN_IF_ERROR(folder.status());
  UniqueFd file(openat(folder->get(), full.substr(slash + 1).c_str(),
                       O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.ok()) return ErrnoStatus(absl::StrCat("cannot create ", full));
  return file;
}

absl::Status FileReceiver::Begin(const FileBegin& begin) {
  GODWIT_ASSIGN_OR_RETURN(std::string path, PathFor(begin));
  if (complete_.contains(begin.container))
    return Broken(absl::StrCat("a file of ", begin.container, " after its end"));
  if (open_.size() >= kMaxOpenFiles) return Broken("too many files at a time");
  if (begun_.size() >= static_cast<size_t>(rules_.max_files)) {
    return absl::ResourceExhaustedError(absl::StrCat("more than ", rules_.max_files, " files"));
  }
  if (!used_ids_.insert(begin.id).second) return Broken(absl::StrCat("file id ", begin.id, " twice"));
  if (!begun_.insert(path).second) return Broken(absl::StrCat("the file ", path, " twice"));
  Count& count = counts_[begin.container];
  if (begin.kind == FileKind::kImage && begin.in_memory != count.images_in_memory.value_or(begin.in_memory))
    return Broken(absl::StrCat("images of ", begin.container, " that need no disk, and others"));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, Create(RootOf(begin), path));
  Incoming& incoming = open_[begin.id];
  incoming.fd = std::move(fd);
  incoming.begin = begin;
  incoming.path = path;
  if (begin.kind == FileKind::kImage) count.images_in_memory = begin.in_memory;
  ++count.files;
  ++count.open;
  return absl::OkStatus();
}

absl::Status FileReceiver::Data(const FileData& data) {
  auto found = open_.find(data.id);
  if (found == open_.end()) return Broken(absl::StrCat("data for file id ", data.id, ", which is not open"));
  Incoming& incoming = found->second;
  if (data.offset != static_cast<uint64_t>(incoming.size)) {
    return Broken(absl::StrCat("data for offset ", data.offset, " of ", incoming.path, ", which has ",
                               incoming.size, " bytes"));
  }
  const int64_t size = static_cast<int64_t>(data.bytes.size());
  if (size > rules_.max_bytes - bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat("the peer sends more than the ", rules_.max_bytes,
                                                     " bytes there is room for in ", rules_.folder));
  }
  GODWIT_RETURN_IF_ERROR(
      WriteAll(incoming.fd.get(), data.bytes, absl::StrCat(RootOf(incoming.begin), "/", incoming.path)));
  incoming.checksum.Update(data.bytes);
  incoming.size += size;
  bytes_ += size;
  counts_[incoming.begin.container].bytes += size;
  return absl::OkStatus();
}

absl::Status FileReceiver::End(const FileEnd& end) {
  auto found = open_.find(end.id);
  if (found == open_.end()) return Broken(absl::StrCat("the end of file id ", end.id, ", which is not open"));
  Incoming& incoming = found->second;
  if (end.size != incoming.size) {
    return absl::DataLossError(
        absl::StrCat(incoming.path, ": ", incoming.size, " bytes came, ", end.size, " were sent"));
  }
  if (end.xxh3 != incoming.checksum.Text()) {
    return absl::DataLossError(absl::StrCat(incoming.path, ": the checksum of the file is wrong"));
  }
  switch (incoming.begin.kind) {
    case FileKind::kImage:
      (absl::StartsWith(incoming.begin.name, "pages-") ? totals_.page_bytes : totals_.image_bytes) +=
          incoming.size;
      break;
    case FileKind::kVolume: volumes_[VolumeOf(incoming.begin.name)].push_back(incoming.path); break;
    case FileKind::kRootfs: rootfs_[incoming.begin.container].push_back(incoming.path); break;
    case FileKind::kArchive: break;
  }
  if (incoming.begin.kind != FileKind::kImage) totals_.file_bytes += incoming.size;
  --counts_[incoming.begin.container].open;
  finished_.insert(incoming.path);
  open_.erase(found);
  return absl::OkStatus();
}

void FileReceiver::Clear() {
  for (const std::string& root : {rules_.folder, rules_.memory_folder}) {
    if (root.empty()) continue;
    for (const std::string& path : begun_) unlink(absl::StrCat(root, "/", path).c_str());
  }
  *this = FileReceiver(rules_);
}

absl::Status FileReceiver::EndContainer(const ContainerEnd& end) {
  if (!absl::c_linear_search(rules_.containers, end.container)) {
    return Broken(
        absl::StrCat("the end of container \"", absl::CEscape(end.container), "\", which was not announced"));
  }
  const Count& count = counts_[end.container];
  if (count.open != 0)
    return Broken(absl::StrCat("the end of container ", end.container, " while files of it are open"));
  if (count.files != end.files || count.bytes != end.bytes) {
    return absl::DataLossError(absl::StrCat("container ", end.container, ": ", count.files, " files of ",
                                            count.bytes, " bytes came, ", end.files, " of ", end.bytes,
                                            " were sent"));
  }
  if (!complete_.insert(end.container).second)
    return Broken(absl::StrCat("the end of container ", end.container, " twice"));
  return absl::OkStatus();
}

}  // namespace godwit::transfer
