// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/target.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "agent/criu/gate.h"
#include "agent/memory/shared_key.h"
#include "agent/migration/reasons.h"
#include "agent/runtime/quick_breakpoints.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::TargetState;
using transfer::FrameType;

constexpr absl::Duration kLook =
    absl::Milliseconds(200);  // how often a wait looks at what else may have happened
constexpr absl::Duration kFirstClaimLimit =
    absl::Hours(6);  // scheduling and pulling images; the controller's limit is shorter
constexpr absl::Duration kConfirmLimit = absl::Seconds(15);
constexpr absl::Duration kEndLimit = absl::Seconds(30);
constexpr absl::Duration kTellLimit = absl::Seconds(5);
constexpr absl::Duration kGateLimit = absl::Seconds(30);  // for runc and CRIU to come to their gate
constexpr absl::Duration kGateLook = absl::Milliseconds(100);

absl::Time After(absl::Duration duration) { return SteadyNow() + duration; }

auto CommitActs() {
  auto acts = kCommitActs;
  if (GODWIT_MUTATED("thaws-before-running")) std::swap(acts[0], acts[2]);
  return acts;
}

// The agent of the release before kept the containers' folders beside the side's own files, where that of a
// container called thawed or pulled was taken for such a file.
absl::Status MoveContainers(const std::string& folder, const std::vector<std::string>& containers) {
  for (const std::string& container : containers) {
    const std::string from = absl::StrCat(folder, "/", container);
    const std::string to = absl::StrCat(folder, "/", transfer::ContainerPath(container));
    struct stat info;
    const bool there = lstat(from.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
    if (!there || container == transfer::kContainers || FileExists(to)) continue;
    GODWIT_RETURN_IF_ERROR(MakeFolders(absl::StrCat(folder, "/", transfer::kContainers), 0700));
    if (rename(from.c_str(), to.c_str()) != 0)
      return ErrnoStatus(absl::StrCat("cannot move ", from, " to ", to));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Target>> Target::Start(TargetRequest request, std::string folder,
                                                      TargetNode node, BringState bring) {
  GODWIT_RETURN_IF_ERROR(WriteFileDurably(absl::StrCat(folder, "/spec.json"), json::Encode(request)));
  GODWIT_ASSIGN_OR_RETURN(journal::TargetJournal journal,
                          journal::TargetJournal::Open(absl::StrCat(folder, "/journal")));
  GODWIT_RETURN_IF_ERROR(journal.Append({.state = TargetState::kOpen}));
  GODWIT_RETURN_IF_ERROR(
      node.permits->Add({request.uid, request.pod.uid, request.containers, request.create_limit}));
  std::unique_ptr<Target> target(new Target(std::move(request), std::move(folder), std::move(node),
                                            std::move(bring), std::move(journal)));
  target->thread_ = std::thread([raw = target.get()] { raw->Run(); });
  return target;
}

absl::StatusOr<std::unique_ptr<Target>> Target::Recover(std::string folder, TargetNode node) {
  GODWIT_ASSIGN_OR_RETURN(std::string text, ReadFile(absl::StrCat(folder, "/spec.json")));
  GODWIT_ASSIGN_OR_RETURN(TargetRequest request, json::Decode<TargetRequest>(text));
  GODWIT_RETURN_IF_ERROR(MoveContainers(folder, request.containers));
  GODWIT_ASSIGN_OR_RETURN(journal::TargetJournal journal,
                          journal::TargetJournal::Open(absl::StrCat(folder, "/journal")));
  const TargetState state = journal.state();
  const permits::PermitSpec permit{request.uid, request.pod.uid, request.containers, request.create_limit};
  const std::string uid = request.uid;
  std::unique_ptr<Target> target(
      new Target(std::move(request), std::move(folder), std::move(node), nullptr, std::move(journal)));
  target->recovered_ = true;
  const absl::StatusOr<std::string> copies = ReadFile(absl::StrCat(target->folder_, "/copies.json"));
  if (copies.ok()) {
    GODWIT_ASSIGN_OR_RETURN(Copies read, json::Decode<Copies>(*copies));
    target->copies_ = std::move(read.copies);
    target->NoteLacking();
    target->TakeUpPulls();
  }
  const TargetStage stage = RecoveredStage(state, FileExists(absl::StrCat(target->folder_, "/thawed")));
  {
    absl::MutexLock lock(&target->mutex_);
    target->stage_ = stage;
    if (target->stage_ == TargetStage::kAborting) {
      target->abort_ = {"AgentRestarted",
                        "the target node's agent was restarted before all containers were restored"};
    } else if (target->stage_ == TargetStage::kAborted) {
      const journal::TargetRecord& last = target->journal_.records().back();
      target->abort_ = {last.reason, last.message};
    }
  }
  // Fails for permits that are aborted on the disk already: they go on being refused without the table, and
  // EndCopy destroys what may be left.
  if (state != TargetState::kAborted && state != TargetState::kRunning) {
    std::map<std::string, std::string> standing;
    for (const Copy& copy : target->copies_) {
      if (state == TargetState::kPrepared) standing[copy.container] = copy.cgroup;
    }
    if (absl::Status status = target->node_.permits->Add(permit, standing); !status.ok()) {
      LOG(WARNING) << Log("permits not taken up again").With("migration", uid).With(status);
    }
  }
  if (stage == TargetStage::kPulling) {
    target->node_.permits->Spend(permit);
    target->BeginPulling();
  }
  LOG(INFO) << Log("took up a target").With("migration", uid).With("state", json::Name(state));
  target->thread_ = std::thread([raw = target.get()] { raw->Run(); });
  return target;
}

Target::Target(TargetRequest request, std::string folder, TargetNode node, BringState bring,
               journal::TargetJournal journal)
    : request_(std::move(request)),
      folder_(std::move(folder)),
      node_(std::move(node)),
      bring_(std::move(bring)),
      journal_(std::move(journal)) {
  const uint64_t limit = node_.memory_for_pages ? node_.memory_for_pages() : 0;
  for (const std::string& container : request_.containers) {
    stores_[container] =
        std::make_unique<memory::PageStore>(limit, memory::PageStore::kMaxTasks, node_.memory_for_pages);
    pulls_[container] = MakePull(container, /*known=*/true);
  }
}

Target::~Target() {
  std::shared_ptr<transfer::Stream> stream;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    stream = stream_;
  }
  if (stream != nullptr) stream->Shutdown();
  if (thread_.joinable()) thread_.join();
  pulls_.clear();
}

// --- what is asked from outside
// ------------------------------------------------------------------------------------

agent_api::TargetStatus Target::status() const {
  agent_api::TargetStatus status;
  {
    absl::MutexLock lock(&mutex_);
    status.state = StateOf(stage_);
    status.committing = stage_ == TargetStage::kCommitting;
    if (status.state == TargetState::kPrepared) status.pull.total_bytes = pull_bytes_;
    if (abort_.has_value() && (stage_ == TargetStage::kAborting || stage_ == TargetStage::kAborted)) {
      status.reason = abort_->reason;
      status.message = abort_->message;
    }
  }
  if (status.state == TargetState::kRunning) status.pull = PullNow();
  if (status.state == TargetState::kOpen) status.waiting = node_.permits->Waiting(request_.uid);
  if (status.state == TargetState::kOpen) status.restored = node_.permits->Standing(request_.uid);
  if (status.state == TargetState::kPrepared || status.state == TargetState::kRunning)
    status.restored = request_.containers;
  return status;
}

bool Target::final() const {
  absl::MutexLock lock(&mutex_);
  return IsFinal(stage_);
}

absl::Status Target::Abort(const std::string& reason, const std::string& message) {
  bool restoring = false;
  {
    absl::MutexLock lock(&mutex_);
    switch (AbortIn(stage_)) {
      case AbortAnswer::kNoted: break;
      case AbortAnswer::kAlready: return absl::OkStatus();
      case AbortAnswer::kTooLate:
        return absl::FailedPreconditionError(
            absl::StrCat("migration ", request_.uid, " is committed on this node: too late to abort"));
    }
    if (!abort_.has_value()) abort_ = {reason, message};
    restoring = stage_ == TargetStage::kRestoring;
  }
  // The thread may wait for a restore: this ends it at once. The thread itself sees to it that nothing is
  // left.
  if (restoring) (void)node_.permits->Abort(request_.uid, message, absl::Milliseconds(1));
  return absl::OkStatus();
}

absl::Status Target::TakeOver() {
  absl::MutexLock lock(&mutex_);
  if (AbortIn(stage_) == AbortAnswer::kTooLate) return absl::OkStatus();
  if (!MayTakeOver(stage_) || abort_.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("migration ", request_.uid, " is not prepared on this node: ", NameOf(stage_)));
  }
  LOG(WARNING) << Log("runs without the source's word").With("migration", request_.uid);
  commit_ = true;
  return absl::OkStatus();
}

void Target::SetFailure(const std::string& reason, const std::string& message) {
  absl::MutexLock lock(&mutex_);
  if (!abort_.has_value()) abort_ = {reason, message};
}

void Target::AddStep(const std::string& name, const std::string& container, absl::Time begin) {
  absl::MutexLock lock(&mutex_);
  if (!first_frame_.has_value()) return;
  steps_.push_back({.name = name,
                    .container = container,
                    .offset = begin - *first_frame_,
                    .duration = SteadyNow() - begin});
}

bool Target::Pause(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&stop_), duration);
}

