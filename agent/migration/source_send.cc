// SPDX-License-Identifier: Apache-2.0
// The source's connection to the target, and what it sends: per container CRIU's images while they are
// written, the writable layer, and with the first container the pod's emptyDirs.
#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/migration/reasons.h"
#include "agent/migration/source.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::GuardReply;
using transfer::FileSender;
using transfer::FrameType;

constexpr absl::Duration kConnectLimit = absl::Seconds(10);
constexpr absl::Duration kTellLimit = absl::Seconds(2);
constexpr absl::Duration kSideLimit = absl::Seconds(2);  // to connect one; it goes without

absl::Time After(absl::Duration duration) { return SteadyNow() + duration; }

}  // namespace

SourceEvent Source::Connect() {
  absl::StatusOr<PodOnNode> pod = node_.find_pod(spec_);
  if (!pod.ok()) return Fail(pod.status(), "PodChanged");
  pod_ = *std::move(pod);
  files_.emplace(pod_, node_.pack, node_.mapped_files);
  transfer::HelloOk answer;
  if (absl::Status status = OpenStream(HelloFor(/*ask=*/false, /*resume=*/false), kConnectLimit, &answer);
      !status.ok())
    return Fail(status, "TargetRefused");
  return SourceEvent::kDone;
}

transfer::Hello Source::HelloFor(bool ask, bool resume) const {
  return {.role = transfer::Role::kMigration,
          .uid = spec_.migration.uid,
          .from_node = node_.node,
          .to_node = spec_.target_node,
          .ask = ask,
          .resume = resume,
          .sides = ask || spec_.mode == agent_api::CopyMode::kStopAndCopy ? 0 : node_.sides};
}

absl::StatusOr<std::unique_ptr<transfer::Stream>> Source::Reach(const transfer::Hello& hello,
                                                                absl::Duration limit,
                                                                transfer::HelloOk* answer) {
  const absl::Time deadline = After(limit);
  GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<transfer::Stream> stream,
                          node_.connect(spec_.target_address, spec_.target_node, deadline));
  GODWIT_RETURN_IF_ERROR(stream->SendMessage(FrameType::kHello, hello, deadline));
  absl::StatusOr<transfer::Frame> frame = stream->Receive(deadline);
  if (!frame.ok()) {
    return Annotate(frame.status(),
                    absl::StrCat("the agent of node ", spec_.target_node,
                                 " did not answer (one that has too many connections hangs up, "
                                 "and its log says so)"));
  }
  if (frame->type == FrameType::kHelloOk) {
    GODWIT_ASSIGN_OR_RETURN(*answer, transfer::DecodeMessage<transfer::HelloOk>(*frame));
    return stream;
  }
  if (frame->type != FrameType::kRefused) {
    return absl::InvalidArgumentError(
        absl::StrCat("the agent of node ", spec_.target_node, " answered with ", FrameTypeName(frame->type)));
  }
  GODWIT_ASSIGN_OR_RETURN(transfer::Reason reason, transfer::DecodeMessage<transfer::Reason>(*frame));
  const std::string message =
      absl::StrCat("the agent of node ", spec_.target_node, " refused: ", reason.message);
  if (reason.reason == "ResourceExhausted") return absl::ResourceExhaustedError(message);
  if (reason.reason == "NotFound") return absl::NotFoundError(message);
  return absl::FailedPreconditionError(message);
}

absl::Status Source::OpenStream(const transfer::Hello& hello, absl::Duration limit,
                                transfer::HelloOk* answer) {
  StopListening();
  absl::StatusOr<std::unique_ptr<transfer::Stream>> reached = Reach(hello, limit, answer);
  if (!reached.ok()) return reached.status();
  std::shared_ptr<transfer::Stream> stream = *std::move(reached);
  OpenSides(*stream, hello, *answer);
  {
    absl::MutexLock lock(&mutex_);
    stream_ = stream;
    heard_ = {};
    const bool copies = stage_ == SourceStage::kConnecting || stage_ == SourceStage::kCopying;
    if (stop_ || (abort_.has_value() && copies)) stream->Shutdown();
  }
  listener_ = std::thread([this, stream] { Listen(stream); });
  return absl::OkStatus();
}

