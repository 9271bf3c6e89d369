// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/source.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/journal/journal.h"
#include "agent/migration/decisions.h"
#include "agent/migration/reasons.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::GuardReply;
using agent_api::SourceState;
using transfer::FrameType;

constexpr absl::Duration kLook = absl::Milliseconds(100);
constexpr absl::Duration kPingEvery = absl::Seconds(1);
constexpr absl::Duration kTellLimit = absl::Seconds(2);
constexpr absl::Duration kReachLimit = absl::Seconds(5);
constexpr absl::Duration kRunningLimit = absl::Seconds(30);
constexpr absl::Duration kGuardThawLimit = absl::Seconds(8);  // the guard's own are 5 s

absl::Time After(absl::Duration duration) { return SteadyNow() + duration; }

// What the journal says last.
SourceState LastOf(const absl::StatusOr<std::vector<journal::SourceRecord>>& records, std::string* reason,
                   std::string* message) {
  if (absl::IsNotFound(records.status())) return SourceState::kNone;  // cut off before its first record
  if (!records.ok()) return SourceState::kFrozen;  // whatever it says, nothing may be concluded
  if (records->empty()) return SourceState::kNone;
  *reason = records->back().reason;
  *message = records->back().message;
  return records->back().state;
}

std::optional<GuardWord> WordOf(const absl::StatusOr<GuardReply>& reply) {
  if (!reply.ok() || reply->reason == "Busy") return std::nullopt;  // busy: with what was asked before
  return GuardWord{reply->ok, reply->state};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> Source::Start(agent_api::SourceSpec spec, std::string folder,
                                                      SourceNode node) {
  GODWIT_RETURN_IF_ERROR(WriteFileDurably(absl::StrCat(folder, "/spec.json"), json::Encode(spec)));
  {
    GODWIT_ASSIGN_OR_RETURN(auto journal, journal::SourceJournal::Open(absl::StrCat(folder, "/journal")));
    GODWIT_RETURN_IF_ERROR(journal.Append({.state = SourceState::kOpen}));
  }  // closed: from here on it is the guard's
  std::unique_ptr<Source> source(new Source(std::move(spec), std::move(folder), std::move(node)));
  source->thread_ = std::thread([raw = source.get()] { raw->Run(); });
  return source;
}

absl::StatusOr<std::unique_ptr<Source>> Source::Recover(std::string folder, SourceNode node) {
  GODWIT_ASSIGN_OR_RETURN(std::string text, ReadFile(absl::StrCat(folder, "/spec.json")));
  GODWIT_ASSIGN_OR_RETURN(agent_api::SourceSpec spec, json::Decode<agent_api::SourceSpec>(text));
  std::unique_ptr<Source> source(new Source(std::move(spec), std::move(folder), std::move(node)));
  if (const auto guard = ReadFile(absl::StrCat(source->folder_, "/guard.json")); guard.ok()) {
    GODWIT_ASSIGN_OR_RETURN(source->guard_spec_, json::Decode<agent_api::GuardSpec>(*guard));
  }
  std::string reason;
  std::string message;
  const auto records = source->Records();
  const SourceState state = LastOf(records, &reason, &message);
  {
    absl::MutexLock lock(&source->mutex_);
    bool ceded = false;
    if (records.ok()) {
      for (const journal::SourceRecord& record : *records) {
        if (record.state == SourceState::kFrozen)
          source->freeze_begin_ = source->status_.frozen_at = record.time;
        ceded = ceded || record.state == SourceState::kCeded;
      }
    }
    // Read, not looked for: in a side of the release before it may be the folder of a container called so.
    const bool thawed = ReadFile(absl::StrCat(source->folder_, "/thawed")).ok();
    source->stage_ = RecoveredStage(state, ceded, thawed);
    source->status_.target_running = source->stage_ == SourceStage::kDone;
    if (source->stage_ == SourceStage::kAborting) {
      reason = "AgentRestarted";
      message = "the source node's agent was restarted before the decision; the pod goes on where it was";
    }
    source->status_.reason = reason;
    source->status_.message = message;
  }
  LOG(INFO) << Log("took up a source")
                   .With("migration", source->spec_.migration.uid)
                   .With("state", json::Name(state));
  source->thread_ = std::thread([raw = source.get()] { raw->Run(); });
  return source;
}

Source::~Source() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    if (stream_ != nullptr) stream_->Shutdown();
    if (guard_ != nullptr) guard_->Shutdown();
  }
  if (thread_.joinable()) thread_.join();
  StopListening();
}