// --- the stages
// ----------------------------------------------------------------------------------------------------

void Target::Run() {
  bool worked = false;
  for (;;) {
    TargetStage stage;
    {
      absl::MutexLock lock(&mutex_);
      if (stop_ || IsFinal(stage_)) break;
      stage = stage_;
    }
    GODWIT_FAILPOINT(absl::StrCat("target.", NameOf(stage)), request_.uid);
    const std::optional<TargetEvent> event = Perform(stage);
    worked = true;
    absl::MutexLock lock(&mutex_);
    if (stop_ || !event.has_value()) break;
    const std::optional<TargetStage> next = Next(stage, *event);
    if (!next.has_value()) {
      LOG(DFATAL) << Log("no such transition").With("migration", request_.uid).With("stage", NameOf(stage));
      break;
    }
    if (*next != stage) {
      LOG(INFO) << Log("target")
                       .With("migration", request_.uid)
                       .With("stage", NameOf(*next))
                       .With("reason", abort_.has_value() ? abort_->reason : "");
    }
    stage_ = *next;
  }
  if (final()) {
    for (const auto& [container, store] : stores_) store->KeepTasks({});  // a pager has its own descriptors
  }
  if (worked && final() && node_.finished) node_.finished(bring_ != nullptr, status(), create_wait_);
}