// Without them all goes over the stream itself.
void Source::OpenSides(transfer::Stream& stream, transfer::Hello hello, const transfer::HelloOk& offer) {
  const int64_t wanted = std::min(offer.sides, std::exchange(hello.sides, 0));
  hello.session = offer.session;
  for (hello.side = 1; hello.side <= wanted; ++hello.side) {
    transfer::HelloOk answer;
    absl::StatusOr<std::unique_ptr<transfer::Stream>> side = Reach(hello, kSideLimit, &answer);
    if (!side.ok()) {
      LOG(WARNING) << Log("no (more) side connections")
                          .With("migration", spec_.migration.uid)
                          .With("number", hello.side)
                          .With(side.status());
      return;
    }
    stream.AddSide(*std::move(side));
  }
}

// The listener's thread: notes what the target says, until the stream ends.
void Source::Listen(std::shared_ptr<transfer::Stream> stream) {
  for (;;) {
    absl::StatusOr<transfer::Frame> frame = stream->Receive(absl::InfiniteFuture());
    absl::MutexLock lock(&mutex_);
    if (!frame.ok()) {
      heard_.lost = frame.status();
      // Whoever still sends, over a side perhaps, need not wait until that is noticed there.
      if (stage_ == SourceStage::kCopying || stage_ == SourceStage::kSending) stream->Shutdown();
      return;
    }
    absl::Status status;
    switch (frame->type) {
      case FrameType::kRoundOk: {
        absl::StatusOr<transfer::Round> round = transfer::DecodeMessage<transfer::Round>(*frame);
        status = round.status();
        if (round.ok()) heard_.round = round->number;
        break;
      }
      case FrameType::kMissing:
      case FrameType::kMissingEnd:
      case FrameType::kWanted:
        status = HearMissing(*frame);
        if (!status.ok()) stream->Shutdown();
        break;
      case FrameType::kAtGate: heard_.at_gate = true; break;
      case FrameType::kPrepared: heard_.prepared = true; break;
      case FrameType::kRunning: {
        absl::StatusOr<transfer::Timings> timings = transfer::DecodeMessage<transfer::Timings>(*frame);
        status = timings.status();
        heard_.running =
            timings.value_or(transfer::Timings{});  // that it runs matters more than how long it took
        break;
      }
      case FrameType::kAbort: {
        absl::StatusOr<transfer::Reason> reason = transfer::DecodeMessage<transfer::Reason>(*frame);
        status = reason.status();
        heard_.aborted = reason.value_or(transfer::Reason{"TargetAborted", "the target gave no reason"});
        heard_.aborted->message = absl::StrCat("on the target node: ", heard_.aborted->message);
        // Nothing that is still being dumped or sent is of use.
        if (stage_ == SourceStage::kCopying || stage_ == SourceStage::kSending) stream->Shutdown();
        if (stage_ == SourceStage::kSending && guard_ != nullptr) guard_->Shutdown();
        break;
      }
      default:
        status =
            absl::InvalidArgumentError(absl::StrCat("unexpected ", FrameTypeName(frame->type), " frame"));
        break;
    }
    if (!status.ok())
      LOG(WARNING) << Log("the target said what was not understood")
                          .With("migration", spec_.migration.uid)
                          .With(status);
  }
}

void Source::StopListening() {
  {
    absl::MutexLock lock(&mutex_);
    if (stream_ != nullptr) stream_->Shutdown();
  }
  if (listener_.joinable()) listener_.join();
}