// --- what is asked from outside
// ------------------------------------------------------------------------------------

agent_api::SourceStatus Source::status() const {
  absl::MutexLock lock(&mutex_);
  agent_api::SourceStatus status = status_;
  status.state = StateOf(stage_);
  if (status.state == SourceState::kFrozen && freeze_end_.has_value())
    status.state = SourceState::kAborted;  // thawed; the target is being told
  if (status.state == SourceState::kFrozen && !freeze_begin_.has_value()) status.state = SourceState::kOpen;
  if (freeze_end_.has_value()) {
    status.freeze = *freeze_end_;
  } else if (freeze_begin_.has_value()) {
    status.freeze = SteadyNow() - *freeze_begin_;
  }
  if (status.message.empty()) status.message = hint_;
  status.serving = serves_;
  if (spec_.mode != agent_api::CopyMode::kStopAndCopy) {
    status.switching = switch_;
    status.limits = limits_;
  }
  return status;
}

bool Source::final() const {
  absl::MutexLock lock(&mutex_);
  return IsFinal(stage_);
}

// `what` is too late, or makes no sense, unless the source still copies.
absl::Status Source::CheckCopies(absl::string_view what) const {
  if (spec_.mode != agent_api::CopyMode::kStopAndCopy && StateOf(stage_) == SourceState::kOpen)
    return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("migration ", spec_.migration.uid, ": ", what,
                   " is for a source that copies in rounds; this one is of mode ", json::Name(spec_.mode),
                   " and is ", NameOf(stage_)));
}

absl::Status Source::Switch() {
  absl::MutexLock lock(&mutex_);
  if (switch_) return absl::OkStatus();
  absl::Status copies = CheckCopies("the order to switch");
  switch_ = copies.ok();
  if (switch_) switched_at_ = SteadyNow();
  return copies;
}

absl::Status Source::SetLimits(const agent_api::PreCopyLimits& limits) {
  absl::MutexLock lock(&mutex_);
  absl::Status copies = CheckCopies("a change of limits");
  if (!copies.ok()) return copies;
  limits_ = limits;
  bucket_.SetLimit(limits.bandwidth_limit);
  return absl::OkStatus();
}

absl::Status Source::Abort(const std::string& reason, const std::string& message) {
  absl::MutexLock lock(&mutex_);
  switch (AbortIn(stage_)) {
    case AbortAnswer::kNoted: break;
    case AbortAnswer::kAlready: return absl::OkStatus();
    case AbortAnswer::kTooLate:
      return absl::FailedPreconditionError(absl::StrCat("migration ", spec_.migration.uid,
                                                        " is decided: the source has ceded (", NameOf(stage_),
                                                        "); too late to abort"));
  }
  if (!abort_.has_value()) abort_ = {reason, message};
  // Whoever sends or dumps is woken; the guard thaws by itself when its agent hangs up.
  const bool sends = stage_ == SourceStage::kCopying || stage_ == SourceStage::kSending;
  if (sends && stream_ != nullptr) stream_->Shutdown();
  if (stage_ == SourceStage::kSending && guard_ != nullptr) guard_->Shutdown();
  return absl::OkStatus();
}

