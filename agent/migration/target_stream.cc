// SPDX-License-Identifier: Apache-2.0
// The target's end of the source's streams: the first brings files, later ones only ask and decide.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/migration/reasons.h"
#include "agent/migration/target.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::TargetState;
using transfer::FrameType;

constexpr absl::Duration kAnswerLimit = absl::Seconds(5);
constexpr absl::Duration kLook = absl::Milliseconds(500);
constexpr absl::Duration kDrainLimit = absl::Seconds(2);
constexpr int64_t kReserve = int64_t{64} << 20;  // left free on the disk for everybody else

absl::Time After(absl::Duration duration) { return absl::Now() + duration; }

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
  transfer::HelloOk answer;
  bool files = false;
  bool refused = false;
  {
    absl::MutexLock lock(&mutex_);
    answer.state = StateOf(stage_);
    if (stage_ == TargetStage::kAborted) {
      answer.reason = abort_->reason;
      answer.message = abort_->message;
    }
    files = !hello.ask;
    refused = files && (files_came_ || stage_ != TargetStage::kRestoring || abort_.has_value());
    if (!refused) {
      files_came_ = files_came_ || files;
      stream_ = stream;
    }
  }
  if (refused) {
    (void)Refuse(*stream, "FailedPrecondition",
                 absl::StrCat("migration ", request_.uid, " takes no (more) state on this node: it is ",
                              json::Name(answer.state)));
    return;
  }
  if (files) {
    if (absl::Status status = ServeFiles(*stream); !status.ok()) {
      if (node_.stream_failed) node_.stream_failed(status);
      LOG(WARNING) << Log("the source's stream ended").With("migration", request_.uid).With(status);
      (void)Abort(ReasonOf(status, "StreamFailed"),
                  absl::StrCat("while receiving from node ", stream->peer_node(), ": ", status.message()));
      // The source reads why before the connection goes: what it still sends is taken and dropped.
      for (const absl::Time deadline = After(kDrainLimit); stream->Receive(deadline).ok();) continue;
    }
    return;
  }
  if (stream->SendMessage(FrameType::kHelloOk, answer, After(kAnswerLimit)).ok()) ServeVerdict(*stream);
}

absl::StatusOr<transfer::ReceiveRules> Target::Rules() const {
  GODWIT_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(folder_));
  if (free <= kReserve) return absl::ResourceExhaustedError(absl::StrCat("no room for images in ", folder_));
  return transfer::ReceiveRules{
      .folder = folder_,
      .containers = request_.containers,
      .kinds = {transfer::FileKind::kImage, transfer::FileKind::kRootfs, transfer::FileKind::kVolume},
      .max_bytes = free - kReserve};
}

absl::Status Target::ServeFiles(transfer::Stream& stream) {
  absl::StatusOr<transfer::ReceiveRules> rules = Rules();
  if (!rules.ok())
    return Refuse(stream, ReasonOf(rules.status(), "StorageFailed"), std::string(rules.status().message()));
  transfer::FileReceiver receiver(*std::move(rules));
  GODWIT_RETURN_IF_ERROR(
      stream.SendMessage(FrameType::kHelloOk, transfer::HelloOk{TargetState::kOpen}, After(kAnswerLimit)));
  while (receiver.complete().size() < request_.containers.size()) {
    absl::StatusOr<transfer::Frame> frame = stream.Receive(After(kLook));
    if (absl::IsDeadlineExceeded(frame.status())) {
      absl::MutexLock lock(&mutex_);
      if (Interrupted()) return absl::AbortedError(stop_ ? "the agent ends" : abort_->message);
      continue;  // the dump's limit is the source's; TCP tells of a dead peer
    }
    if (!frame.ok()) return frame.status();
    if (frame->type == FrameType::kAbort) {
      GODWIT_ASSIGN_OR_RETURN(transfer::Reason reason, transfer::DecodeMessage<transfer::Reason>(*frame));
      return Abort(reason.reason, absl::StrCat("the source aborted: ", reason.message));
    }
    GODWIT_RETURN_IF_ERROR(TakeFileFrame(*frame, receiver));
  }
  if (node_.received) node_.received(receiver.totals(), stream.bytes_received());
  ServeVerdict(stream);
  return absl::OkStatus();
}

absl::Status Target::TakeFileFrame(const transfer::Frame& frame, transfer::FileReceiver& receiver) {
  const size_t complete = receiver.complete().size();
  GODWIT_RETURN_IF_ERROR(receiver.Take(frame));
  absl::MutexLock lock(&mutex_);
  if (!first_frame_.has_value()) first_frame_ = absl::Now();
  if (receiver.complete().size() == complete) return absl::OkStatus();
  for (const std::string& container : receiver.complete()) {
    if (states_.contains(container)) continue;
    ContainerState state{.images = absl::StrCat(folder_, "/", container, "/images")};
    const std::string rootfs = absl::StrCat(container, "/rootfs.tar");
    if (receiver.HasFile(rootfs)) state.files.rootfs_tar = absl::StrCat(folder_, "/", rootfs);
    for (const std::string& volume : receiver.volumes()) {
      state.files.volumes[volume] = absl::StrCat(folder_, "/volumes/", volume, ".tar");
    }
    states_.emplace(container, std::move(state));
  }
  return absl::OkStatus();
}

// The frames that decide. A connection that ends here decides nothing once PREPARED is written; before that
// the source cannot have ceded, and Abort takes its silence for its end.
void Target::ServeVerdict(transfer::Stream& stream) {
  for (;;) {
    absl::StatusOr<transfer::Frame> frame = stream.Receive(After(kLook));
    if (absl::IsDeadlineExceeded(frame.status())) {
      absl::MutexLock lock(&mutex_);
      if (stop_) return;
      continue;
    }
    if (!frame.ok()) {
      bool open = false;
      {
        absl::MutexLock lock(&mutex_);
        open = stage_ == TargetStage::kRestoring && !abort_.has_value() && !stop_;
      }
      if (open)
        (void)Abort("ConnectionLost",
                    absl::StrCat("the connection to the source node broke before all was restored: ",
                                 frame.status().message()));
      return;
    }
    bool running = false;
    switch (frame->type) {
      case FrameType::kCommit: {
        absl::MutexLock lock(&mutex_);
        commit_ = true;
        running = stage_ == TargetStage::kRunning;
        break;
      }
      case FrameType::kAbort: {
        absl::StatusOr<transfer::Reason> reason = transfer::DecodeMessage<transfer::Reason>(*frame);
        if (!reason.ok()) return;
        if (absl::Status status =
                Abort(reason->reason, absl::StrCat("the source aborted: ", reason->message));
            !status.ok()) {
          LOG(ERROR)
              << Log("the source aborted what it had ceded").With("migration", request_.uid).With(status);
        }
        break;
      }
      default:
        LOG(WARNING) << Log("unexpected frame")
                            .With("migration", request_.uid)
                            .With("type", FrameTypeName(frame->type));
        return;
    }
    if (running) TellRunning(stream);
  }
}

}  // namespace godwit::migration
