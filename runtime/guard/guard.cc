// SPDX-License-Identifier: Apache-2.0
#include "runtime/guard/guard.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace godwit::guard {
namespace {

constexpr absl::Duration kLookAgain = absl::Seconds(1);    // at a journal that could not be read
constexpr absl::Duration kFirstAgent = absl::Seconds(30);  // to connect at all, with nothing frozen yet
constexpr absl::Duration kLinger = absl::Seconds(30);      // an agent may ask how it ended

// A dump is asked to end this long before the freeze limit: CRIU needs a moment to heal the tasks.
absl::Duration Margin(absl::Duration limit) { return std::min(limit / 10, absl::Milliseconds(500)); }

}  // namespace

Guard::Guard(const GuardSpec& spec, Acts& acts, SourceState recovered)
    : spec_(spec), acts_(acts), state_(recovered == SourceState::kNone ? SourceState::kOpen : recovered) {}

void Guard::Recover(absl::Duration now) {
  if (state_ == SourceState::kAborted) acts_.Thaw().IgnoreError();  // logged there
  if (state_ != SourceState::kFrozen) return;
  LOG(WARNING) << Log("an earlier guard died while the pod was frozen; thawing")
                      .With("migration", spec_.migration_uid);
  Abort("GuardGone", "the guard that had frozen the pod died; the pod goes on", now);
}

GuardReply Guard::Status(absl::Duration now) const {
  GuardReply reply;
  reply.ok = state_ != SourceState::kAborted;
  reply.state = state_;
  reply.reason = why_.reason;
  reply.message = why_.message;
  reply.frozen_at = frozen_at_;
  const bool frozen = state_ == SourceState::kFrozen || state_ == SourceState::kCeded;
  reply.frozen_for = frozen && frozen_since_ != absl::ZeroDuration() ? now - frozen_since_ : frozen_for_;
  return reply;
}

GuardReply Guard::Refuse(absl::string_view reason, absl::string_view message, absl::Duration now) const {
  GuardReply reply = Status(now);
  reply.ok = false;
  reply.reason = std::string(reason);
  reply.message = std::string(message);
  return reply;
}

GuardReply Guard::RefuseNow(absl::string_view what, absl::Duration now) const {
  if (state_ != SourceState::kAborted || why_.reason.empty())
    return Refuse("WrongState", absl::StrCat(what, ": ", json::Name(state_)), now);
  return Refuse(why_.reason, absl::StrCat(what, ": ", why_.message), now);
}

std::optional<GuardReply> Guard::Handle(const GuardCommand& command, absl::Duration now) {
  LOG(INFO) << Log("command")
                   .With("migration", spec_.migration_uid)
                   .With("op", json::Name(command.op))
                   .With("state", json::Name(state_));
  switch (command.op) {
    case GuardOp::kArm: return Arm(now);
    case GuardOp::kFreeze: return Freeze(now);
    case GuardOp::kDump: return Dump(command.container, now);
    case GuardOp::kCede: return Cede(now);
    case GuardOp::kThaw: return Thaw(command.message, now);
    case GuardOp::kTargetAborted: return TargetAborted(command.message, now);
    case GuardOp::kKill: return Kill(now);
    case GuardOp::kStatus: return Status(now);
  }
  return Refuse("UnknownCommand", "the guard does not know this command", now);
}

GuardReply Guard::Arm(absl::Duration now) {
  if (state_ != SourceState::kOpen) return RefuseNow("cannot arm", now);
  const absl::Status armed = acts_.Arm();
  armed_ = armed.ok();
  return armed.ok() ? Status(now) : Refuse("ArmFailed", armed.message(), now);
}

void Guard::Disarm() {
  if (armed_) acts_.Disarm();
  armed_ = false;
}

GuardReply Guard::Freeze(absl::Duration now) {
  if (state_ == SourceState::kFrozen) return Status(now);
  if (gone_) return Refuse("WrongState", "cannot freeze: told to end", now);
  if (state_ != SourceState::kOpen) return RefuseNow("cannot freeze", now);
  bool journaled = false;
  FreezeMoment moment;
  const auto before_freeze = [&] {
    if (journaled) return absl::OkStatus();
    SourceState at = SourceState::kNone;
    absl::Status status = acts_.Journal(SourceState::kFrozen, "", "", &at);
    journaled = status.ok();
    return status;
  };
  const std::optional<Refusal> refusal = acts_.Freeze(before_freeze, &moment);
  if (!refusal.has_value()) {
    state_ = SourceState::kFrozen;
    frozen_at_ = moment.wall;
    frozen_since_ = moment.monotonic;
    return Status(std::max(now, moment.still));
  }
  LOG(WARNING) << Log("refused to freeze")
                      .With("migration", spec_.migration_uid)
                      .With("reason", refusal->reason)
                      .With("message", refusal->message);
  // The journal says FROZEN: that must not be the last word on a pod that runs.
  if (journaled) Abort(refusal->reason, refusal->message, now);
  return Refuse(refusal->reason, refusal->message, now);
}