absl::Status Source::Reclaim(const std::string& reason, const std::string& message) {
  absl::MutexLock lock(&mutex_);
  if (stage_ == SourceStage::kTakingBack || stage_ == SourceStage::kAborted) return absl::OkStatus();
  if (!MayBeReclaimed(stage_, status_.target_running)) {
    return absl::FailedPreconditionError(
        absl::StrCat("migration ", spec_.migration.uid,
                     ": only a source that waits for its target's word is reclaimed; now: ", NameOf(stage_)));
  }
  reclaim_ = {reason, message};
  if (stream_ != nullptr) stream_->Shutdown();  // it asks once more
  return absl::OkStatus();
}

absl::Status Source::Finish(absl::Duration limit, const agent_api::FinishRequest& request) {
  absl::MutexLock lock(&mutex_);
  if (stage_ == SourceStage::kDone) return absl::OkStatus();
  const bool ceded = StateOf(stage_) == SourceState::kCeded;
  if (ceded && request.unconfirmed && stage_ != SourceStage::kTakingBack) {
    status_.target_running = true;
    if (freeze_begin_.has_value() && !freeze_end_.has_value()) freeze_end_ = SteadyNow() - *freeze_begin_;
    if (stage_ == SourceStage::kCommitting && stream_ != nullptr) stream_->Shutdown();
  }
  abandon_ = abandon_ || ((request.abandon || request.unconfirmed) && ceded && status_.target_running);
  if (!MayBeKilled(stage_, status_.target_running, serves_, abandon_)) {
    return absl::FailedPreconditionError(
        absl::StrCat("migration ", spec_.migration.uid,
                     ": the source is only killed once the target runs; now: ", NameOf(stage_)));
  }
  finish_ = true;
  finish_result_ = absl::OkStatus();
  auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || stage_ == SourceStage::kDone || !finish_result_.ok();
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&ended), limit)) {
    return absl::DeadlineExceededError("the frozen source is not dead yet");
  }
  if (stage_ == SourceStage::kDone) return absl::OkStatus();
  return stop_ ? absl::UnavailableError("the agent ends") : finish_result_;
}

// --- the stages
// ----------------------------------------------------------------------------------------------------

void Source::Run() {
  bool worked = false;
  for (;;) {
    SourceStage stage;
    {
      absl::MutexLock lock(&mutex_);
      if (stop_ || IsFinal(stage_)) break;
      stage = stage_;
    }
    GODWIT_FAILPOINT(absl::StrCat("source.", NameOf(stage)), spec_.migration.uid);
    const std::optional<SourceEvent> event = Perform(stage);
    worked = true;
    absl::MutexLock lock(&mutex_);
    if (stop_ || !event.has_value()) return;
    const std::optional<SourceStage> next = Next(stage, *event);
    if (!next.has_value()) {
      LOG(DFATAL)
          << Log("no such transition").With("migration", spec_.migration.uid).With("stage", NameOf(stage));
      return;
    }
    if (*next != stage) {
      LOG(INFO) << Log("source")
                       .With("migration", spec_.migration.uid)
                       .With("stage", NameOf(*next))
                       .With("reason", status_.reason);
      hint_.clear();
    }
    stage_ = *next;
  }
  StopListening();
  pre_copy_.reset();  // its trackers would stand in the way of the pod's next move
  if (!worked) return;
  const agent_api::SourceStatus last = status();
  if (last.state == SourceState::kAborted) TellAbort();
  if (final() && node_.finished) node_.finished(last);
}

std::optional<SourceEvent> Source::Perform(SourceStage stage) {
  switch (stage) {
    case SourceStage::kConnecting: return Connect();
    case SourceStage::kCopying: return Copy();
    case SourceStage::kFreezing: return Freeze();
    case SourceStage::kSending: return Send();
    case SourceStage::kAwaitingPrepared: return AwaitPrepared();
    case SourceStage::kCeding: return Cede();
    case SourceStage::kAskingGuard: return AskGuard();
    case SourceStage::kCommitting: return Commit();
    case SourceStage::kAskingTarget: return AskTarget();
    case SourceStage::kTakingBack: return TakeBack();
    case SourceStage::kServingPages: return ServePages();
    case SourceStage::kTargetRuns: return AwaitFinish();
    case SourceStage::kKilling: return Kill();
    case SourceStage::kAborting: return Thaw();
    case SourceStage::kDone:
    case SourceStage::kAborted: return std::nullopt;
  }
  return std::nullopt;
}

