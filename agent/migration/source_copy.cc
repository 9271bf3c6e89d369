// SPDX-License-Identifier: Apache-2.0
// What the source does while its pod runs: the rounds of a pre-copy, until the target waits and the freeze
// will be short enough; then the guard is started and armed.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/migration/reasons.h"
#include "agent/migration/source.h"
#include "agent/permits/source_hold.h"
#include "agent/runtime/cgroup.h"
#include "agent/transfer/container_path.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::CopyMode;
using agent_api::GuardReply;
using transfer::FrameType;

constexpr absl::Duration kResumeLimit = absl::Seconds(30);  // for a cut connection to come back
constexpr absl::Duration kResumePause = absl::Milliseconds(500);
constexpr absl::Duration kConnectLimit = absl::Seconds(5);
// With all at its gate: rounds that only make the freeze shorter than it has to be. They take less than a
// second together, but where a large process has come meanwhile: kLatestFreeze ends that.
constexpr int kMostShorteningRounds = 8;
// Of one round's frames; a dead peer is noticed by TCP long before, one that takes nothing by the stream.
constexpr absl::Duration kRoundLimit = absl::Hours(2);
constexpr absl::Duration kRoundOkLimit = absl::Minutes(2);  // from its last byte
constexpr absl::Duration kFillingLimit = absl::Seconds(60);
constexpr absl::Duration kFillingLook = absl::Milliseconds(100);
// What kubelet, the container runtime, runc and CRIU do of a start goes on for a while after CRIU has come to
// its gate; a freeze that began at once would share its processors with that.
constexpr absl::Duration kSettling = absl::Milliseconds(300);
constexpr absl::Duration kGateLimit = absl::Seconds(40);  // for the target's restore, which has 30 s for it

// Nothing is frozen that kubelet would not let start.
absl::Status TooLate(std::optional<absl::Duration> switching) {
  return absl::DeadlineExceededError(absl::StrCat(
      "the target pod's start has waited for ",
      absl::FormatDuration(absl::Trunc(switching.value_or(absl::ZeroDuration()), absl::Seconds(1))),
      " already, and kubelet ends it after two minutes: more than ", absl::FormatDuration(kLatestFreeze),
      " leave too little for the freeze, so that it was not begun. Its last files and pages took that long: "
      "a slow link, a busy node, or a pod that writes much; try again when that is over"));
}

}  // namespace

SourceEvent Source::Copy() {
  MakeSenders();
  absl::Status status = AwaitFilled();
  if (status.ok()) status = spec_.mode == CopyMode::kStopAndCopy ? ComeToGates() : CopyInRounds();
  if (status.ok()) status = StillWanted();
  return status.ok() ? SourceEvent::kDone : Fail(status, "CopyFailed");
}

// OK while nobody wants an end and the connection is there.
absl::Status Source::StillWanted() {
  absl::MutexLock lock(&mutex_);
  if (stop_) return absl::CancelledError("the agent ends");
  if (abort_.has_value()) return absl::AbortedError(abort_->message);
  if (heard_.aborted.has_value()) return absl::AbortedError(heard_.aborted->message);
  if (heard_.lost.ok()) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the connection to the target node broke before the freeze: ", heard_.lost.message()));
}

// A pod that came here a moment ago: what its pager has not filled yet can be neither tracked nor dumped.
absl::Status Source::AwaitFilled() {
  std::vector<std::string> ids;
  for (const PodOnNode::Part& part : pod_.parts) ids.push_back(part.container.id);
  for (const absl::Time deadline = SteadyNow() + kFillingLimit; node_.filling && node_.filling(ids);) {
    GODWIT_RETURN_IF_ERROR(StillWanted());
    {
      absl::MutexLock lock(&mutex_);
      hint_ = "waiting until the pod's memory is filled after its last move";
    }
    if (Pause(kFillingLook)) return absl::CancelledError("the agent ends");
    if (SteadyNow() > deadline) {
      FailBecause("MemoryNotFilled", "the pod's memory is still being filled after its last move");
      return absl::UnavailableError("the pod's memory is not filled yet");
    }
  }
  return absl::OkStatus();
}

