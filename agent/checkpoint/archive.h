// SPDX-License-Identifier: Apache-2.0
// Checkpoint archives: one tar file a container, in the layout that Podman, CRI-O and containerd write and
// that checkpointctl reads (checkpoint-restore/checkpointctl v1.3.0, lib/metadata.go):
//   checkpoint/*          CRIU's images, as dumped
//   config.dump           JSON: id, name, rootfsImage, rootfsImageRef, rootfsImageName, runtime, times
//   spec.dump             the container's OCI config.json
//   dump.log              CRIU's log of the dump
//   rootfs-diff.tar       the writable layer, with OCI whiteouts (.wh.*) for what was deleted
//   volumes/NAME.tar      the content of each emptyDir
//   godwit.json           Godwit's own: format version, names, the pod's manifest
// An archive that comes back is hostile until its size and digest have been checked against what was
// recorded.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "agent/checkpoint/tar.h"
#include "base/json.h"

namespace godwit::checkpoint {

// A file that is made while it is archived.
struct Content {
  int64_t bytes = 0;
  std::function<absl::Status(const TarWriter::Sink&)> write;
};

// Where the parts of one container's archive lie, all of them paths of regular files but `images`. An empty
// path: no such part, unless it is made.
struct Parts {
  std::string images;  // folder of CRIU images, flat
  std::string spec;    // OCI config.json
  std::string dump_log;
  std::string rootfs_diff;                     // tar
  std::map<std::string, std::string> volumes;  // emptyDir name -> tar
  // By the name in the archive ("checkpoint/pages-1.img", "rootfs-diff.tar"): what goes there in the place of
  // a file. WriteArchive only.
  std::map<std::string, Content> made;
};

// What else the archive says of the container.
struct Description {
  agent_api::PodName pod;
  std::string container;
  std::string container_id;
  std::string image_name;  // as the pod asked for it
  std::string image_id;    // digest reference of what runs
  std::string runtime;     // "runc"
  absl::Time created_at;
  absl::Time checkpointed_at;
  json::Raw pod_manifest;
};

// "checkpoint-<pod>_<namespace>-<container>-<RFC 3339 time>.tar".
std::string ArchiveFileName(const Description& description);

// Writes the archive to `path` (mode 0600; on the disk when this returns; nothing is left after an error) and
// says its size and digest.
absl::StatusOr<agent_api::Archive> WriteArchive(const Description& description, const Parts& parts,
                                                const std::string& path);

// Checks that the file has the recorded size and digest. DataLoss when not.
absl::Status VerifyArchive(const agent_api::Archive& recorded, const std::string& path);

// Verifies the archive at `path` and unpacks it into `folder` (made; images/ and volumes/ below it), as files
// of mode 0600. Entries of unknown names, of other kinds than regular files, twice the same name, or more
// bytes than the archive has are DataLoss, and nothing stays in `folder`.
absl::StatusOr<Parts> ExtractArchive(const agent_api::Archive& recorded, const std::string& path,
                                     const std::string& folder);

// The pod's manifest from an archive that WriteArchive wrote.
absl::StatusOr<json::Raw> ReadPodManifest(const std::string& path);

}  // namespace godwit::checkpoint