SourceEvent Source::FailBecause(const std::string& reason, const std::string& message) {
  absl::MutexLock lock(&mutex_);
  // The first cause counts: a wish to abort, or the target's word, is why what then failed failed.
  if (status_.reason.empty()) {
    status_.reason = abort_.has_value()           ? abort_->reason
                     : heard_.aborted.has_value() ? heard_.aborted->reason
                                                  : reason;
    status_.message = abort_.has_value()           ? abort_->message
                      : heard_.aborted.has_value() ? heard_.aborted->message
                                                   : message;
  }
  return Failure(Hears());
}

SourceHears Source::Hears() const {
  return {.abort_wanted = abort_.has_value(),
          .prepared = heard_.prepared,
          .running = heard_.running.has_value(),
          .target_aborted = heard_.aborted.has_value(),
          .lost = !heard_.lost.ok()};
}

SourceEvent Source::Fail(const absl::Status& status, absl::string_view otherwise) {
  return FailBecause(ReasonOf(status, otherwise), std::string(status.message()));
}

SourceEvent Source::Freeze() {
  const absl::StatusOr<GuardReply> reply = guard_->Freeze();
  if (!reply.ok()) return Fail(reply.status(), "FreezeFailed");
  if (!reply->ok) return FailBecause(reply->reason, reply->message);
  {
    absl::MutexLock lock(&mutex_);
    freeze_begin_ = SteadyNow() - reply->frozen_for;
    status_.frozen_at = reply->frozen_at;
    status_.steps.push_back(
        {.name = "freeze", .offset = absl::ZeroDuration(), .duration = reply->frozen_for});
    if (!abort_.has_value()) return SourceEvent::kDone;
  }
  return FailBecause("", "");
}

SourceEvent Source::AwaitPrepared() {
  absl::Time ping = SteadyNow();
  std::optional<PageService> service;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      auto word = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stop_ || abort_.has_value() || heard_.prepared || heard_.aborted.has_value() ||
               !heard_.lost.ok() || !heard_.wanted.empty();
      };
      mutex_.AwaitWithTimeout(absl::Condition(&word), kLook);
      if (stop_) return SourceEvent::kFailed;
    }
    std::optional<SourceEvent> event;
    absl::Status lost;
    {
      absl::MutexLock lock(&mutex_);
      event = WhilePreparing(Hears(), /*over=*/false);
      lost = heard_.lost;
    }
    if (event == SourceEvent::kDone) return *event;
    if (event.has_value())
      return FailBecause("ConnectionLost",
                         absl::StrCat("the connection to the target node broke before it had restored all: ",
                                      lost.message()));
    if (const absl::Status served = ServeWanted(service); !served.ok()) return Fail(served, "SendFailed");
    if (guard_->Ended() || SteadyNow() > FreezeDeadline()) {
      return FailBecause(
          "FreezeLimit",
          absl::StrCat("the target had not restored all containers within the freeze limit of ",
                       absl::FormatDuration(spec_.freeze_limit)));
    }
    if (SteadyNow() - ping > kPingEvery) {
      ping = SteadyNow();
      (void)stream_->Send(FrameType::kPing, {}, After(kTellLimit));
    }
  }
}

