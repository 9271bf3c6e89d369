// SPDX-License-Identifier: Apache-2.0
// The target's end of the source's streams: the first brings files, later ones only ask and decide.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/migration/reasons.h"
#include "agent/migration/target.h"
#include "agent/transfer/image_sender.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/nice.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::TargetState;
using transfer::FrameType;

constexpr absl::Duration kAnswerLimit = absl::Seconds(5);
constexpr absl::Duration kLook = absl::Milliseconds(500);
constexpr absl::Duration kDrainLimit = absl::Seconds(2);
constexpr absl::Duration kHangUpLimit = absl::Seconds(5);
constexpr absl::Duration kResumeLimit =
    absl::Seconds(60);                           // for a source whose connection was cut; its own is shorter
constexpr int64_t kReserve = int64_t{64} << 20;  // left free on the disk for everybody else

absl::Time After(absl::Duration duration) { return SteadyNow() + duration; }

absl::Status Refuse(transfer::Stream& stream, const std::string& reason, const std::string& message) {
  (void)stream.SendMessage(FrameType::kRefused, transfer::Reason{reason, message}, After(kAnswerLimit));
  return absl::FailedPreconditionError(message);
}

}  // namespace

void Target::Serve(const std::shared_ptr<transfer::Stream>& stream, const transfer::Hello& hello) {
  if (request_.source_node.empty() || stream->peer_node() != request_.source_node ||
      hello.from_node != request_.source_node) {
    (void)Refuse(*stream, "PermissionDenied",
                 absl::StrCat("migration ", request_.uid, " does not come from node ", stream->peer_node()));
    return;
  }
  if (hello.side > 0) return ServeSide(stream, hello);
  transfer::HelloOk answer;
  bool refused = false;
  {
    absl::MutexLock lock(&mutex_);
    // The source has seen its connection break, and this end perhaps not yet.
    if (hello.resume && bringing_ == Bringing::kServed && stream_ != nullptr && !abort_.has_value()) {
      stream_->Shutdown();
      auto left = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return bringing_ != Bringing::kServed; };
      mutex_.AwaitWithTimeout(absl::Condition(&left), kHangUpLimit);
    }
    // It is to hear why.
    auto aborted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stage_ == TargetStage::kAborted; };
    if (hello.resume && abort_.has_value()) mutex_.AwaitWithTimeout(absl::Condition(&aborted), kDrainLimit);
    answer.state = StateOf(stage_);
    if (stage_ == TargetStage::kAborted) {
      answer.reason = abort_->reason;
      answer.message = abort_->message;
    }
    refused = !TakesStream(hello.ask, hello.resume, bringing_, stage_, abort_.has_value());
    if (!refused) {
      if (!hello.ask) bringing_ = Bringing::kServed;
      stream_ = stream;
      alone_since_ = absl::InfiniteFuture();
    }
  }
  if (refused && hello.resume && answer.state == TargetState::kAborted) {
    (void)stream->SendMessage(FrameType::kHelloOk, answer, After(kAnswerLimit));
    return;
  }
  if (refused) {
    (void)Refuse(*stream, "FailedPrecondition",
                 absl::StrCat("migration ", request_.uid, " takes no (more) state on this node: it is ",
                              json::Name(answer.state)));
    return;
  }
  if (hello.ask) {
    if (stream->SendMessage(FrameType::kHelloOk, answer, After(kAnswerLimit)).ok()) ServeVerdict(stream);
    return;
  }
  absl::Status status = ServeState(stream, hello.sides);
  // Cancelled: hung up by the stream that goes on for it. A stream that lost a side ends with this thread.
  if (absl::IsUnavailable(status) || absl::IsCancelled(status)) status = AwaitResumption(status);
  if (status.ok()) return;
  if (node_.stream_failed) node_.stream_failed(status);
  LOG(WARNING) << Log("the source's stream ended").With("migration", request_.uid).With(status);
  (void)Abort(ReasonOf(status, "StreamFailed"),
              absl::StrCat("while receiving from node ", stream->peer_node(), ": ", status.message()));
  // The source reads why before the connection goes: what it still sends is taken and dropped. Nonsense ends
  // the reading, but not the connection.
  const absl::Time deadline = After(kDrainLimit);
  while (stream->Receive(deadline).ok()) continue;
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&abort_told_), deadline - SteadyNow());
}