std::optional<TargetEvent> Target::Perform(TargetStage stage) {
  switch (stage) {
    case TargetStage::kRestoring: return RestoreAll();
    case TargetStage::kPreparing: return Prepare();
    case TargetStage::kPrepared: return AwaitVerdict();
    case TargetStage::kCommitting: return Commit();
    case TargetStage::kPulling: return AwaitPages();
    case TargetStage::kAborting: return EndCopy();
    case TargetStage::kRunning:
    case TargetStage::kAborted: return std::nullopt;
  }
  return std::nullopt;
}

TargetEvent Target::RestoreAll() {
  absl::Status status = bring_ == nullptr ? absl::OkStatus() : Bring();
  for (const std::string& container : request_.containers) {
    if (status.ok()) status = RestoreOne(container, container == request_.containers.front());
  }
  if (status.ok()) {
    image_memory_.reset();  // all of it is in the processes now
    return TargetEvent::kDone;
  }
  SetFailure(ReasonOf(status, "RestoreFailed"), std::string(status.message()));
  return TargetEvent::kFailed;
}

absl::Status Target::Bring() {
  GODWIT_ASSIGN_OR_RETURN(auto states, bring_());
  absl::MutexLock lock(&mutex_);
  states_ = std::move(states);
  return absl::OkStatus();
}