std::optional<absl::Duration> Source::Switching() const {
  absl::MutexLock lock(&mutex_);
  if (!switched_at_.has_value()) return std::nullopt;
  return SteadyNow() - *switched_at_;
}

void Source::AwaitSwitch(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  auto word = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || switch_ || abort_.has_value() || heard_.aborted.has_value() || !heard_.lost.ok();
  };
  mutex_.AwaitWithTimeout(absl::Condition(&word), limit);
}

absl::Status Source::CopyInRounds() {
  std::vector<PreCopy::Container> containers;
  for (const PodOnNode::Part& part : pod_.parts)
    containers.push_back({part.container.name, node_.cgroup_here(part.container.cgroup)});
  auto pre_copy = std::make_unique<PreCopy>(std::move(containers), node_.memory, &bucket_);
  if (absl::Status attached = pre_copy->Attach();
      absl::IsFailedPrecondition(attached) || absl::IsDeadlineExceeded(attached)) {
    LOG(WARNING) << Log("memory is not pre-copied").With("migration", spec_.migration.uid).With(attached);
    {
      absl::MutexLock lock(&mutex_);
      status_.pre_copy.fallback = std::string(attached.message());
      status_.pre_copy.converged = true;
    }
    GODWIT_RETURN_IF_ERROR(SendFileRound());
    while (!Switching().has_value()) {
      GODWIT_RETURN_IF_ERROR(StillWanted());
      AwaitSwitch(absl::Seconds(1));
    }
    GODWIT_RETURN_IF_ERROR(SendFileRound());
    GODWIT_RETURN_IF_ERROR(ComeToGates());
    return IsTooLate(Switching()) ? TooLate(Switching()) : absl::OkStatus();
  } else if (!attached.ok()) {
    return attached;
  }
  pre_copy_ = std::move(pre_copy);
  pre_copy_->SetStream(stream_.get());

  const absl::Time begin = SteadyNow();
  bool armed = false;
  int shortening = 0;
  const bool pulled = spec_.mode == CopyMode::kPostCopy;
  Convergence convergence(spec_.limits, {}, pulled);
  for (int64_t number = 1;; ++number) {
    // Before the look: what is written between it and the freeze has to go over in the freeze.
    convergence.SetFixed(pre_copy_->Fixed());
    absl::StatusOr<RoundFigures> round = SendRound(number, /*nice=*/!armed);
    if (!round.ok()) {
      GODWIT_RETURN_IF_ERROR(AfterCut(round.status(), /*resumable=*/!armed));
      continue;
    }
    convergence.Add(*round);
    bool pull_when_not = false;
    {
      absl::MutexLock lock(&mutex_);
      convergence.SetLimits(limits_);
      pull_when_not = limits_.when_not_converging == agent_api::WhenNotConverging::kPostCopy;
    }
    AwaitSwitch(absl::ZeroDuration());
    const Convergence::Verdict verdict = convergence.Decide(SteadyNow() - begin, Switching());
    TellProgress(convergence, *round, number, verdict);
    switch (verdict) {
      case Convergence::Verdict::kCopyOn: continue;
      case Convergence::Verdict::kGiveUp: return NotConverging(convergence, number);
      case Convergence::Verdict::kTooLate: return TooLate(Switching());
      case Convergence::Verdict::kFreeze:
      case Convergence::Verdict::kInsist: break;
    }
    if (!Switching().has_value()) {
      AwaitSwitch(std::max(kShortestPause, kPauseFactor * round->took));
      continue;
    }
    leave_pages_ =
        pulled || (pull_when_not && verdict == Convergence::Verdict::kInsist && convergence.PullingPays());
    if (armed) {
      const bool shorter = verdict == Convergence::Verdict::kFreeze && convergence.AnotherRoundPays();
      // A process that came after the look would go over whole in the freeze.
      const bool unseen = !leave_pages_ && convergence.IsWorthARound(pre_copy_->FindUnseen().bytes);
      if ((shorter || unseen) && shortening++ < kMostShorteningRounds) continue;
      convergence_.emplace(convergence);
      return absl::OkStatus();
    }
    if (absl::Status sent = SendFileRound(); !sent.ok()) {
      GODWIT_RETURN_IF_ERROR(AfterCut(sent, /*resumable=*/true));
      continue;
    }
    GODWIT_RETURN_IF_ERROR(ComeToGates());
    armed = true;  // what was written meanwhile goes in one more round
  }
}