// OK when another stream may go on where this one was cut.
absl::Status Target::AwaitResumption(const absl::Status& cut) {
  absl::MutexLock lock(&mutex_);
  if (!MayResume(!armed_.empty(), in_rounds_, Interrupted())) return cut;
  LOG(WARNING) << Log("the source's stream was cut; waiting for it to come back")
                      .With("migration", request_.uid)
                      .With(cut);
  bringing_ = Bringing::kCut;
  cut_ = cut;
  resume_by_ = After(kResumeLimit);
  return absl::OkStatus();
}

// Whether the source has not come back in time.
absl::Status Target::CheckCut() const {
  absl::MutexLock lock(&mutex_);
  if (bringing_ != Bringing::kCut || SteadyNow() < resume_by_) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the connection to the source node was cut and did not come back within ",
                   absl::FormatDuration(kResumeLimit), ": ", cut_.message()));
}

absl::StatusOr<transfer::ReceiveRules> Target::Rules() {
  GODWIT_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(folder_));
  if (free <= kReserve) return absl::ResourceExhaustedError(absl::StrCat("no room for images in ", folder_));
  if (node_.image_memory) image_memory_ = node_.image_memory();
  return transfer::ReceiveRules{
      .folder = folder_,
      .memory_folder = image_memory_.has_value() ? image_memory_->path() : "",
      .containers = request_.containers,
      .kinds = {transfer::FileKind::kImage, transfer::FileKind::kRootfs, transfer::FileKind::kVolume},
      .max_bytes = free - kReserve};
}

absl::Status Target::ServeState(const std::shared_ptr<transfer::Stream>& stream, int64_t wanted_sides) {
  if (!files_.has_value()) {
    absl::StatusOr<transfer::ReceiveRules> rules = Rules();
    if (!rules.ok())
      return Refuse(*stream, ReasonOf(rules.status(), "StorageFailed"),
                    std::string(rules.status().message()));
    files_.emplace(*std::move(rules));
    pages_.emplace(Stores());
  }
  files_->Clear();  // of a stream that was cut: its files come anew
  const transfer::SideConnections::Offer offer =
      sides_.Open(stream, stream->has_room_for_sides() ? wanted_sides : 0, node_.sides);
  absl::Status status = stream->SendMessage(
      FrameType::kHelloOk,
      transfer::HelloOk{.state = TargetState::kOpen, .sides = offer.sides, .session = offer.session},
      After(kAnswerLimit));
  if (status.ok()) status = ReceiveState(*stream);
  (void)sides_.Close();
  // Where it failed their sockets stay: the source, which may still be sending, is to hear why before it sees
  // them gone.
  GODWIT_RETURN_IF_ERROR(status);
  stream->DropSides();
  if (node_.received) {
    transfer::ReceivedTotals totals = files_->totals();
    totals.page_bytes += pages_->page_bytes() + sides_.page_bytes();
    node_.received(totals, stream->bytes_received());
  }
  ServeVerdict(stream);
  return absl::OkStatus();
}

absl::Status Target::ReceiveState(transfer::Stream& stream) {
  transfer::Frame frame;  // its memory is used again and again
  // The pod runs, and others run here, until the source is ready to freeze.
  std::optional<ScopedNice> gives_way(std::in_place);
  while (files_->complete().size() < request_.containers.size()) {
    const absl::Status received = stream.Receive(frame, After(kLook));
    // A stream with something to say may be about to tell why a side was lost.
    const absl::Status side = sides_.ended();
    if (!side.ok() && (!received.ok() || !absl::IsUnavailable(side))) return side;
    if (absl::IsDeadlineExceeded(received)) {
      GODWIT_RETURN_IF_ERROR(CheckWanted());
      continue;  // how long it may take is the source's to say; TCP tells of a dead peer
    }
    GODWIT_RETURN_IF_ERROR(received);
    if (frame.type == FrameType::kAbort) {
      GODWIT_ASSIGN_OR_RETURN(transfer::Reason reason, transfer::DecodeMessage<transfer::Reason>(frame));
      GODWIT_RETURN_IF_ERROR(Abort(reason.reason, absl::StrCat("the source aborted: ", reason.message)));
      return absl::AbortedError(reason.message);
    }
    GODWIT_RETURN_IF_ERROR(TakeStateFrame(stream, frame));
    if (gives_way.has_value() && IsArmed()) gives_way.reset();
  }
  return absl::OkStatus();
}