absl::StatusOr<permits::Claim> Target::AwaitClaim(const std::string& container, absl::Duration limit) {
  for (const absl::Time deadline = After(limit); SteadyNow() < deadline;) {
    absl::StatusOr<permits::Claim> claim = node_.permits->WaitForClaim(request_.uid, container, kLook);
    if (!absl::IsDeadlineExceeded(claim.status())) return claim;
    GODWIT_RETURN_IF_ERROR(CheckCut());
    absl::MutexLock lock(&mutex_);
    if (stop_) return absl::CancelledError("the agent ends");
    if (abort_.has_value()) return absl::AbortedError(abort_->message);
  }
  return absl::DeadlineExceededError(
      absl::StrCat("kubelet did not start container ", container, " within ", absl::FormatDuration(limit)));
}

absl::StatusOr<ContainerState> Target::AwaitState(const std::string& container, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  auto arrived = [this, &container]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return Interrupted() || states_.contains(container);
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&arrived), deadline - SteadyNow())) {
    return absl::DeadlineExceededError(absl::StrCat(
        "the state of container ", container, " did not arrive within ",
        absl::FormatDuration(request_.create_limit), ", the longest that kubelet may be kept waiting"));
  }
  if (stop_) return absl::CancelledError("the agent ends");
  if (abort_.has_value()) return absl::AbortedError(abort_->message);
  return states_.at(container);
}

// Until the container's state is about to come, or is there: its images' folder, and the files that came
// before the freeze.
absl::StatusOr<ContainerState> Target::AwaitArmed(const std::string& container, absl::Time deadline) {
  while (SteadyNow() < deadline) {
    GODWIT_RETURN_IF_ERROR(CheckCut());
    absl::MutexLock lock(&mutex_);
    auto armed = [this, &container]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return Interrupted() || armed_.contains(container) || states_.contains(container);
    };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&armed), kLook)) continue;
    if (stop_) return absl::CancelledError("the agent ends");
    if (abort_.has_value()) return absl::AbortedError(abort_->message);
    if (const auto armed = armed_.find(container); armed != armed_.end()) return armed->second;
    return ContainerState{.images = states_.at(container).images};
  }
  return absl::DeadlineExceededError(absl::StrCat(
      "the state of container ", container, " did not arrive within ",
      absl::FormatDuration(request_.create_limit), ", the longest that kubelet may be kept waiting"));
}

absl::Status Target::RestoreOne(const std::string& container, bool first) {
  GODWIT_RETURN_IF_ERROR(MakeFolders(absl::StrCat(FolderOf(container), "/work"), 0700));
  for (;;) {
    GODWIT_ASSIGN_OR_RETURN(permits::Claim claim,
                            AwaitClaim(container, first ? kFirstClaimLimit : request_.create_limit));
    const absl::Time claimed = SteadyNow();
    const absl::Time deadline = claimed + request_.create_limit;
    absl::StatusOr<permits::Restored> restored = RestoreAtGate(claim, deadline);
    if (absl::IsFailedPrecondition(restored.status()) && SteadyNow() < deadline)
      continue;  // a newer `create` came, or none waits now
    if (!restored.ok()) return restored.status();
    create_wait_ = std::max(create_wait_, SteadyNow() - claimed);
    const absl::Time standing = SteadyNow();
    GODWIT_FAILPOINT("target.restored", request_.uid);
    GODWIT_RETURN_IF_ERROR(node_.permits->Confirm(request_.uid, container, kConfirmLimit));
    // Whoever called for it may be gone, and with it kubelet's knowledge of what would run here.
    GODWIT_RETURN_IF_ERROR(node_.is_started(restored->claim.container_id));
    AddStep("confirm", container, standing);
    GODWIT_FAILPOINT("target.confirmed", request_.uid);
    copies_.push_back({.container = container,
                       .cgroup = restored->claim.cgroup,
                       .container_id = restored->claim.container_id,
                       .missing = static_cast<int64_t>(stores_.at(container)->missing_bytes())});
    LOG(INFO) << Log("restored, standing still")
                     .With("migration", request_.uid)
                     .With("container", container)
                     .With("pid", restored->pid);
    return absl::OkStatus();
  }
}