absl::Status Source::AfterCut(const absl::Status& failed, bool resumable) {
  const absl::Status wanted = StillWanted();
  // Whoever notices first: who sends, or who listens.
  const bool cut = absl::IsUnavailable(wanted) || (wanted.ok() && stream_->down());
  if (cut && resumable) return Reconnect();
  return wanted.ok() ? failed : wanted;
}

// The pod stands still, and nothing was dumped.
absl::Status Source::JudgeUnseen() {
  if (!convergence_.has_value()) return absl::OkStatus();
  const PreCopy::Unseen unseen = pre_copy_->FindUnseen();
  if (unseen.bytes == 0) return absl::OkStatus();
  switch (convergence_->JudgeUnseen(unseen.bytes, spec_.freeze_limit)) {
    case Convergence::Surprise::kSend: return absl::OkStatus();
    case Convergence::Surprise::kLeave: leave_pages_ = true; return absl::OkStatus();
    case Convergence::Surprise::kGiveUp: break;
  }
  const std::string message = absl::StrCat(
      unseen.which, " came after the last round, so that ", unseen.bytes >> 20,
      " MiB would have gone over while the pod stood still: more than spec.freezeBudget, or than a freeze "
      "may "
      "take. It goes on; try again when the process has ended (one that writes a snapshot, perhaps)");
  FailBecause("NotConverging", message);
  return absl::AbortedError(message);
}

absl::Status Source::NotConverging(const Convergence& convergence, int64_t rounds) {
  const int64_t mebibytes = convergence.criu_bytes() >> 20;
  const std::string criu =
      mebibytes == 0 ? ""
                     : absl::StrCat("; ", mebibytes,
                                    " MiB (locked memory, memfds, SysV segments, written mappings of files) "
                                    "are copied in the freeze alone, by CRIU");
  const std::string message =
      absl::StrCat("after ", rounds, " rounds the freeze is predicted at ",
                   absl::FormatDuration(absl::Trunc(convergence.PredictedFreeze(), absl::Milliseconds(1))),
                   ", more than spec.freezeBudget; the pod writes ", convergence.dirty_rate() >> 20,
                   " MiB/s and the link takes ", convergence.throughput() >> 20, " MiB/s", criu,
                   ". A larger freezeBudget, or whenNotConverging: Freeze or PostCopy, would let it move");
  FailBecause("NotConverging", message);
  return absl::AbortedError(message);
}

absl::StatusOr<RoundFigures> Source::SendRound(int64_t number, bool nice) {
  const absl::Time begin = SteadyNow();
  if (files_->rounds() == 0) GODWIT_RETURN_IF_ERROR(SendFileRound());
  GODWIT_ASSIGN_OR_RETURN(RoundFigures round, pre_copy_->Round(nice, begin + kRoundLimit));
  GODWIT_RETURN_IF_ERROR(
      stream_->SendMessage(FrameType::kRoundEnd, transfer::Round{number}, begin + kRoundLimit));
  {
    absl::MutexLock lock(&mutex_);
    auto arrived = [this, number]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stop_ || abort_.has_value() || heard_.aborted.has_value() || !heard_.lost.ok() ||
             heard_.round >= number;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&arrived), kRoundOkLimit);
    if (heard_.round < number)
      return absl::UnavailableError(absl::StrCat("round ", number, " was not acknowledged within ",
                                                 absl::FormatDuration(kRoundOkLimit)));
  }
  pre_copy_->Acknowledge();
  round.took = SteadyNow() - begin;
  return round;
}

void Source::MakeSenders() {
  senders_.clear();
  for (const PodOnNode::Part& part : pod_.parts) {
    senders_.push_back(std::make_unique<transfer::FileSender>(*stream_, part.container.name,
                                                              SteadyNow() + kRoundLimit, &bucket_));
  }
}