// One more connection of the stream that brings the state, for pages alone.
void Target::ServeSide(const std::shared_ptr<transfer::Stream>& side, const transfer::Hello& hello) {
  if (absl::Status entered = sides_.Enter(hello.session, hello.side, side); !entered.ok()) {
    (void)Refuse(*side, "FailedPrecondition", std::string(entered.message()));
    return;
  }
  absl::Status status =
      side->SendMessage(FrameType::kHelloOk, transfer::HelloOk{TargetState::kOpen}, After(kAnswerLimit));
  if (status.ok()) status = ReceivePages(*side, hello.side);
  sides_.Leave(hello.side, status);
}

// Until it is shut down, or an error. TCP tells of a dead peer.
absl::Status Target::ReceivePages(transfer::Stream& side, int64_t number) {
  transfer::PageReceiver receiver(Stores());  // of this thread
  transfer::Frame frame;
  std::optional<ScopedNice> gives_way(std::in_place);  // as the stream's thread
  for (int64_t before = 0;;) {
    GODWIT_RETURN_IF_ERROR(side.Receive(frame, absl::InfiniteFuture()));
    if (frame.type != FrameType::kPages)
      return absl::InvalidArgumentError(absl::StrCat("the peer broke the stream's rules: a ",
                                                     FrameTypeName(frame.type),
                                                     " frame over a side connection"));
    if (gives_way.has_value() && IsArmed()) gives_way.reset();
    GODWIT_RETURN_IF_ERROR(receiver.Take(frame));
    sides_.Took(number, receiver.page_bytes() - std::exchange(before, receiver.page_bytes()));
  }
}

// Whether somebody wants an end.
absl::Status Target::CheckWanted() const {
  absl::MutexLock lock(&mutex_);
  if (!Interrupted()) return absl::OkStatus();
  return absl::AbortedError(stop_ ? "the agent ends" : abort_->message);
}

// What follows comes after so many frames of the side connections.
absl::Status Target::AwaitSides(const transfer::SideFrames& sides) {
  for (;;) {
    const absl::Status status = sides_.Await(sides.frames, After(kLook));
    if (!absl::IsDeadlineExceeded(status)) return status;
    GODWIT_RETURN_IF_ERROR(CheckWanted());
  }
}

absl::Status Target::TakeStateFrame(transfer::Stream& stream, const transfer::Frame& frame) {
  switch (frame.type) {
    case FrameType::kPages:
    case FrameType::kKeepPages:
    case FrameType::kMissing: in_rounds_ = true; return pages_->Take(frame);
    case FrameType::kSides: {
      GODWIT_ASSIGN_OR_RETURN(const auto sides, transfer::DecodeMessage<transfer::SideFrames>(frame));
      in_rounds_ = true;
      return AwaitSides(sides);
    }
    case FrameType::kRoundEnd: {
      GODWIT_ASSIGN_OR_RETURN(transfer::Round round, transfer::DecodeMessage<transfer::Round>(frame));
      in_rounds_ = true;
      return stream.SendMessage(FrameType::kRoundOk, round, After(kAnswerLimit));
    }
    default:
      if (frame.type == FrameType::kFileBegin && !in_rounds_) {
        GODWIT_ASSIGN_OR_RETURN(const auto begin, transfer::DecodeMessage<transfer::FileBegin>(frame));
        in_rounds_ = begin.kind != transfer::FileKind::kImage;  // the first round is of files, then memory
      }
      GODWIT_RETURN_IF_ERROR(files_->Take(frame));
      NoteFiles();
      return absl::OkStatus();
  }
}

bool Target::IsArmed() const {
  absl::MutexLock lock(&mutex_);
  return !armed_.empty();
}

