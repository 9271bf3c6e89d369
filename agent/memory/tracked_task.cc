// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/tracked_task.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/memory/inject.h"
#include "agent/memory/maps.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

// At multiples of itself, so that no huge page lies across: it would be split.
constexpr uint64_t kPieceBytes = uint64_t{256} << 20;
// A mapping that is replaced over and over while it is being looked at: it is sent again in the next round.
constexpr int kRegisterAttempts = 3;

void AddPieces(Range range, bool known, std::vector<TrackedTask::Piece>& pieces) {
  while (range.start < range.end) {
    const uint64_t end = std::min(range.end, (range.start / kPieceBytes + 1) * kPieceBytes);
    pieces.push_back({.range = {range.start, end}, .known = known});
    range.start = end;
  }
}

}  // namespace

absl::StatusOr<AddressSpace> TrackedTask::ReadMappings() const {
  // What maps does not tell is told by registering it, but for these.
  const bool by_maps = attached() && !status_.locked && !status_.shadow_stack;
  return ReadAddressSpace(proc_, pid_, by_maps ? MapsFile::kMaps : MapsFile::kSmaps);
}

absl::Status TrackedTask::Attach(absl::Duration limit) {
  GODWIT_ASSIGN_OR_RETURN(Injected injected, InjectUserfaultfd(proc_, pid_, limit));
  GODWIT_ASSIGN_OR_RETURN(WriteProtection protection, WriteProtection::Enable(std::move(injected.uffd)));
  protection_.emplace(std::move(protection));
  const absl::Status registered = RegisterAll();
  if (!registered.ok()) Detach();
  return registered;
}

absl::Status TrackedTask::RegisterAll() {
  GODWIT_ASSIGN_OR_RETURN(const AddressSpace space, ReadAddressSpace(proc_, pid_, MapsFile::kMaps));
  for (const Range& mapping : space.private_anonymous) {
    GODWIT_ASSIGN_OR_RETURN(const WriteProtection::Outcome outcome, protection_->Register(mapping));
    if (outcome == WriteProtection::Outcome::kBusy)
      return absl::FailedPreconditionError(
          absl::StrCat("cannot track process ", pid_,
                       ": a userfaultfd is on its memory already (a pager that still fills it, or its own)"));
    if (outcome == WriteProtection::Outcome::kRegistered) Append(registered_, mapping);
  }
  return absl::OkStatus();
}

void TrackedTask::Detach() {
  if (attached()) {
    for (const Range& range : registered_) {
      if (!protection_->Unregister(range)) break;  // closing it does the rest
    }
  }
  protection_.reset();
  registered_.clear();
  Forget();
}

absl::Status TrackedTask::Plan(LookKind kind) {
  const Ranges known = kind == LookKind::kRound ? std::exchange(known_, {}) : known_;
  pieces_.clear();
  shared_.clear();
  memory_gone_ = false;
  GODWIT_ASSIGN_OR_RETURN(status_, ReadTaskStatus(proc_, pid_));
  if (!status_.has_memory) return absl::NotFoundError(absl::StrCat("process ", pid_, " is ending"));
  GODWIT_ASSIGN_OR_RETURN(PagemapScan scan, PagemapScan::Open(proc_, pid_));
  scan_.emplace(std::move(scan));
  GODWIT_ASSIGN_OR_RETURN(AddressSpace space, ReadMappings());
  shared_ = std::move(space.shared_anonymous);
  for (const Range& mapping : space.private_anonymous) {
    const Ranges old = attached() ? Intersection({mapping}, known) : Ranges();
    const Ranges fresh = Difference({mapping}, old);
    for (size_t i = 0, j = 0; i < old.size() || j < fresh.size();) {
      const bool is_old = j == fresh.size() || (i < old.size() && old[i].start < fresh[j].start);
      AddPieces(is_old ? old[i++] : fresh[j++], is_old, pieces_);
    }
  }
  return absl::OkStatus();
}

