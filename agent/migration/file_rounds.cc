// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/file_rounds.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"

namespace godwit::migration {

using transfer::FileKind;
using transfer::FileSender;

FileRounds::FileRounds(PodOnNode pod, Pack pack, FindMapped mapped)
    : pod_(std::move(pod)), pack_(std::move(pack)), mapped_(std::move(mapped)) {
  for (const auto& [volume, path] : pod_.volumes)
    trees_.push_back({0, FileKind::kVolume, volume, path, files::Layout::kPlain, {}});
  for (size_t i = 0; i < pod_.parts.size(); ++i)
    trees_.push_back({i, FileKind::kRootfs, "", pod_.parts[i].writable_layer, files::Layout::kOverlay, {}});
}

absl::Status FileRounds::Begin(bool last) {
  ++round_;
  pass_ = {.begun = absl::Now(), .last = last};
  if (round_ == 0 && last) return absl::OkStatus();  // everything is packed, mapped or not
  GODWIT_ASSIGN_OR_RETURN(pass_.mapped, mapped_(pod_));
  return absl::OkStatus();
}

absl::StatusOr<FileRounds::Sent> FileRounds::Send(size_t container, FileSender& sender) {
  Sent sent;
  const absl::Time begin = SteadyNow();
  for (Tree& tree : trees_) {
    if (tree.container == container) GODWIT_RETURN_IF_ERROR(SendTree(tree, sender, sent));
  }
  sent.took = SteadyNow() - begin;
  return sent;
}

absl::Status FileRounds::SendTree(Tree& tree, FileSender& sender, Sent& sent) {
  const std::string name =
      tree.volume.empty() ? absl::StrCat(round_) : absl::StrCat(tree.volume, "-", round_);
  GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<FileSender::File> file, sender.Begin(tree.kind, name));
  GODWIT_ASSIGN_OR_RETURN(const files::PackTotals totals,
                          pack_(tree.path, tree.layout, pass_, round_, tree.snapshot,
                                [&file](absl::string_view bytes) { return file->Write(bytes); }));
  GODWIT_RETURN_IF_ERROR(file->Finish());
  sent.entries += totals.entries;
  sent.bytes += file->size();
  return absl::OkStatus();
}

}  // namespace godwit::migration