SourceEvent Source::Send() {
  const absl::Time begin = SteadyNow();
  bucket_.SetLimit(0);  // what goes over now is waited for
  absl::Status status = JudgeUnseen();
  for (size_t i = 0; i < pod_.parts.size() && status.ok(); ++i) status = SendContainer(i);
  stream_->EndSides();
  if (absl::IsCancelled(status)) status = LostWhy(status);
  image_memory_.reset();
  {
    absl::MutexLock lock(&mutex_);
    if (pre_copy_ != nullptr) status_.memory_bytes += pre_copy_->totals().sent;
    status_.wire_bytes = stream_->bytes_sent();
    if (status.ok() && node_.sent) {
      node_.sent({.page_bytes = status_.memory_bytes,
                  .image_bytes = image_bytes_,
                  .file_bytes = status_.file_bytes,
                  .wire_bytes = status_.wire_bytes,
                  .took = SteadyNow() - begin});
    }
    if (status.ok() && !abort_.has_value() && !heard_.aborted.has_value()) return SourceEvent::kDone;
  }
  return Fail(status, "DumpFailed");
}

// Of what was cancelled because the connection was lost: that.
absl::Status Source::LostWhy(const absl::Status& cancelled) const {
  absl::MutexLock lock(&mutex_);
  if (heard_.lost.ok()) return cancelled;
  return absl::UnavailableError(
      absl::StrCat("the connection to the target node broke in the freeze: ", heard_.lost.message()));
}

// Two threads beside this one: the guard's dump, and the files; this one sends the last pages, then the
// images that the dump has written.
absl::Status Source::SendContainer(size_t index) {
  const std::string& name = pod_.parts[index].container.name;
  FileSender& sender = *senders_[index];
  sender.SetDeadline(FreezeDeadline() + kTellLimit);
  sender.SendTogether();
  if (pre_copy_ != nullptr) GODWIT_RETURN_IF_ERROR(HideOwned(index));
  if (node_.write_smaps) GODWIT_RETURN_IF_ERROR(WriteSmaps(index));
  const absl::Time begin = SteadyNow();
  transfer::DumpProgress progress;
  std::thread dumping([&] { progress.Finish(DumpContainer(name)); });
  absl::Status files;
  std::thread reading([&] {
    files = SendFiles(index, sender);
    if (!files.ok()) sender.Cancel();
  });
  const absl::Status pages = pre_copy_ == nullptr ? absl::OkStatus() : SendPages(index);
  const std::string folder = absl::StrCat(PlaceOf(name), "/images");
  absl::StatusOr<transfer::ImageTotals> images =
      pages.ok() ? transfer::SendImages(folder, progress, sender) : pages;
  bool hung_up = false;
  if (!images.ok()) {
    sender.Cancel();
    hung_up = !progress.AwaitEnd(absl::ZeroDuration());
    if (hung_up) guard_->Shutdown();  // an orderly end of the dump, and the thaw
  }
  dumping.join();
  reading.join();
  // The likeliest cause of everything else, unless it ended because of that.
  if (!progress.status().ok() && !hung_up) return progress.status();
  if (!files.ok() && !absl::IsCancelled(files)) return files;
  GODWIT_RETURN_IF_ERROR(images.status());
  GODWIT_RETURN_IF_ERROR(files);
  GODWIT_RETURN_IF_ERROR(sender.End());
  AddStep("send", name, begin);
  absl::MutexLock lock(&mutex_);
  status_.memory_bytes += images->page_bytes;
  image_bytes_ += images->other_bytes;
  return absl::OkStatus();
}

// Which pages CRIU is to leave out must be known before its gate is opened.
absl::Status Source::HideOwned(size_t index) {
  const std::string& name = pod_.parts[index].container.name;
  const absl::Time begin = SteadyNow();
  GODWIT_ASSIGN_OR_RETURN(const std::string hidden, pre_copy_->LookOwned(index));
  const std::string path = absl::StrCat(PlaceOf(name), "/hidden");
  // Read at once, on this machine: no need to wait for the disk.
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
  GODWIT_RETURN_IF_ERROR(WriteAll(file.get(), hidden, path));
  AddStep("hide", name, begin);
  return absl::OkStatus();
}