SourceEvent Source::Cede() {
  {
    absl::MutexLock lock(&mutex_);
    const std::optional<SourceEvent> event = stop_ ? SourceEvent::kFailed : BeforeCeding(Hears());
    if (event.has_value()) {
      status_.reason = abort_.has_value() ? abort_->reason : "";
      status_.message = abort_.has_value() ? abort_->message : "";
      return *event;
    }
  }
  const absl::Time begin = SteadyNow();
  const absl::StatusOr<GuardReply> reply = guard_->Cede();
  if (reply.ok()) AddStep("cede", "", begin);
  SourceEvent event;
  {
    absl::MutexLock lock(&mutex_);
    event = AfterCeding(WordOf(reply), Hears());
  }
  if (event == SourceEvent::kDone || event == SourceEvent::kUnknown) return event;
  return FailBecause(reply->reason, reply->message);
}

// The guard did not answer: its journal, which it alone writes, knows.
SourceEvent Source::AskGuard() {
  const absl::Status guard = EnsureGuard();  // one that was not ceded is thawed by this
  const absl::StatusOr<GuardReply> reply = guard.ok() ? guard_->Status() : absl::StatusOr<GuardReply>(guard);
  std::string reason;
  std::string message;
  const SourceState state = JournalState(&reason, &message);
  if (reply.ok() && reason.empty()) {
    reason = reply->reason;
    message = reply->message;
  }
  SourceEvent event;
  {
    absl::MutexLock lock(&mutex_);
    event = AfterAskingGuard(WordOf(reply), state, Hears());
  }
  if (event == SourceEvent::kDone) return event;
  if (event != SourceEvent::kUnknown) {
    return FailBecause(reason.empty() ? "GuardLost" : reason,
                       message.empty() ? "the guard was lost before the decision" : message);
  }
  {
    absl::MutexLock lock(&mutex_);
    hint_ = absl::StrCat("the guard's decision is not known: ", reply.status().message());
  }
  Pause(absl::Milliseconds(200));
  return SourceEvent::kUnknown;
}

SourceEvent Source::Commit() {
  const absl::Time begin = SteadyNow();
  std::shared_ptr<transfer::Stream> stream;
  {
    absl::MutexLock lock(&mutex_);
    if (abandon_) return SourceEvent::kDone;
    stream = stream_;
  }
  // An agent that was restarted while its guard ceded has none yet.
  if (stream == nullptr) return SourceEvent::kUnknown;
  if (!stream->Send(FrameType::kCommit, {}, After(kReachLimit)).ok()) return SourceEvent::kUnknown;
  GODWIT_FAILPOINT("source.commit-sent", spec_.migration.uid);
  transfer::Timings timings;
  {
    absl::MutexLock lock(&mutex_);
    auto word = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stop_ || heard_.running.has_value() || heard_.aborted.has_value() || !heard_.lost.ok();
    };
    mutex_.AwaitWithTimeout(absl::Condition(&word), kRunningLimit);
    const std::optional<SourceEvent> event = WhileCommitting(Hears(), /*late=*/true);
    if (event == SourceEvent::kTargetAborted) {
      status_.reason = heard_.aborted->reason;
      status_.message = heard_.aborted->message;
    }
    if (event != SourceEvent::kDone) return *event;
    timings = *heard_.running;
    serves_ = timings.missing;
  }
  NoteRunning(timings, begin);
  return SourceEvent::kDone;
}

// Once: a target that pulls says RUNNING over each new stream.
void Source::NoteRunning(const transfer::Timings& timings, absl::Time begin) {
  {
    absl::MutexLock lock(&mutex_);
    reclaim_.reset();
    if (std::exchange(status_.target_running, true)) return;
  }
  AddStep("commit", "", begin);
  AddTargetSteps(timings);
  EndFreeze(timings.thawed_ago);
  if (node_.froze) node_.froze(status());
}