void TrackedTask::Scan(LookKind kind, Piece& piece) const {
  if (kind == LookKind::kOwned) {
    LookWhetherOwned(piece);
  } else if (piece.known) {
    ScanKnown(kind, piece);
  } else {
    ScanWhole(kind, piece);
  }
}

void TrackedTask::ScanKnown(LookKind kind, Piece& piece) const {
  if (kind == LookKind::kLast) {
    piece.status = scan_->Look(piece.range, piece.pages);
  } else {
    piece.status = scan_->ArmWritten(piece.range, piece.pages.written);
    piece.armed = true;
  }
  // Something else is mapped there now. What was armed before that was seen is not lost: all is reported.
  if (absl::IsPermissionDenied(piece.status)) ScanWhole(kind, piece);
}

// What is not armed counts as written in the next look. A known piece is not registered anew: another mapping
// that was moved to its place may have come with its pages armed (mremap, before Linux 6.13), and that it is
// not registered is all that would tell.
void TrackedTask::LookWhetherOwned(Piece& piece) const {
  if (!attached() || piece.known) return;
  const absl::StatusOr<WriteProtection::Outcome> outcome = protection_->Register(piece.range);
  piece.status = outcome.status();
  piece.owned = outcome.ok() && *outcome == WriteProtection::Outcome::kRegistered;
}

void TrackedTask::ScanWhole(LookKind kind, Piece& piece) const {
  const auto begin = [&piece] {
    piece.pages = {};
    piece.armed = false;
  };
  for (int attempt = 0; attached() && attempt < kRegisterAttempts; ++attempt) {
    begin();
    const absl::StatusOr<WriteProtection::Outcome> outcome = protection_->Register(piece.range);
    piece.status = outcome.status();
    if (!outcome.ok()) return;
    if (*outcome == WriteProtection::Outcome::kMemoryGone) memory_gone_ = true;
    piece.owned = *outcome == WriteProtection::Outcome::kRegistered;
    if (!piece.owned) return;
    if (kind == LookKind::kLast) break;
    piece.status = scan_->ArmAll(piece.range, piece.pages.populated);
    piece.armed = piece.status.ok();
    piece.pages.written = piece.pages.populated;
    if (!absl::IsPermissionDenied(piece.status)) return;
  }
  begin();
  piece.status = scan_->LookUnregistered(piece.range, piece.pages);
  piece.pages.written = piece.pages.populated;
}

bool TrackedTask::DetachIfMemoryGone() {
  if (!memory_gone_) return false;
  Detach();
  return true;
}

absl::StatusOr<TaskPages> TrackedTask::Take(LookKind kind) {
  TaskPages task;
  task.pid = pid_;
  task.container_pid = status_.container_pid;
  Ranges armed;
  for (const Piece& piece : pieces_) {
    if (!piece.status.ok())
      return Annotate(piece.status, absl::StrCat("cannot look at the memory of process ", pid_, " (",
                                                 status_.command, ")"));
    if (!piece.owned) continue;
    Append(task.owned, piece.range);
    for (const Range& range : piece.pages.written) Append(task.dirty, range);
    if (piece.armed) Append(armed, piece.range);
    if (kind == LookKind::kLast) {
      for (const Range& range : piece.pages.populated) Append(task.populated, range);
    }
  }
  if (kind == LookKind::kOwned) told_ = task.owned;
  if (kind == LookKind::kLast) {
    if (const Ranges lost = Difference(std::exchange(told_, {}), task.owned); !lost.empty())
      return absl::FailedPreconditionError(
          absl::StrFormat("memory of process %d (%s) at 0x%x was replaced by some that cannot be tracked",
                          pid_, status_.command, lost.front().start));
  }
  if (kind == LookKind::kRound) known_ = std::move(armed);
  if (attached()) registered_ = task.owned;
  pieces_.clear();
  scan_.reset();
  return task;
}

}  // namespace godwit::memory