absl::Status Source::WriteSmaps(size_t index) {
  const PodOnNode::Part& part = pod_.parts[index];
  const absl::Time begin = SteadyNow();
  const std::string folder = absl::StrCat(PlaceOf(part.container.name), "/smaps");
  GODWIT_RETURN_IF_ERROR(node_.write_smaps(node_.cgroup_here(part.container.cgroup), folder));
  AddStep("mappings", part.container.name, begin);
  return absl::OkStatus();
}

absl::Status Source::SendPages(size_t index) {
  const absl::Time begin = SteadyNow();
  GODWIT_ASSIGN_OR_RETURN(const int64_t left,
                          pre_copy_->SendLast(index, leave_pages_, FreezeDeadline() + kTellLimit));
  {
    absl::MutexLock lock(&mutex_);
    status_.pull_bytes += left;
  }
  AddStep("pages", pod_.parts[index].container.name, begin);
  // Opened since the last look, it may have been written to meanwhile.
  return pre_copy_->CheckPinned();
}

// The guard's word is the failure's, unless somebody's wish or the target's came before it.
absl::Status Source::Refused(const GuardReply& reply) {
  absl::MutexLock lock(&mutex_);
  if (status_.reason.empty() && !abort_.has_value() && !heard_.aborted.has_value()) {
    status_.reason = reply.reason;
    status_.message = reply.message;
  }
  return absl::InternalError(reply.message);
}

absl::Status Source::DumpContainer(const std::string& container) {
  const absl::Time begin = SteadyNow();
  // A guard that has thawed by itself meanwhile says why.
  const absl::Duration left = std::max(FreezeDeadline() - begin, absl::ZeroDuration());
  const absl::StatusOr<GuardReply> reply = guard_->Dump(container, left + kTellLimit);
  if (!reply.ok()) return Annotate(reply.status(), absl::StrCat("cannot dump container ", container));
  if (!reply->ok) return Refused(*reply);
  AddStep("dump", container, begin);
  return absl::OkStatus();
}

absl::Status Source::SendFiles(size_t index, FileSender& sender) {
  const absl::Time begin = SteadyNow();
  if (index == 0) GODWIT_RETURN_IF_ERROR(files_->Begin(/*last=*/true));
  GODWIT_ASSIGN_OR_RETURN(const FileRounds::Sent sent, files_->Send(index, sender));
  {
    absl::MutexLock lock(&mutex_);
    status_.file_bytes += sent.bytes;
  }
  AddStep("files", pod_.parts[index].container.name, begin);
  return absl::OkStatus();
}

void Source::TellAbortHere() {
  transfer::Reason reason;
  {
    absl::MutexLock lock(&mutex_);
    if (stream_ == nullptr || heard_.aborted.has_value() || !heard_.lost.ok()) return;
    reason = {status_.reason, status_.message};
  }
  target_told_ = stream_->SendMessage(FrameType::kAbort, reason, After(kTellLimit)).ok();
}

// The source runs on; the target should not wait for a verdict that it could have. Best effort: the
// controller tells it too.
void Source::TellAbort() {
  transfer::Reason reason;
  {
    absl::MutexLock lock(&mutex_);
    if (stop_ || target_told_ || heard_.aborted.has_value() || stream_ == nullptr) return;
    reason = {status_.reason, status_.message};
  }
  for (int attempt = 0; attempt < 3; ++attempt) {
    transfer::HelloOk answer;
    absl::StatusOr<std::unique_ptr<transfer::Stream>> stream =
        Reach(HelloFor(/*ask=*/true, /*resume=*/false), kTellLimit, &answer);
    if (stream.ok()) {
      if (!TellsAbort(answer.state)) return;
      if ((*stream)->SendMessage(FrameType::kAbort, reason, After(kTellLimit)).ok()) {
        (void)(*stream)->Receive(After(kTellLimit));  // its own ABORT, or the end
        return;
      }
    }
    if (Pause(absl::Seconds(1))) return;
  }
}

}  // namespace godwit::migration