// runc and CRIU are started when the source is about to freeze, and wait at a gate; it is opened when all of
// the container's state is there.
absl::StatusOr<permits::Restored> Target::RestoreAtGate(const permits::Claim& claim, absl::Time deadline) {
  GODWIT_ASSIGN_OR_RETURN(const ContainerState armed, AwaitArmed(claim.container, deadline));
  const std::string own = FolderOf(claim.container);
  const permits::RestoreOptions options{
      .gate = absl::StrCat(own, "/work/gate"),
      .lazy_pages = HasPages(claim.container),
      .shared_memory = HasPages(claim.container) ? SharedMemoryFile(claim.container) : ""};
  GODWIT_RETURN_IF_ERROR(criu::MakeGate(options.gate));
  absl::StatusOr<permits::Restored> restored = absl::UnknownError("the restore has not begun");
  absl::Notification ended;
  std::thread restoring([&] {
    restored = node_.permits->Restore(request_.uid, claim.container, armed.images, absl::StrCat(own, "/work"),
                                      deadline - SteadyNow(), options);
    if (!restored.ok() && !absl::IsFailedPrecondition(restored.status()))
      SetFailure(ReasonOf(restored.status(), "RestoreFailed"), std::string(restored.status().message()));
    ended.Notify();
  });
  absl::Time opened;
  const runtime::QuickBreakpoints quick_breakpoints;
  std::optional<runtime::QuickMoves> quick_moves;
  auto open = [&]() -> absl::Status {
    absl::StatusOr<UniqueFd> gate = absl::UnavailableError("not reached");
    for (const absl::Time limit = std::min(deadline, After(kGateLimit)); !gate.ok() && SteadyNow() < limit;) {
      if (ended.HasBeenNotified()) return absl::OkStatus();  // it says why itself
      gate = criu::ReachGate(options.gate, kGateLook);
    }
    if (absl::IsDeadlineExceeded(gate.status())) {
      return absl::DeadlineExceededError(
          absl::StrCat("the restore of container ", claim.container, " was not ready to begin within ",
                       absl::FormatDuration(kGateLimit), ": the node is overloaded, or CRIU hangs"));
    }
    GODWIT_RETURN_IF_ERROR(gate.status());
    GODWIT_RETURN_IF_ERROR(MakeReady(claim, armed.files, deadline, quick_moves));
    GODWIT_FAILPOINT("target.state-complete", request_.uid);
    opened = SteadyNow();
    const absl::Status open = criu::OpenGate(*gate);
    GODWIT_FAILPOINT("target.gate-open", request_.uid);
    return open;
  };
  absl::Status ready = open();
  // The agent's own end decides nothing: it hangs up on the runtime, which ends the restore.
  if (!ready.ok() && !absl::IsCancelled(ready) && !ended.HasBeenNotified()) {
    SetFailure(ReasonOf(ready, "RestoreFailed"), std::string(ready.message()));
    (void)node_.permits->Abort(request_.uid, std::string(ready.message()), absl::Milliseconds(1));
  }
  restoring.join();
  unlink(options.gate.c_str());
  if (!restored.ok() && !ready.ok() && !absl::IsFailedPrecondition(restored.status())) return ready;
  if (restored.ok()) AddStep("restore", claim.container, opened);
  return restored;
}

// Puts everything in its place: what came while the source ran, then, when it has come, the rest.
absl::Status Target::MakeReady(const permits::Claim& claim, const FilesToApply& early, absl::Time deadline,
                               std::optional<runtime::QuickMoves>& quick_moves) {
  FilesToApply before = early;
  ForgetApplied(before);
  if (!before.rootfs.paths.empty() || !before.volumes.empty())
    GODWIT_RETURN_IF_ERROR(node_.apply_files(claim, request_.pod.uid, before));
  GODWIT_RETURN_IF_ERROR(WriteCopies(claim));
  GODWIT_RETURN_IF_ERROR(node_.is_started(claim.container_id));
  TellAtGate(claim.container);
  GODWIT_FAILPOINT("target.at-gate", request_.uid);
  if (!node_.cgroup_procs.empty()) quick_moves.emplace(node_.cgroup_procs);
  GODWIT_ASSIGN_OR_RETURN(ContainerState state, AwaitState(claim.container, deadline));
  const absl::Time begin = SteadyNow();
  GODWIT_RETURN_IF_ERROR(node_.check_images(state.images));
  GODWIT_RETURN_IF_ERROR(AddPages(claim.container, state.images));
  state.files.rootfs.applied = before.rootfs.paths.size();
  for (auto& [volume, tars] : state.files.volumes) {
    const auto applied = before.volumes.find(volume);
    if (applied != before.volumes.end()) tars.applied = applied->second.paths.size();
  }
  ForgetApplied(state.files);
  GODWIT_RETURN_IF_ERROR(node_.apply_files(claim, request_.pod.uid, state.files));
  for (const auto& [volume, tars] : state.files.volumes) applied_volumes_.insert(volume);
  AddStep("apply", claim.container, begin);
  return absl::OkStatus();
}