// Ceded, and the connection is gone: asks for ever, for only the target knows which copy is to run.
SourceEvent Source::AskTarget() {
  {
    absl::MutexLock lock(&mutex_);
    if (abandon_) return SourceEvent::kDone;
  }
  transfer::HelloOk answer;
  const absl::Status status = OpenStream(HelloFor(/*ask=*/true, /*resume=*/false), kReachLimit, &answer);
  SourceEvent event;
  {
    absl::MutexLock lock(&mutex_);
    event = AfterAskingTarget(status.ok() ? std::optional(answer.state) : std::nullopt,
                              reclaim_.has_value() && !status_.target_running);
    if (event == SourceEvent::kTargetAborted) {
      status_.reason = status.ok() ? answer.reason : reclaim_->reason;
      status_.message = status.ok() ? answer.message : reclaim_->message;
    } else if (status.ok()) {
      reclaim_.reset();  // it answers: whoever vouched for its end was mistaken
    }
  }
  if (event != SourceEvent::kUnknown) return event;
  {
    absl::MutexLock lock(&mutex_);
    hint_ =
        absl::StrCat("the source has ceded and waits, frozen, to hear from node ", spec_.target_node, " at ",
                     spec_.target_address, ": ",
                     status.ok() ? absl::StrCat("it answers ", json::Name(answer.state)) : status.message());
    LOG(WARNING)
        << Log("the target was asked in vain").With("migration", spec_.migration.uid).With("answer", hint_);
  }
  Pause(absl::Seconds(1));
  return SourceEvent::kUnknown;
}

SourceEvent Source::TakeBack() {
  absl::Status status = EnsureGuard();
  std::optional<GuardWord> word;
  if (status.ok()) {
    const absl::StatusOr<GuardReply> reply = guard_->TargetAborted(this->status().message);
    word = WordOf(reply);
    status = reply.ok() ? absl::InternalError(reply->message) : reply.status();
  }
  const SourceEvent event = AfterTakingBack(word);
  if (event == SourceEvent::kDone) {
    if (absl::Status noted = WriteFileDurably(absl::StrCat(folder_, "/thawed"), ""); !noted.ok())
      LOG(WARNING) << Log("a restart will thaw once more").With("migration", spec_.migration.uid).With(noted);
    EndFreeze(absl::ZeroDuration());
    if (node_.froze) node_.froze(this->status());
    return event;
  }
  LOG(ERROR) << Log("the source is not thawed yet").With("migration", spec_.migration.uid).With(status);
  Pause(absl::Seconds(1));
  return event;
}

std::optional<SourceEvent> Source::AwaitFinish() {
  StopListening();  // the stream has served
  absl::MutexLock lock(&mutex_);
  auto word = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || finish_; };
  mutex_.Await(absl::Condition(&word));
  if (stop_) return std::nullopt;
  finish_ = false;
  return SourceEvent::kDone;
}

SourceEvent Source::Kill() {
  absl::Status status = EnsureGuard();
  std::optional<GuardWord> word;
  if (status.ok()) {
    const absl::StatusOr<GuardReply> reply = guard_->Kill();
    word = WordOf(reply);
    status =
        reply.ok() ? absl::InternalError(absl::StrCat(reply->reason, ": ", reply->message)) : reply.status();
  }
  std::string reason;
  std::string message;
  const SourceEvent event = AfterKilling(word, JournalState(&reason, &message));
  if (event == SourceEvent::kDone) return event;
  absl::MutexLock lock(&mutex_);
  finish_result_ = Annotate(status, "the frozen source was not killed");
  return event;
}