// Writable layers and emptyDirs: whole at first, then what has changed.
absl::Status Source::SendFileRound() {
  if (first_frame_ == absl::InfiniteFuture()) first_frame_ = SteadyNow();
  GODWIT_RETURN_IF_ERROR(files_->Begin(/*last=*/false));
  for (size_t i = 0; i < senders_.size(); ++i) {
    GODWIT_ASSIGN_OR_RETURN(const FileRounds::Sent sent, files_->Send(i, *senders_[i]));
    absl::MutexLock lock(&mutex_);
    status_.file_bytes += sent.bytes;
  }
  return absl::OkStatus();
}

// Until dump and restore wait for nothing but the freeze, and what led there has come to rest. What the pod
// writes meanwhile is not sent.
absl::Status Source::ComeToGates() {
  GODWIT_RETURN_IF_ERROR(Arm());
  absl::MutexLock lock(&mutex_);
  auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || abort_.has_value() || heard_.aborted.has_value() || !heard_.lost.ok();
  };
  auto word = [&over, this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return over() || heard_.at_gate; };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&word), kGateLimit)) {
    return absl::DeadlineExceededError(absl::StrCat(
        "the target did not come to the gate of its restore within ", absl::FormatDuration(kGateLimit)));
  }
  mutex_.AwaitWithTimeout(absl::Condition(&over), kSettling);
  return absl::OkStatus();
}

// The connection was cut in a round: nothing is lost but time, if it comes back.
absl::Status Source::Reconnect() {
  absl::Status status;
  for (const absl::Time deadline = SteadyNow() + kResumeLimit; SteadyNow() < deadline;) {
    transfer::HelloOk answer;
    status = OpenStream(HelloFor(/*ask=*/false, /*resume=*/true), kConnectLimit, &answer);
    if (status.ok() && answer.state == agent_api::TargetState::kAborted) {
      FailBecause(answer.reason, absl::StrCat("on the target node: ", answer.message));
      return absl::AbortedError(answer.message);
    }
    if (status.ok()) {
      LOG(INFO) << Log("the connection is back").With("migration", spec_.migration.uid);
      pre_copy_->SetStream(stream_.get());
      files_.emplace(pod_, node_.pack, node_.mapped_files);
      MakeSenders();
      return absl::OkStatus();
    }
    if (absl::IsFailedPrecondition(status) || absl::IsNotFound(status)) return status;  // it refused
    {
      absl::MutexLock lock(&mutex_);
      hint_ = absl::StrCat("the connection to the target node was cut; trying again: ", status.message());
      if (stop_ || abort_.has_value()) return absl::AbortedError(abort_.has_value() ? abort_->message : "");
    }
    if (Pause(kResumePause)) return absl::CancelledError("the agent ends");
  }
  return absl::UnavailableError(
      absl::StrCat("the connection to the target node was cut and did not come back within ",
                   absl::FormatDuration(kResumeLimit), ": ", status.message()));
}

void Source::TellProgress(const Convergence& convergence, const RoundFigures& round, int64_t number,
                          Convergence::Verdict verdict) {
  const transfer::PageTotals& totals = pre_copy_->totals();
  absl::MutexLock lock(&mutex_);
  agent_api::PreCopyProgress& progress = status_.pre_copy;
  const agent_api::PreCopyProgress before = progress;
  progress.rounds = number;
  progress.memory_bytes = round.memory_bytes;
  progress.dirty_bytes = round.dirty_bytes;
  progress.dirty_rate = convergence.dirty_rate();
  progress.throughput = convergence.throughput();
  progress.sent_bytes = totals.sent;
  progress.zero_bytes = totals.zero;
  progress.unchanged_bytes = totals.unchanged;
  const absl::Duration predicted = convergence.PredictedFreeze();
  progress.predicted_freeze = predicted == absl::InfiniteDuration() ? absl::ZeroDuration() : predicted;
  progress.converged = convergence.Fits();
  progress.gave_up = verdict == Convergence::Verdict::kInsist;
  if (node_.round) node_.round(before, progress);
}

std::string Source::PlaceOf(const std::string& container) const {
  return absl::StrCat(image_memory_.has_value() ? image_memory_->path() : folder_, "/",
                      transfer::ContainerPath(container));
}