// What PREPARED will speak of, this container included: a file that is written durably is not for the freeze.
absl::Status Target::WriteCopies(const permits::Claim& claim) const {
  Copies copies{copies_};
  copies.copies.push_back(
      {.container = claim.container, .cgroup = claim.cgroup, .container_id = claim.container_id});
  return WriteFileDurably(absl::StrCat(folder_, "/copies.json"), json::Encode(copies));
}

// A container that stands restored has the volumes' files open.
void Target::ForgetApplied(FilesToApply& files) const {
  for (const std::string& volume : applied_volumes_) files.volumes.erase(volume);
}

// The source freezes when it has heard it: what the restore needs beforehand is not in the freeze.
void Target::TellAtGate(const std::string& container) {
  std::shared_ptr<transfer::Stream> stream;
  {
    absl::MutexLock lock(&mutex_);
    stream = stream_;
  }
  if (stream == nullptr) return;
  if (absl::Status status =
          stream->SendMessage(FrameType::kAtGate, transfer::AtGate{container}, After(kTellLimit));
      !status.ok())
    LOG(WARNING) << Log("the source was not told").With("migration", request_.uid).With(status);
}

bool Target::HasPages(const std::string& container) const { return !stores_.at(container)->Tasks().empty(); }

std::string Target::SharedMemoryFile(const std::string& container) const {
  return absl::StrCat(FolderOf(container), "/work/shared-memory");
}

// CRIU's images say of the pages that came beside them that the pager has them; of shared memory CRIU's
// restore is told where it is.
absl::Status Target::AddPages(const std::string& container, const std::string& images) const {
  memory::PageStore& store = *stores_.at(container);
  for (const pid_t task : store.Tasks()) {
    const memory::Ranges held = store.Held(task);
    criu::Content content{.there = memory::Difference(held, store.Missing(task))};
    content.read = [&store, task](uint64_t address, char* to, size_t size) {
      return store.Read(task, address, to, size);
    };
    GODWIT_ASSIGN_OR_RETURN(const memory::Ranges wanted, node_.add_pages(images, task, held, content));
    // The pager would find no mapping for the others.
    if (wanted != held) GODWIT_RETURN_IF_ERROR(store.Keep(task, wanted));
  }
  std::string shared;
  for (const pid_t key : store.Objects()) {
    if (store.Held(key).empty()) continue;  // CRIU makes one as good
    GODWIT_ASSIGN_OR_RETURN(const memory::PageStore::SharedFile file, store.HandOver(key));
    absl::StrAppend(&shared, memory::SharedId(key), " ", file.inode, " ", file.path, "\n");
  }
  const std::string path = SharedMemoryFile(container);
  // Read at once, on this machine: no need to wait for the disk.
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
  return WriteAll(file.get(), shared, path);
}

absl::StatusOr<memory::PageServer::Found> Target::Pages(const std::string& container) const {
  const auto store = stores_.find(container);
  if (store == stores_.end() || final())
    return absl::NotFoundError(absl::StrCat("no memory of container ", container, " is kept here"));
  bool pulled = store->second->missing_bytes() > 0;
  {
    absl::MutexLock lock(&mutex_);
    pulled = pulled || pulled_.contains(container);
  }
  if (pulled) return pulls_.at(container)->Open();
  memory::PageServer::Stores pages;
  for (const pid_t task : store->second->Tasks()) {
    GODWIT_ASSIGN_OR_RETURN(UniqueFd file, store->second->FileOf(task));
    pages.emplace_back(task, std::move(file));
  }
  return pages;
}