std::optional<GuardReply> Guard::Dump(const std::string& container, absl::Duration now) {
  if (state_ != SourceState::kFrozen) return RefuseNow("cannot dump", now);
  const absl::Status started = acts_.StartDump(container);
  if (absl::IsNotFound(started)) return Refuse("UnknownContainer", started.message(), now);
  if (!started.ok()) {
    Abort("DumpFailed", started.message(), now);
    return Status(now);
  }
  dumping_ = container;
  return std::nullopt;
}

GuardReply Guard::DumpEnded(const absl::Status& result, absl::Duration now) {
  const std::string container = dumping_.value_or("");
  dumping_.reset();
  if (abort_after_dump_.has_value()) {
    Abort(abort_after_dump_->reason, abort_after_dump_->message, now);
    abort_after_dump_.reset();
    return Status(now);
  }
  if (!result.ok()) {
    Abort("DumpFailed", absl::StrCat("cannot dump container ", container, ": ", result.message()), now);
    return Status(now);
  }
  dumped_.insert(container);
  return Status(now);
}

GuardReply Guard::Cede(absl::Duration now) {
  if (state_ == SourceState::kCeded) return unsure_ ? WriteCeded(now) : Status(now);
  if (state_ != SourceState::kFrozen) return RefuseNow("cannot cede", now);
  for (const agent_api::GuardContainer& container : spec_.containers) {
    if (!dumped_.contains(container.name)) {
      return Refuse("NotDumped",
                    absl::StrCat("cannot cede: container ", container.name, " was not dumped in this freeze"),
                    now);
    }
  }
  // Somebody else may have thawed it (a person, another tool): it has gone on, and what was sent is old.
  if (const absl::Status frozen = acts_.StillFrozen(); !frozen.ok()) {
    const bool ended = absl::IsNotFound(frozen);
    Abort(ended ? "ContainerGone" : "Thawed",
          absl::StrCat(ended ? "the pod cannot be handed over: " : "the pod does not stand still any more: ",
                       frozen.message()),
          now);
    return Status(now);
  }
  if (const absl::Status held = acts_.HoldPod(); !held.ok()) {
    Abort("HoldFailed", absl::StrCat("kubelet could start the pod a second time: ", held.message()), now);
    return Status(now);
  }
  return WriteCeded(now);
}

// Writes the decision, or looks whether it was written when that is not known.
GuardReply Guard::WriteCeded(absl::Duration now) {
  SourceState written = SourceState::kNone;
  const absl::Status status = acts_.Journal(SourceState::kCeded, "", "", &written);
  unsure_ = !status.ok() && written == SourceState::kNone;
  if (status.ok() || written == SourceState::kCeded) {
    state_ = SourceState::kCeded;
    return Status(now);
  }
  if (written == SourceState::kFrozen || written == SourceState::kAborted) {
    state_ = SourceState::kFrozen;
    Abort("JournalFailed", absl::StrCat("cannot cede: ", status.message()), now);
    return Status(now);
  }
  // Nobody knows what the disk says. Standing still is the one state that is right whatever it is: a thawed
  // source beside a journal that says CEDED could become a second copy.
  LOG(ERROR) << Log("the journal can be neither written nor read; the pod stays frozen")
                    .With("migration", spec_.migration_uid)
                    .With(status);
  state_ = SourceState::kCeded;
  look_again_ = now + kLookAgain;
  return Refuse(
      "JournalFailed",
      absl::StrCat("the decision may or may not be on the disk, the pod stays frozen: ", status.message()),
      now);
}

GuardReply Guard::Thaw(const std::string& message, absl::Duration now) {
  switch (state_) {
    case SourceState::kNone:
    case SourceState::kOpen:
    case SourceState::kFrozen: Abort("Thawed", message, now); break;
    case SourceState::kAborted:
      // What did not thaw then may now.
      if (const absl::Status thawed = acts_.Thaw(); !thawed.ok())
        return Refuse("ThawFailed", thawed.message(), now);
      break;
    case SourceState::kCeded:
    case SourceState::kDone:
      return Refuse("Ceded",
                    "too late to thaw: the pod was handed over, and only the target's word that it will "
                    "never run frees it",
                    now);
  }
  GuardReply reply = Status(now);
  reply.ok = true;
  return reply;
}