// What the files that have come so far allow.
void Target::NoteFiles() {
  absl::MutexLock lock(&mutex_);
  if (!first_frame_.has_value()) first_frame_ = SteadyNow();
  for (const std::string& container : request_.containers) {
    if (files_->HasFile(absl::StrCat(transfer::ContainerPath(container), "/images/", transfer::kDescriptors)))
      armed_.try_emplace(
          container, ContainerState{.images = files_->ImagesFolder(container), .files = FilesOf(container)});
  }
  for (const std::string& container : files_->complete()) {
    if (states_.contains(container)) continue;
    ContainerState state{.images = files_->ImagesFolder(container)};
    state.files = FilesOf(container);
    states_.emplace(container, std::move(state));
  }
}

// The tars of a container, and of the pod's volumes, that are complete.
FilesToApply Target::FilesOf(const std::string& container) const {
  FilesToApply files;
  for (const std::string& tar : files_->rootfs(container))
    files.rootfs.paths.push_back(absl::StrCat(folder_, "/", tar));
  for (const auto& [volume, tars] : files_->volumes()) {
    for (const std::string& tar : tars)
      files.volumes[volume].paths.push_back(absl::StrCat(folder_, "/", tar));
  }
  return files;
}

// The frames that decide. A connection that ends here decides nothing once PREPARED is written; before that
// the source cannot have ceded, and Abort takes its silence for its end.
void Target::ServeVerdict(const std::shared_ptr<transfer::Stream>& stream) {
  const absl::Status end = HearVerdict(stream);
  stream->Shutdown();
  bool open = false;
  {
    absl::MutexLock lock(&mutex_);
    open = LossAborts(stage_, abort_.has_value()) && !stop_;
    if (stream_ == stream) alone_since_ = SteadyNow();
    if (GODWIT_MUTATED("runs-without-commit") && stage_ == TargetStage::kPrepared) commit_ = true;
  }
  if (open)
    (void)Abort(
        "ConnectionLost",
        absl::StrCat("the connection to the source node broke before all was restored: ", end.message()));
}

absl::Status Target::HearVerdict(const std::shared_ptr<transfer::Stream>& stream) {
  transfer::PageReceiver receiver(Stores());  // of this stream's thread
  transfer::Frame frame;                      // its memory is used again and again
  for (;;) {
    const absl::Status received = stream->Receive(frame, After(kLook));
    if (absl::IsDeadlineExceeded(received)) {
      absl::MutexLock lock(&mutex_);
      if (stop_) return absl::CancelledError("the agent ends");
      continue;
    }
    GODWIT_RETURN_IF_ERROR(received);
    bool running = false;
    switch (frame.type) {
      case FrameType::kCommit: {
        absl::MutexLock lock(&mutex_);
        commit_ = true;
        // Also while the permits are being written: whoever hung up before has not heard it.
        running = RunsAlready(stage_, thawed_.has_value());
        break;
      }
      case FrameType::kPages:
        if (absl::Status taken = TakeArriving(frame, receiver); !taken.ok()) {
          LOG(WARNING) << Log("pages were not taken").With("migration", request_.uid).With(taken);
          return taken;
        }
        break;
      case FrameType::kPagesLost: {
        GODWIT_ASSIGN_OR_RETURN(const auto why, transfer::DecodeMessage<transfer::Reason>(frame));
        LosePages(absl::StrCat("the source node cannot give them any more: ", why.message));
        break;
      }
      case FrameType::kAbort: {
        GODWIT_ASSIGN_OR_RETURN(const auto reason, transfer::DecodeMessage<transfer::Reason>(frame));
        if (absl::Status status = Abort(reason.reason, absl::StrCat("the source aborted: ", reason.message));
            !status.ok()) {
          LOG(ERROR)
              << Log("the source aborted what it had ceded").With("migration", request_.uid).With(status);
        }
        break;
      }
      default:
        LOG(WARNING) << Log("unexpected frame")
                            .With("migration", request_.uid)
                            .With("type", FrameTypeName(frame.type));
        return absl::InvalidArgumentError("an unexpected frame");
    }
    if (running) TellRunning(stream);
  }
}

}  // namespace godwit::migration