void Target::LoseMemory(const std::string& container, const std::string& why) {
  {
    absl::MutexLock lock(&mutex_);
    if (!pulled_.contains(container)) return;
  }
  // Whoever tells us forgets it now.
  if (absl::Status noted = WriteFileDurably(LostFile(container), why); !noted.ok())
    LOG(WARNING) << Log("a restart would take the container for one that ended by itself")
                        .With("migration", request_.uid)
                        .With(noted);
  pulls_.at(container)->Killed(why);
}

// Whether all copies stand, frozen, as they were restored.
absl::Status Target::CheckCopies() {
  const absl::Status standing = node_.permits->CheckStanding(request_.uid);
  if (!recovered_ || !absl::IsNotFound(standing)) return standing;
  for (const Copy& copy : copies_) {
    if (absl::Status status = node_.stands(copy.cgroup); !status.ok())
      return Annotate(status, absl::StrCat("container ", copy.container));
  }
  return copies_.size() == request_.containers.size()
             ? absl::OkStatus()
             : absl::DataLossError("not all restored containers are known");
}

TargetEvent Target::Prepare() {
  const absl::Time begin = SteadyNow();
  absl::Status status = CheckCopies();
  const bool pulls = NoteLacking() > 0;
  if (status.ok() && pulls)  // known since the freeze
    status = WriteFileDurably(absl::StrCat(folder_, "/copies.json"), json::Encode(Copies{copies_}));
  if (status.ok()) status = WriteState(TargetState::kPrepared);
  AddStep("prepare", "", begin);
  if (!status.ok()) {
    SetFailure(ReasonOf(status, "RestoreFailed"), std::string(status.message()));
    return TargetEvent::kFailed;
  }
  return TargetEvent::kDone;
}

std::optional<TargetEvent> Target::AwaitVerdict() {
  const bool decides = request_.source_node.empty();  // a restore from a checkpoint: there is nobody else
  if (!recovered_ && !decides) Tell(FrameType::kPrepared);
  for (;;) {
    bool abort = false;
    bool commit = false;
    {
      absl::MutexLock lock(&mutex_);
      auto word = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return Interrupted() || commit_; };
      if (!decides) mutex_.AwaitWithTimeout(absl::Condition(&word), kLook);
      if (stop_) return std::nullopt;
      abort = abort_.has_value();
      commit = commit_ || decides;
    }
    const absl::Status standing = abort ? absl::OkStatus() : CheckCopies();
    if (!standing.ok())
      SetFailure("CopyDied", absl::StrCat("a restored container ended before it ran: ", standing.message()));
    if (const auto event = WhilePrepared(abort, standing.ok(), commit); event.has_value()) return event;
  }
}

std::optional<TargetEvent> Target::Commit() {
  commit_begin_ = SteadyNow();
  BeginPulling();
  for (const CommitAct act : CommitActs()) {
    GODWIT_FAILPOINT(absl::StrCat("target.commit-", static_cast<int>(act)), request_.uid);
    // There is no way back: whatever is in the way (a full disk) has to go.
    for (absl::Status status = Do(act); !status.ok(); status = Do(act)) {
      LOG(ERROR) << Log("the commit is not complete yet").With("migration", request_.uid).With(status);
      if (Pause(absl::Seconds(1))) return std::nullopt;
    }
  }
  return TargetEvent::kDone;
}

