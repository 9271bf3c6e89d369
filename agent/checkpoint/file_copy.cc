// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/file_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/files/merged_tar.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::checkpoint {

FileCopy::FileCopy(runtime::HostView host, migration::PodOnNode pod, const std::vector<Tree>& trees,
                   const std::atomic<bool>& stop)
    : host_(std::move(host)), pod_(std::move(pod)), stop_(stop) {
  for (const Tree& tree : trees) parts_.push_back({.tree = tree});
}

absl::Status FileCopy::CopyRound() { return Copy(/*last=*/false); }

absl::Status FileCopy::CopyLast() { return Copy(/*last=*/true); }

absl::Status FileCopy::Copy(bool last) {
  files::Pass pass{.begun = absl::Now(), .last = last};
  GODWIT_ASSIGN_OR_RETURN(pass.mapped, migration::FindMappedFiles(host_, pod_));
  for (Part& part : parts_) {
    if (part.followed || last) GODWIT_RETURN_IF_ERROR(CopyTree(part, pass));
  }
  return absl::OkStatus();
}

absl::Status FileCopy::CopyTree(Part& part, const files::Pass& pass) {
  const int round = static_cast<int>(part.tars.size());
  const std::string path = absl::StrCat(part.tree.tars, "-", round, ".tar");
  GODWIT_ASSIGN_OR_RETURN(UniqueFd out, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
  part.tars.push_back(path);
  absl::Status written;
  const absl::Status packed =
      migration::PackHostFolder(host_, part.tree.path, part.tree.layout, pass, round, part.snapshot,
                                [&](absl::string_view bytes) {
                                  written = stop_ ? absl::CancelledError() : WriteAll(out.get(), bytes, path);
                                  return written;
                                })
          .status();
  if (absl::IsResourceExhausted(packed) && written.ok()) {  // not the disk
    if (pass.last || !files::TooManyHeld(packed)) return absl::FailedPreconditionError(packed.message());
    for (const std::string& tar : std::exchange(part.tars, {})) unlink(tar.c_str());
    part.snapshot = {};
    part.followed = false;
    return absl::OkStatus();
  }
  GODWIT_RETURN_IF_ERROR(packed);
  // CRIU is not to wait for these bytes when it writes in the freeze.
  if (!pass.last && fdatasync(out.get()) != 0)
    return ErrnoStatus(absl::StrCat("cannot bring ", path, " to the disk"));
  return absl::OkStatus();
}

absl::StatusOr<Content> FileCopy::Whole(size_t tree) {
  const Part& part = parts_.at(tree);
  GODWIT_ASSIGN_OR_RETURN(files::MergedTar merged,
                          files::MergedTar::Plan(part.tars, part.tree.layout, part.snapshot,
                                                 absl::StrCat(part.tree.tars, "-extra.tar")));
  const auto whole = std::make_shared<const files::MergedTar>(std::move(merged));
  return Content{.bytes = whole->bytes(),
                 .write = [whole](const TarWriter::Sink& sink) { return whole->Write(sink); }};
}

}  // namespace godwit::checkpoint