// Started here and not at the beginning: a pre-copy may take minutes, and containers start anew meanwhile.
absl::Status Source::StartGuard() {
  // Nobody dumps, or reads the images, once this agent has ended: a guard that follows ends what was begun.
  // Shared memory that was carried is reached from the images' folder by way of the host's root
  // (runtime/preload/shared.cc), to which no way leads out of a folder that is mounted nowhere.
  if (pre_copy_ != nullptr && !pre_copy_->carries_shared() && node_.image_memory) {
    if (const auto bytes = pre_copy_->criu_bytes()) image_memory_ = node_.image_memory(*bytes);
  }
  agent_api::GuardSpec guard{.migration_uid = spec_.migration.uid,
                             .socket = absl::StrCat(folder_, "/guard.sock"),
                             .journal = absl::StrCat(folder_, "/journal"),
                             .log = absl::StrCat(folder_, "/guard.log"),
                             .runtime = node_.runtime,
                             .criu_folder = node_.criu_folder,
                             .freeze_limit = spec_.freeze_limit,
                             .addresses = spec_.pod_addresses};
  for (const PodOnNode::Part& part : pod_.parts) {
    const std::string folder = PlaceOf(part.container.name);
    const std::string work =
        absl::StrCat(folder_, "/", transfer::ContainerPath(part.container.name), "/work");
    GODWIT_RETURN_IF_ERROR(MakeFolders(absl::StrCat(folder, "/images"), 0700));
    GODWIT_RETURN_IF_ERROR(MakeFolders(work, 0700));
    guard.containers.push_back({.name = part.container.name,
                                .id = part.container.id,
                                .cgroup = part.container.cgroup,
                                .runc_root = part.container.runtime_root,
                                .init_pid = part.container.init_pid,
                                .root_device = part.container.root_device,
                                .place = part.container.place,
                                .images = absl::StrCat(folder, "/images"),
                                .work = work,
                                .hidden = pre_copy_ == nullptr ? "" : absl::StrCat(folder, "/hidden"),
                                .smaps = node_.write_smaps ? absl::StrCat(folder, "/smaps") : ""});
  }
  if (!pod_.parts.empty()) {
    const runtime::Container& first = pod_.parts.front().container;
    if (node_.check_addresses) GODWIT_RETURN_IF_ERROR(node_.check_addresses(first, guard.addresses));
    // Whatever runtime would start them: godwit-runtime looks at the hold below, runc at nothing.
    guard.pod_cgroup = runtime::PodCgroup(first.cgroup, spec_.pod.uid);
    if (guard.pod_cgroup.empty()) {
      LOG(WARNING)
          << Log("the pod has no cgroup of its own: kubelet is not kept from starting it again once it "
                 "was handed over")
                 .With("migration", spec_.migration.uid)
                 .With("cgroup", first.cgroup);
    }
  }
  guard_spec_ = guard;
  if (!node_.holds.empty()) {
    GODWIT_RETURN_IF_ERROR(permits::WriteSourceHold(
        node_.holds, spec_.pod.uid,
        {.migration_uid = spec_.migration.uid, .target_node = spec_.target_node, .journal = guard.journal}));
  }
  GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<Guard> started, node_.guards.start(guard));
  absl::MutexLock lock(&mutex_);
  guard_ = std::move(started);
  return absl::OkStatus();
}

// All that can be done before the freeze: runc and CRIU stand at their gates, and the target has what it
// needs to do the same.
absl::Status Source::Arm() {
  if (absl::Status status = StartGuard(); !status.ok()) return Annotate(status, "cannot start the guard");
  const absl::StatusOr<GuardReply> reply = guard_->Arm();
  if (!reply.ok()) return reply.status();
  if (!reply->ok) return Refused(*reply);
  GODWIT_FAILPOINT("source.armed", spec_.migration.uid);
  if (first_frame_ == absl::InfiniteFuture()) first_frame_ = SteadyNow();
  for (size_t i = 0; i < senders_.size(); ++i) {
    if (image_memory_.has_value()) senders_[i]->KeepImagesInMemory();
    const std::string images = absl::StrCat(PlaceOf(pod_.parts[i].container.name), "/images");
    GODWIT_RETURN_IF_ERROR(transfer::SendImage(images, transfer::kDescriptors, *senders_[i]));
  }
  return absl::OkStatus();
}

}  // namespace godwit::migration