absl::Status Target::Do(CommitAct act) {
  const permits::PermitSpec permit{request_.uid, request_.pod.uid, request_.containers,
                                   request_.create_limit};
  switch (act) {
    case CommitAct::kWriteRunning: return WriteState(TargetState::kRunning);
    case CommitAct::kSpendPermits: node_.permits->Spend(permit); break;
    case CommitAct::kThaw:
      for (const Copy& copy : copies_) GODWIT_RETURN_IF_ERROR(node_.thaw(copy.cgroup));
      break;
    case CommitAct::kTellRunning: {
      AddStep("commit", "", commit_begin_);
      {
        absl::MutexLock lock(&mutex_);
        thawed_ = SteadyNow();
      }
      Tell(FrameType::kRunning);
      break;
    }
    case CommitAct::kWriteSpent: return node_.permits->WriteSpent(permit);
    case CommitAct::kNoteThawed: return WriteFileDurably(absl::StrCat(folder_, "/thawed"), "");
  }
  return absl::OkStatus();
}

TargetEvent Target::EndCopy() {
  for (const EndAct act : kEndActs) {
    GODWIT_FAILPOINT(absl::StrCat("target.end-", static_cast<int>(act)), request_.uid);
    const absl::Status status = Do(act);
    if (status.ok()) continue;
    LOG(ERROR) << Log("the abort is not complete yet").With("migration", request_.uid).With(status);
    Pause(absl::Seconds(1));
    return TargetEvent::kFailed;
  }
  return TargetEvent::kDone;
}

absl::Status Target::Do(EndAct act) {
  switch (act) {
    case EndAct::kEndPermitsAndCopies: {
      std::string message;
      {
        absl::MutexLock lock(&mutex_);
        message = absl::StrCat("the migration was aborted: ", abort_->reason, ": ", abort_->message);
      }
      const absl::Status status = node_.permits->Abort(request_.uid, message, kEndLimit);
      return absl::IsNotFound(status) && recovered_ ? node_.destroy_left_copies(request_.pod.uid) : status;
    }
    case EndAct::kWriteAborted: return WriteState(TargetState::kAborted);
    case EndAct::kTellAbort: {
      Tell(FrameType::kAbort);
      absl::MutexLock lock(&mutex_);
      abort_told_ = true;
      break;
    }
  }
  return absl::OkStatus();
}

// A journal that failed is opened anew: only its file knows whether the record is there.
absl::Status Target::WriteState(TargetState state) {
  journal::TargetRecord record{.state = state};
  if (state == TargetState::kAborted) {
    absl::MutexLock lock(&mutex_);
    record.reason = abort_->reason;
    record.message = abort_->message;
  }
  absl::Status status = journal_.Append(record);
  if (status.ok()) return status;
  absl::StatusOr<journal::TargetJournal> anew =
      journal::TargetJournal::Open(absl::StrCat(folder_, "/journal"));
  if (!anew.ok()) return status;
  journal_ = *std::move(anew);
  return journal_.state() == state ? absl::OkStatus() : status;
}

void Target::Tell(FrameType type) {
  std::shared_ptr<transfer::Stream> stream;
  transfer::Reason reason;
  {
    absl::MutexLock lock(&mutex_);
    stream = stream_;
    if (abort_.has_value()) reason = *abort_;
  }
  if (stream == nullptr) return;
  absl::Status status;
  switch (type) {
    case FrameType::kRunning: return TellRunning(stream);
    case FrameType::kAbort: status = stream->SendMessage(type, reason, After(kTellLimit)); break;
    default: status = stream->Send(type, {}, After(kTellLimit)); break;
  }
  // The source asks when it does not hear.
  if (!status.ok())
    LOG(WARNING) << Log("the source was not told").With("migration", request_.uid).With(status);
}

void Target::TellRunning(const std::shared_ptr<transfer::Stream>& stream) {
  transfer::Timings timings;
  {
    absl::MutexLock lock(&mutex_);
    timings.steps = steps_;
    if (thawed_.has_value()) timings.thawed_ago = SteadyNow() - *thawed_;
    timings.missing = !pulled_.empty();
    // Before it is: whoever ends the pulling now tells it that, too. A COMMIT that comes late over a
    // connection that the source has given up is answered, but the list of what is missing must not follow it
    // there.
    if (stream == stream_) told_ = stream;
  }
  const absl::Status status = stream->SendMessage(FrameType::kRunning, timings, After(kTellLimit));
  if (!status.ok())
    LOG(WARNING) << Log("the source was not told").With("migration", request_.uid).With(status);
}

}  // namespace godwit::migration
