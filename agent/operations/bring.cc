// SPDX-License-Identifier: Apache-2.0
#include "agent/operations/bring.h"

#include "absl/strings/str_cat.h"
#include "agent/checkpoint/archive.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::operations {
namespace {

absl::StatusOr<migration::ContainerState> BringOne(const agent_api::RestoreSpec& spec,
                                                   const agent_api::Archive& archive, const std::string& node,
                                                   const Fetch& fetch, const FindArchive& find,
                                                   const std::string& folder, absl::Time deadline) {
  GODWIT_RETURN_IF_ERROR(MakeFolders(folder, 0700));
  GODWIT_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(folder));
  const bool here = spec.archive_node == node;
  const int64_t needed =
      here ? archive.size : 2 * archive.size;  // what is fetched lies beside what is unpacked
  if (free < needed) {
    return absl::ResourceExhaustedError(absl::StrCat("container ", archive.container, " needs ",
                                                     (needed >> 20) + 1, " MiB on node ", node,
                                                     " to come back, ", free >> 20, " MiB are free there"));
  }
  std::string path;
  if (here) {
    const std::string file_name = archive.path.substr(archive.path.rfind('/') + 1);
    GODWIT_ASSIGN_OR_RETURN(path, find(spec.checkpoint_uid, file_name));
  } else {
    path = absl::StrCat(folder, "/fetched.tar");
    GODWIT_RETURN_IF_ERROR(Annotate(fetch(spec, archive, path, deadline),
                                    absl::StrCat("cannot fetch the archive of container ", archive.container,
                                                 " from node ", spec.archive_node)));
  }
  GODWIT_ASSIGN_OR_RETURN(checkpoint::Parts parts,
                          checkpoint::ExtractArchive(archive, path, absl::StrCat(folder, "/unpacked")));
  if (!here) GODWIT_RETURN_IF_ERROR(RemoveTree(path));
  migration::ContainerState state{.images = parts.images};
  if (!parts.rootfs_diff.empty()) state.files.rootfs.paths = {parts.rootfs_diff};
  for (const auto& [volume, tar] : parts.volumes) state.files.volumes[volume].paths = {tar};
  return state;
}

}  // namespace

absl::StatusOr<std::map<std::string, migration::ContainerState>> Bring(
    const agent_api::RestoreSpec& spec, const std::string& node, const Fetch& fetch, const FindArchive& find,
    const std::string& folder, absl::Time deadline) {
  std::map<std::string, migration::ContainerState> states;
  for (const agent_api::Archive& archive : spec.archives) {
    GODWIT_ASSIGN_OR_RETURN(states[archive.container],
                            BringOne(spec, archive, node, fetch, find,
                                     absl::StrCat(folder, "/archives/", archive.container), deadline));
  }
  return states;
}

}  // namespace godwit::operations
