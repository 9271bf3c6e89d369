// SPDX-License-Identifier: Apache-2.0
#include "runtime/guard/acts.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/layer.h"
#include "agent/runtime/processes.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

namespace godwit::guard {
namespace {

constexpr absl::Duration kFreezeWrite = absl::Seconds(2);  // for all tasks to stand still
// A task in a wait for a disk stands still when that is over, and no sooner; the others would stand and wait
// for it. So the first try is short, and the pod runs between two. Each is twice as long as the one before,
// for a pod that is in such waits nearly all the time, or has very many tasks, is caught by no short one.
constexpr absl::Duration kFreezeTry = absl::Milliseconds(30);
constexpr absl::Duration kFreezePause = absl::Milliseconds(20);
constexpr absl::Duration kExecPatience = absl::Seconds(2);  // for an exec probe to end by itself
constexpr absl::Duration kExecPause = absl::Milliseconds(20);
constexpr absl::Duration kKillLimit = absl::Seconds(10);
// How long a fence outlasts the freeze limit: for a pod that was handed over and waits to be killed.
constexpr absl::Duration kFenceBeyond = absl::Minutes(1);
constexpr absl::Duration kArmLimit = absl::Seconds(10);  // for runc and CRIU to start and come to their gates

}  // namespace

absl::StatusOr<std::unique_ptr<HostActs>> HostActs::Make(const GuardSpec& spec, std::string proc,
                                                         Clock& clock) {
  std::unique_ptr<HostActs> acts(new HostActs(spec, std::move(proc), clock));
  GODWIT_RETURN_IF_ERROR(acts->Prepare());
  return acts;
}

HostActs::~HostActs() {
  Disarm();
  const bool known = journal_.has_value();
  if (ThawsAsItEnds(known ? std::optional(journaled()) : std::nullopt)) return;
  frozen_.Release();
  held_.Release();
}

// Everything that can be done before anything stands still.
absl::Status HostActs::Prepare() {
  GODWIT_ASSIGN_OR_RETURN(journal::SourceJournal journal, journal::SourceJournal::Open(spec_.journal));
  journal_ = std::move(journal);
  GODWIT_RETURN_IF_ERROR(ClaimContainers());
  if (journaled() == SourceState::kFrozen || journaled() == SourceState::kCeded ||
      journaled() == SourceState::kAborted) {
    frozen_ = runtime::AdoptFrozen(Cgroups());
    if (!spec_.pod_cgroup.empty()) held_ = runtime::AdoptFrozen({spec_.pod_cgroup});
  }
  fence_status_ = MakeFence();
  // A guard that follows another ends what that one began, and dumps nothing: the images' folder may be gone
  // with the agent that had made it.
  if (journaled() == SourceState::kNone || journaled() == SourceState::kOpen)
    GODWIT_RETURN_IF_ERROR(PrepareDumps());
  return absl::OkStatus();
}

absl::Status HostActs::PrepareDumps() {
  RunOptions options;
  options.limit = absl::Seconds(5);
  GODWIT_ASSIGN_OR_RETURN(const std::string version, RunOrError({spec_.runtime, "--version"}, options));
  programs_ = {spec_.runtime, criu::ParseVersion(version), spec_.criu_folder};
  criu::WarmUp(programs_);
  for (const agent_api::GuardContainer& container : spec_.containers) {
    GODWIT_RETURN_IF_ERROR(MakeFolders(container.images, 0700));
    GODWIT_RETURN_IF_ERROR(MakeFolders(container.work, 0700));
    const criu::Plan plan = criu::PlanDump(programs_, container, {.fenced = fence_.has_value()});
    GODWIT_RETURN_IF_ERROR(criu::Prepare(plan));
    plans_[container.name] = plan;
  }
  return absl::OkStatus();
}

// The kernel lets go of the locks when this process ends, however that comes.
absl::Status HostActs::ClaimContainers() {
  for (const agent_api::GuardContainer& container : spec_.containers) {
    absl::StatusOr<UniqueFd> folder = OpenFile(container.cgroup, O_RDONLY | O_DIRECTORY);
    if (absl::IsNotFound(folder.status())) continue;  // ended meanwhile: nothing to be frozen
    if (!folder.ok()) return folder.status();
    if (flock(folder->get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return ErrnoStatus(absl::StrCat("cannot claim container ", container.name));
      return absl::FailedPreconditionError(absl::StrCat(
          "container ", container.name, " is being frozen by another Migration or Checkpoint of its pod"));
    }
    claims_.push_back(*std::move(folder));
  }
  return absl::OkStatus();
}

// Also lifts the one of an earlier guard of this spec.
absl::Status HostActs::MakeFence() {
  if (spec_.addresses.empty()) return absl::FailedPreconditionError("the pod has no address to fence");
  GODWIT_ASSIGN_OR_RETURN(
      fence_, runtime::Fence::Make(absl::StrCat(spec_.criu_folder, "/bin/nft"), spec_.migration_uid,
                                   spec_.addresses, spec_.freeze_limit + kFenceBeyond));
  return absl::OkStatus();
}

void HostActs::LowerFence() {
  if (!fence_.has_value()) return;
  if (absl::Status lowered = fence_->Lower(); !lowered.ok()) {
    LOG(ERROR) << Log("the pod's packets are dropped for a while yet")
                      .With("migration", spec_.migration_uid)
                      .With(lowered);
  }
}

std::vector<std::string> HostActs::Cgroups() const {
  std::vector<std::string> cgroups;
  for (const agent_api::GuardContainer& container : spec_.containers) cgroups.push_back(container.cgroup);
  return cgroups;
}

std::optional<Refusal> HostActs::Check(bool* exec_in_flight) const {
  *exec_in_flight = false;
  for (const agent_api::GuardContainer& container : spec_.containers) {
    const std::string what = absl::StrCat("container ", container.name, " (", container.id, ")");
    const absl::StatusOr<std::vector<runtime::Process>> processes =
        runtime::ReadProcesses(proc_, container.cgroup);
    if (!processes.ok()) {
      return Refusal{"ContainerGone",
                     absl::StrCat("cannot look at ", what, ": ", processes.status().message())};
    }
    const bool has_init = std::any_of(processes->begin(), processes->end(), [&](const runtime::Process& p) {
      return p.pid == container.init_pid && p.state != 'Z';
    });
    if (!has_init) {
      return Refusal{"ContainerGone", absl::StrCat("the init process ", container.init_pid, " of ", what,
                                                   " is not in its cgroup ", container.cgroup, " any more")};
    }
    const std::vector<runtime::Process> ended = runtime::BeingEnded(*processes);
    if (!ended.empty()) {
      return Refusal{"PendingSignal",
                     absl::StrCat(what, " is being ended: SIGTERM or SIGKILL is pending for ",
                                  runtime::Describe(ended))};
    }
    std::vector<pid_t> pids;
    for (const runtime::Process& process : *processes) pids.push_back(process.pid);
    if (const absl::Status placed =
            runtime::CheckInPlace(proc_, container.place, static_cast<pid_t>(container.init_pid), pids);
        !placed.ok())
      return Refusal{"NestedNamespace", absl::StrCat("in ", what, ": ", placed.message())};
    if (const absl::Status mounts = runtime::CheckNoInnerOverlay(proc_, container.root_device, pids);
        !mounts.ok())
      return Refusal{"UnsupportedMount", absl::StrCat("in ", what, ": ", mounts.message())};
    const std::vector<runtime::Process> outside =
        runtime::OutsideTree(*processes, static_cast<pid_t>(container.init_pid));
    if (!outside.empty()) {
      *exec_in_flight = true;
      return Refusal{"ExecInFlight",
                     absl::StrCat("an exec (kubectl exec or an exec probe) runs in ", what, ": ",
                                  runtime::Describe(outside), "; try again when it has ended")};
    }
  }
  return std::nullopt;
}

std::optional<Refusal> HostActs::Freeze(const std::function<absl::Status()>& before_freeze,
                                        FreezeMoment* moment) {
  const absl::Time patience = SteadyNow() + kExecPatience;
  absl::Time first_try = absl::InfiniteFuture();
  absl::Duration next_try = kFreezeTry;
  bool exec_in_flight = false;
  while (true) {
    std::optional<Refusal> refusal = Check(&exec_in_flight);
    if (!refusal.has_value()) {
      const absl::Status may = before_freeze();
      if (!may.ok()) return Refusal{"JournalFailed", absl::StrCat("cannot freeze: ", may.message())};
      if (fence_.has_value()) {
        if (absl::Status raised = fence_->Raise(); !raised.ok())
          return Refusal{"FenceFailed", absl::StrCat("cannot freeze: ", raised.message())};
      }
      *moment = {clock_.Monotonic(), clock_.Now(), absl::ZeroDuration()};
      GODWIT_FAILPOINT("guard.freezing", spec_.migration_uid);
      first_try = std::min(first_try, SteadyNow());
      const absl::Duration left = kFreezeWrite - (SteadyNow() - first_try);
      const bool last = left <= next_try + kFreezePause;
      absl::StatusOr<runtime::FrozenCgroups> frozen =
          runtime::FreezeCgroups(Cgroups(), last ? std::max(left, kFreezeTry) : next_try);
      next_try *= 2;
      if (!frozen.ok()) {  // and all are thawed
        LowerFence();
        if (last || !absl::IsDeadlineExceeded(frozen.status()))
          return Refusal{"FreezeFailed", std::string(frozen.status().message())};
        LOG(WARNING) << Log("the pod goes on for a moment before it is frozen again")
                            .With("migration", spec_.migration_uid)
                            .With(frozen.status());
        absl::SleepFor(kFreezePause);
        continue;
      }
      // Again, now that nothing changes any more: a signal or an exec may have come between.
      refusal = Check(&exec_in_flight);
      if (!refusal.has_value()) {
        frozen_ = *std::move(frozen);
        stood_still_ = Processes();
        moment->still = clock_.Monotonic();
        GODWIT_FAILPOINT("guard.frozen", spec_.migration_uid);
        return std::nullopt;
      }
      frozen->Thaw().IgnoreError();  // tried again when it goes
      LowerFence();
    }
    if (!exec_in_flight || SteadyNow() >= patience) return refusal;
    first_try = absl::InfiniteFuture();
    next_try = kFreezeTry;
    absl::SleepFor(kExecPause);  // exec probes are short
  }
}

absl::Status HostActs::Thaw() {
  GODWIT_FAILPOINT("guard.thawing", spec_.migration_uid);
  absl::Status thawed = held_.Thaw();
  thawed.Update(frozen_.Thaw());
  LowerFence();
  return thawed;
}

absl::Status HostActs::StillFrozen() {
  for (const std::string& cgroup : Cgroups()) GODWIT_RETURN_IF_ERROR(runtime::CheckStandsStill(cgroup));
  // SIGKILL reaches those that stand still, too, and an empty cgroup is frozen as any other.
  if (Processes() != stood_still_) return absl::NotFoundError("a process of it was killed");
  return absl::OkStatus();
}

// By container, sorted; none where that is gone.
std::vector<std::vector<pid_t>> HostActs::Processes() const {
  std::vector<std::vector<pid_t>> processes;
  for (const std::string& cgroup : Cgroups())
    processes.push_back(runtime::ProcessesInCgroup(cgroup).value_or(std::vector<pid_t>()));
  return processes;
}

// Not waited for: what is there stands still already but for the sandbox's own process, and what is put there
// from now on stands still before it runs.
absl::Status HostActs::HoldPod() {
  if (spec_.pod_cgroup.empty()) return absl::OkStatus();
  held_ = runtime::AdoptFrozen({spec_.pod_cgroup});
  return WriteKernelFile(absl::StrCat(spec_.pod_cgroup, "/cgroup.freeze"), "1");
}

absl::Status HostActs::Kill() {
  absl::Status first;
  GODWIT_FAILPOINT("guard.killing", spec_.migration_uid);
  // Before: so that the pod's peers hear that its connections end.
  LowerFence();
  for (const std::string& cgroup : Cgroups()) first.Update(runtime::KillCgroup(cgroup, kKillLimit));
  if (!spec_.pod_cgroup.empty()) first.Update(runtime::KillCgroup(spec_.pod_cgroup, kKillLimit));
  if (!first.ok()) return first;
  // An empty cgroup that stays frozen would freeze whatever a container runtime put there next.
  first.Update(held_.Thaw());
  first.Update(frozen_.Thaw());
  return first;
}

absl::Status HostActs::Journal(SourceState state, absl::string_view reason, absl::string_view message,
                               SourceState* now) {
  *now = SourceState::kNone;
  absl::Status status = absl::UnavailableError("the journal could not be opened again");
  GODWIT_FAILPOINT(absl::StrCat("guard.before-", json::Name(state)), spec_.migration_uid);
  if (journal_.has_value()) {
    status = journal_->Append({.state = state,
                               .time = absl::Time(),
                               .reason = std::string(reason),
                               .message = std::string(message)});
    GODWIT_FAILPOINT(absl::StrCat("guard.after-", json::Name(state)), spec_.migration_uid);
    if (status.ok() || absl::IsFailedPrecondition(status)) {
      *now = journal_->state();
      return status;
    }
    journal_.reset();
  }
  absl::StatusOr<journal::SourceJournal> again = journal::SourceJournal::Open(spec_.journal);
  if (!again.ok()) return status;
  journal_ = *std::move(again);
  *now = journal_->state();
  return status;
}

absl::Status HostActs::Arm() {
  const absl::Time deadline = SteadyNow() + kArmLimit;
  if (!quick_breakpoints_.has_value()) quick_breakpoints_.emplace();
  const auto arm = [&]() -> absl::Status {
    for (const agent_api::GuardContainer& container : spec_.containers) {
      std::unique_ptr<Dump>& dump = armed_[container.name];
      if (dump != nullptr && !dump->ended()) continue;
      const criu::Plan plan =
          criu::PlanDump(programs_, container,
                         {.gate = absl::StrCat(container.work, "/gate"), .fenced = fence_.has_value()});
      GODWIT_RETURN_IF_ERROR(criu::Prepare(plan));
      GODWIT_ASSIGN_OR_RETURN(dump, Dump::Start(plan));
    }
    for (const auto& [name, dump] : armed_) {
      GODWIT_RETURN_IF_ERROR(Annotate(dump->ReachGate(deadline),
                                      absl::StrCat("cannot hold a dump of container ", name, " ready")));
    }
    return absl::OkStatus();
  };
  absl::Status status = arm();
  GODWIT_FAILPOINT("guard.armed", spec_.migration_uid);
  if (!status.ok()) Disarm();
  return status;
}

void HostActs::Disarm() {
  for (const auto& [name, dump] : armed_) {
    if (dump != nullptr) dump->Dismiss();
  }
  armed_.clear();
}

absl::Status HostActs::StartDump(const std::string& container) {
  const auto plan = plans_.find(container);
  if (plan == plans_.end())
    return absl::NotFoundError(absl::StrCat("the guard's spec names no container \"", container, "\""));
  if (const auto armed = armed_.extract(container); !armed.empty()) {
    const absl::Status opened = armed.mapped()->OpenGate();
    if (opened.ok()) {
      dump_ = std::move(armed.mapped());
      GODWIT_FAILPOINT("guard.dump-begun", spec_.migration_uid);
      return absl::OkStatus();
    }
    LOG(WARNING) << Log("an armed dump has ended; starting another")
                        .With("migration", spec_.migration_uid)
                        .With("container", container)
                        .With(opened);
    armed.mapped()->Dismiss();
  }
  GODWIT_ASSIGN_OR_RETURN(dump_, Dump::Start(plan->second));
  return absl::OkStatus();
}

void HostActs::AbortDump() {
  if (dump_ != nullptr) dump_->Abort();
}

absl::Status HostActs::FinishDump() {
  std::unique_ptr<Dump> dump = std::move(dump_);
  if (dump == nullptr) return absl::InternalError("no dump runs");
  GODWIT_FAILPOINT("guard.dumped", spec_.migration_uid);
  GODWIT_RETURN_IF_ERROR(dump->Result());
  ending_.push_back(std::move(dump));
  // CRIU thaws the cgroup while it holds the tasks by ptrace, and freezes it again before it lets them go.
  return Annotate(runtime::WaitFrozen(Cgroups(), kFreezeWrite),
                  "the dump succeeded, but the pod does not stand still after it");
}

}  // namespace godwit::guard