GuardReply Guard::TargetAborted(const std::string& message, absl::Duration now) {
  if (state_ != SourceState::kCeded) {
    if (state_ == SourceState::kDone) return Refuse("WrongState", "the source was killed already", now);
    return Thaw(message, now);
  }
  // Here the record comes first: a thawed source beside a journal that says CEDED would be killed later.
  SourceState written = SourceState::kNone;
  const absl::Status status = acts_.Journal(SourceState::kAborted, "TargetAborted", message, &written);
  if (!status.ok() && written != SourceState::kAborted) {
    return Refuse(
        "JournalFailed",
        absl::StrCat("cannot write that the target aborted; the pod stays frozen: ", status.message()), now);
  }
  frozen_for_ = Status(now).frozen_for;
  unsure_ = false;
  state_ = SourceState::kAborted;
  why_ = {"TargetAborted", message};
  const absl::Status thawed = acts_.Thaw();
  if (!thawed.ok()) return Refuse("ThawFailed", thawed.message(), now);
  GuardReply reply = Status(now);
  reply.ok = true;
  return reply;
}

GuardReply Guard::Kill(absl::Duration now) {
  if (state_ == SourceState::kDone) return Status(now);
  if (state_ != SourceState::kCeded) {
    return Refuse("WrongState", absl::StrCat("cannot kill the source: ", json::Name(state_), ", not ceded"),
                  now);
  }
  const absl::Status killed = acts_.Kill();
  if (!killed.ok()) return Refuse("KillFailed", killed.message(), now);
  SourceState written = SourceState::kNone;
  const absl::Status status = acts_.Journal(SourceState::kDone, "", "", &written);
  if (!status.ok() && written != SourceState::kDone) {
    return Refuse("JournalFailed",
                  absl::StrCat("the source is dead, but the journal cannot say so: ", status.message()), now);
  }
  frozen_for_ = Status(now).frozen_for;
  unsure_ = false;
  state_ = SourceState::kDone;
  return Status(now);
}

void Guard::AgentGone(absl::Duration now) {
  switch (state_) {
    case SourceState::kNone:
    case SourceState::kOpen:
      gone_ = true;
      Disarm();
      break;
    case SourceState::kFrozen:
      AbortAfterDump("AgentGone", "the agent's connection to the guard ended during the freeze", now);
      break;
    case SourceState::kCeded:  // the target decides now; a new agent will ask
    case SourceState::kDone:
    case SourceState::kAborted: break;
  }
}

void Guard::Hurry() {
  if (dumping_.has_value()) acts_.AbortDump();
}

std::optional<absl::Duration> Guard::deadline() const {
  if (unsure_) return look_again_;
  if (state_ != SourceState::kFrozen || abort_after_dump_.has_value()) return std::nullopt;
  return frozen_since_ + spec_.freeze_limit -
         (dumping_.has_value() ? Margin(spec_.freeze_limit) : absl::ZeroDuration());
}

void Guard::Tick(absl::Duration now) {
  const std::optional<absl::Duration> limit = deadline();
  if (!limit.has_value() || now < *limit) return;
  if (unsure_) {
    WriteCeded(now);
    return;
  }
  AbortAfterDump("FreezeLimit",
                 absl::StrCat("the pod was frozen for its limit of ",
                              absl::FormatDuration(spec_.freeze_limit), " and goes on"),
                 now);
}

void Guard::AbortAfterDump(absl::string_view reason, absl::string_view message, absl::Duration now) {
  if (!dumping_.has_value()) return Abort(reason, message, now);
  if (!abort_after_dump_.has_value()) abort_after_dump_ = Refusal{std::string(reason), std::string(message)};
  acts_.AbortDump();
}

void Guard::Abort(absl::string_view reason, absl::string_view message, absl::Duration now) {
  frozen_for_ = Status(now).frozen_for;
  const bool was_frozen = state_ == SourceState::kFrozen;
  state_ = SourceState::kAborted;
  why_ = {std::string(reason), std::string(message)};
  // The thaw first: it is right whether or not the record reaches the disk, since nothing but FROZEN is
  // there, and a slow disk must not hold the pod.
  if (was_frozen) acts_.Thaw().IgnoreError();  // logged there; whoever comes next tries again
  SourceState written = SourceState::kNone;
  const absl::Status status = acts_.Journal(SourceState::kAborted, reason, message, &written);
  LOG(INFO) << Log("aborted")
                   .With("migration", spec_.migration_uid)
                   .With("reason", reason)
                   .With("message", message)
                   .With("frozenFor", frozen_for_)
                   .With("journal", status.ToString());
  Disarm();  // at last: it may take a moment, and the pod runs
}

bool ThawsAsItEnds(std::optional<SourceState> journaled) {
  return journaled.has_value() && *journaled != SourceState::kCeded;
}

bool MayEnd(const Guard& guard, bool had_agent, bool has_agent, absl::Duration idle) {
  if (guard.dumping()) return false;
  if (guard.finished()) return (had_agent && !has_agent) || idle > kLinger;
  return guard.state() == SourceState::kOpen && !had_agent && idle > kFirstAgent;
}

}  // namespace godwit::guard