SourceEvent Source::Thaw() {
  std::shared_ptr<Guard> guard;
  std::string why;
  {
    absl::MutexLock lock(&mutex_);
    guard = guard_;
    why = absl::StrCat(status_.reason, ": ", status_.message);
  }
  std::string reason;
  std::string message;
  if (guard != nullptr) (void)guard->Thaw(why);  // whatever it answers: the journal tells
  {
    absl::MutexLock lock(&mutex_);
    guard_ = nullptr;  // hangs up
  }
  guard = nullptr;
  for (const absl::Time deadline = After(kGuardThawLimit); SteadyNow() < deadline;) {
    ThawStep step = NextThawStep(JournalState(&reason, &message));
    if (step == ThawStep::kWriteAborted) {
      absl::StatusOr<journal::SourceJournal> journal =
          journal::SourceJournal::Open(absl::StrCat(folder_, "/journal"));
      if (absl::IsUnavailable(journal.status()))
        step = ThawStep::kLookAgain;  // a guard's, that is about to end
      if (journal.ok())
        (void)journal->Append({.state = SourceState::kAborted,
                               .reason = this->status().reason,
                               .message = this->status().message});
    }
    if (step != ThawStep::kLookAgain) {
      EndFreeze(absl::ZeroDuration());
      TellAbortHere();
      if (this->status().frozen_at != absl::Time() && node_.froze) node_.froze(this->status());
      return SourceEvent::kDone;
    }
    if (Pause(absl::Milliseconds(50))) return SourceEvent::kUnknown;
  }
  // Its guard must have died: another reads the journal and thaws.
  if (absl::Status status = EnsureGuard(); !status.ok()) {
    LOG(ERROR) << Log("the source is not thawed yet").With("migration", spec_.migration.uid).With(status);
    Pause(absl::Seconds(1));
  }
  return SourceEvent::kUnknown;
}

// --- helpers of the stages
// -----------------------------------------------------------------------------------------

absl::StatusOr<std::vector<journal::SourceRecord>> Source::Records() const {
  auto records = journal::ReplayDurably<SourceState>(absl::StrCat(folder_, "/journal"));
  if (!records.ok()) {
    LOG(ERROR) << Log("the source's journal cannot be read")
                      .With("migration", spec_.migration.uid)
                      .With(records.status());
  }
  return records;
}

SourceState Source::JournalState(std::string* reason, std::string* message) const {
  return LastOf(Records(), reason, message);
}

// A guard that answers. After its death, or ours, another is started from the same spec.
absl::Status Source::EnsureGuard() {
  std::shared_ptr<Guard> guard;
  {
    absl::MutexLock lock(&mutex_);
    guard = guard_;
  }
  if (guard != nullptr && !guard->Ended() && guard->Status().ok()) return absl::OkStatus();
  if (!guard_spec_.has_value()) return absl::NotFoundError("no guard was ever started");
  absl::StatusOr<std::unique_ptr<Guard>> found = node_.guards.find(guard_spec_->socket);
  if (!found.ok()) found = node_.guards.start(*guard_spec_);
  if (!found.ok()) return found.status();
  absl::MutexLock lock(&mutex_);
  guard_ = *std::move(found);
  return absl::OkStatus();
}

void Source::EndFreeze(absl::Duration ago) {
  absl::MutexLock lock(&mutex_);
  if (freeze_begin_.has_value() && !freeze_end_.has_value()) freeze_end_ = SteadyNow() - ago - *freeze_begin_;
}

void Source::AddStep(const std::string& name, const std::string& container, absl::Time begin) {
  absl::MutexLock lock(&mutex_);
  if (!freeze_begin_.has_value()) return;
  status_.steps.push_back({.name = name,
                           .container = container,
                           .offset = begin - *freeze_begin_,
                           .duration = SteadyNow() - begin});
}

// Theirs are counted from the first frame they had; we know when we sent it.
void Source::AddTargetSteps(const transfer::Timings& timings) {
  absl::MutexLock lock(&mutex_);
  if (!freeze_begin_.has_value() || first_frame_ == absl::InfiniteFuture()) return;
  for (agent_api::FreezeStep step : timings.steps) {
    if (step.name == "commit") continue;  // ours says it as a whole
    step.offset += first_frame_ - *freeze_begin_;
    status_.steps.push_back(std::move(step));
  }
  std::stable_sort(status_.steps.begin(), status_.steps.end(),
                   [](const auto& a, const auto& b) { return a.offset < b.offset; });
}

absl::Time Source::FreezeDeadline() const {
  absl::MutexLock lock(&mutex_);
  return freeze_begin_.value_or(SteadyNow()) + spec_.freeze_limit;
}

bool Source::Pause(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&stop_), duration);
}

}  // namespace godwit::migration
