// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/runtime/freezer.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/json.h"
#include "base/log.h"
#include "base/socket.h"
#include "base/status.h"
#include "runtime/detached/detached.h"
#include "runtime/pager/agent_pages.h"

namespace godwit::pager {
namespace {

constexpr absl::Duration kCriuLimit = absl::Minutes(10);  // kubelet lets a create wait for two
constexpr absl::Duration kStatusPause = absl::Milliseconds(200);
constexpr absl::Duration kKillLimit = absl::Seconds(10);
constexpr int kLookMs = 1000;
constexpr int kEventsAtOnce = 64;
constexpr int kChunksToPunch = 32;
constexpr int64_t kMaxPagers = 16;  // one that dies again and again will not do

int64_t NowNs() { return absl::ToInt64Nanoseconds(Clock::Real().Monotonic()); }

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Make(const agent_api::PagerSpec& spec,
                                                     std::unique_ptr<Ledger> ledger, Links links) {
  std::unique_ptr<Server> server(new Server(spec, std::move(ledger), std::move(links)));
  GODWIT_RETURN_IF_ERROR(server->Prepare());
  return server;
}

Server::Server(const agent_api::PagerSpec& spec, std::unique_ptr<Ledger> ledger, Links links)
    : spec_(spec), ledger_(std::move(ledger)), milestones_(ledger_->milestones()), links_(std::move(links)) {}

Server::~Server() { StopThreads(); }

absl::Status Server::Prepare() {
  GODWIT_ASSIGN_OR_RETURN(end_signal_, detached::EndSignal());
  epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
  filled_event_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.ok() || !filled_event_.ok()) return ErrnoStatus("cannot wait for anything");
  GODWIT_ASSIGN_OR_RETURN(keeper_, Keeper::Start(ledger_->fd()));
  keeper_pid_ = keeper_->pid();
  if (milestones_.started_ns == 0) milestones_.started_ns = NowNs();
  milestones_.pagers.fetch_add(1);
  for (const int fd : {end_signal_.get(), filled_event_.get(), keeper_->pidfd()}) Watch(fd, EPOLLIN);
  for (const UniqueFd* link : {&links_.leash, &links_.listener, &links_.criu}) {
    if (link->ok()) Watch(link->get(), EPOLLIN);
  }
  pager_ = std::make_unique<Pager>(
      *ledger_, [this](int uffd) { Watch(uffd, EPOLLIN); }, [this] { pull_->Wake(); });
  pull_ = std::make_unique<PullLink>(spec_, *pager_);
  WriteStatus();
  return absl::OkStatus();
}

void Server::Watch(int fd, uint32_t events) {
  epoll_event event = {.events = events, .data = {.fd = fd}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0 && errno != EEXIST)
    PLOG(ERROR) << Log("cannot watch a descriptor").With("migration", spec_.migration_uid);
}

absl::Status Server::Run() {
  absl::StatusOr<bool> more = Begin();
  while (more.ok() && *more) more = Step();
  StopThreads();
  if (!more.ok()) {
    KillContainer(more.status());
    pull_->Killed(more.status());
  }
  pull_.reset();  // the agent hears of it while the status file is there still
  milestones_.finished = true;
  // What never ran has no memory to lose: who restored it tells why.
  if (!milestones_.failed || !milestones_.thawed) unlink(spec_.status.c_str());
  unlink(spec_.socket.c_str());
  keeper_.reset();
  return more.status();
}

absl::StatusOr<bool> Server::Begin() {
  if (milestones_.finished) return false;
  if (milestones_.pagers > kMaxPagers)
    return absl::InternalError(absl::StrCat(kMaxPagers, " pagers of this container have died"));
  GODWIT_RETURN_IF_ERROR(pager_->Recover(links_.criu.get()));
  if (links_.criu.ok() && !milestones_.stores_known) {
    GODWIT_RETURN_IF_ERROR(GetStores());
  } else if (pager_->missing()) {
    GODWIT_RETURN_IF_ERROR(StartPulling(std::nullopt));
  }
  return milestones_.criu_gone ? WatchCgroup() : true;
}

absl::StatusOr<bool> Server::Step() {
  epoll_event events[kEventsAtOnce];
  const int count = epoll_wait(epoll_.get(), events, kEventsAtOnce, kLookMs);
  if (count < 0 && errno != EINTR) return ErrnoStatus("cannot wait for messages");
  const absl::Duration since = Clock::Real().Monotonic();
  for (int i = 0; i < count; ++i) {
    GODWIT_ASSIGN_OR_RETURN(const bool more, Dispatch(events[i].data.fd, since));
    if (!more) return false;
  }
  // The kernel tells of a cgroup's end at most every 10 ms, and not at all when it is removed before
  // (kernel/cgroup/cgroup.c, cgroup_file_notify).
  if (count == 0 && cgroup_events_.ok()) {
    GODWIT_ASSIGN_OR_RETURN(const bool more, LookAtCgroup());
    if (!more) return false;
  }
  if (keeper_ == nullptr) RestartKeeper();
  if (links_.listener.ok() && since - absl::Nanoseconds(milestones_.started_ns.load()) > kCriuLimit) {
    LOG(WARNING) << Log("no restore came").With("migration", spec_.migration_uid).With("limit", kCriuLimit);
    return false;
  }
  return true;
}

absl::StatusOr<bool> Server::Dispatch(int fd, absl::Duration since) {
  if (fd == end_signal_.get()) return HearEndSignal();
  if (links_.leash.ok() && fd == links_.leash.get()) return HearLeash();
  if (fd == links_.criu.get()) return HearCriu();
  if (fd == cgroup_events_.get()) return LookAtCgroup();
  if (fd == filled_event_.get()) {
    StopThreads();
    GODWIT_RETURN_IF_ERROR(filled_);
    LOG(INFO) << Log("filled the memory")
                     .With("migration", spec_.migration_uid)
                     .With("bytes", milestones_.total_bytes.load())
                     .With("took", absl::Nanoseconds(NowNs() - milestones_.thawed_ns));
    return false;
  }
  if (fd == pull_->failed_event()) return pull_->failure();
  if (links_.listener.ok() && fd == links_.listener.get()) {
    GODWIT_RETURN_IF_ERROR(Accept());
  } else if (keeper_ != nullptr && fd == keeper_->pidfd()) {
    LOG(ERROR) << Log("the keeper has died").With("migration", spec_.migration_uid);
    RestartKeeper();
  } else {
    GODWIT_RETURN_IF_ERROR(pager_->Serve(fd, since));
  }
  return true;
}

// To end while tasks need this process would be to lose their memory.
absl::StatusOr<bool> Server::HearEndSignal() {
  char info[128];  // of a signalfd_siginfo's size
  if (read(end_signal_.get(), info, sizeof info) < 0) return true;
  LOG(WARNING)
      << Log("told to end").With("migration", spec_.migration_uid).With("ends", links_.listener.ok());
  return !links_.listener.ok();
}

// Nobody is left who would restore the container, unless that has begun: then CRIU's connection tells.
absl::StatusOr<bool> Server::HearLeash() {
  char byte;
  if (read(links_.leash.get(), &byte, 1) != 0) return true;
  links_.leash.Reset();
  if (!links_.listener.ok()) return true;
  LOG(INFO) << Log("the restore was given up").With("migration", spec_.migration_uid);
  return false;
}

absl::Status Server::Accept() {
  absl::StatusOr<UniqueFd> connection = AcceptUnix(links_.listener.get(), absl::ZeroDuration());
  if (absl::IsDeadlineExceeded(connection.status())) return absl::OkStatus();
  GODWIT_RETURN_IF_ERROR(connection.status());
  links_.criu = *std::move(connection);
  links_.listener.Reset();
  links_.leash.Reset();
  unlink(spec_.socket.c_str());
  GODWIT_RETURN_IF_ERROR(GetStores());
  Watch(links_.criu.get(), EPOLLIN);
  return absl::OkStatus();
}

// Only now the agent knows all tasks: CRIU restores, so that the source stands still.
absl::Status Server::GetStores() {
  GODWIT_ASSIGN_OR_RETURN(AgentPages pages, AskForPages(spec_));
  GODWIT_RETURN_IF_ERROR(pager_->SetStores(std::move(pages.stores)));
  return pages.pull.has_value() ? StartPulling(std::move(pages.pull)) : absl::OkStatus();
}

absl::Status Server::StartPulling(std::optional<LineChannel> channel) {
  GODWIT_RETURN_IF_ERROR(pull_->Start(std::move(channel)));
  Watch(pull_->failed_event(), EPOLLIN);
  return absl::OkStatus();
}

absl::StatusOr<bool> Server::HearCriu() {
  GODWIT_ASSIGN_OR_RETURN(const bool open, pager_->ReceiveFromCriu(links_.criu.get()));
  if (open) return true;
  links_.criu.Reset();
  milestones_.criu_gone = true;
  if (milestones_.restored) return WatchCgroup();
  // Who started the restore tells why; what there is of the container must not run.
  LOG(WARNING) << Log("CRIU has given up the restore").With("migration", spec_.migration_uid);
  GODWIT_RETURN_IF_ERROR(runtime::KillCgroup(spec_.cgroup, kKillLimit));
  return false;
}

absl::StatusOr<bool> Server::WatchCgroup() {
  absl::StatusOr<UniqueFd> events = OpenFile(spec_.cgroup + "/cgroup.events", O_RDONLY);
  if (absl::IsNotFound(events.status())) return false;
  GODWIT_RETURN_IF_ERROR(events.status());
  cgroup_events_ = *std::move(events);
  Watch(cgroup_events_.get(), EPOLLPRI);
  return LookAtCgroup();
}

absl::StatusOr<bool> Server::LookAtCgroup() {
  char text[256];
  const ssize_t size = pread(cgroup_events_.get(), text, sizeof text, 0);
  const absl::string_view events(text, size > 0 ? static_cast<size_t>(size) : 0);
  if (size < 0 || absl::StrContains(events, "populated 0")) {
    LOG(INFO) << Log("nothing of the container is left").With("migration", spec_.migration_uid);
    return false;
  }
  if (absl::StrContains(events, "frozen 0") || milestones_.thawed) GODWIT_RETURN_IF_ERROR(StartFilling());
  return true;
}

absl::Status Server::StartFilling() {
  if (fill_thread_.joinable()) return absl::OkStatus();
  if (!milestones_.thawed) {
    GODWIT_ASSIGN_OR_RETURN(const Progress progress, pager_->GetProgress());
    milestones_.total_bytes = progress.remaining_bytes;
    milestones_.thawed_ns = NowNs();
    milestones_.thawed = true;
  }
  GODWIT_FAILPOINT("pager.fills", spec_.migration_uid);
  LOG(INFO) << Log("fills the memory")
                   .With("migration", spec_.migration_uid)
                   .With("bytes", milestones_.total_bytes.load());
  fill_thread_ = std::thread([this] { Fill(); });
  punch_thread_ = std::thread([this] { Punch(); });
  return absl::OkStatus();
}

void Server::Fill() {
  absl::Duration written = absl::ZeroDuration();
  for (int chunks = 1; !stop_; ++chunks) {
    const absl::StatusOr<bool> more = pager_->FillNext(stop_);
    if (!more.ok()) filled_ = more.status();
    if (!more.ok() || !*more) break;
    if (chunks % kChunksToPunch == 0) punch_.release();
    if (Clock::Real().Monotonic() - written < kStatusPause) continue;
    WriteStatus();
    written = Clock::Real().Monotonic();
  }
  eventfd_write(filled_event_.get(), 1);
}

void Server::Punch() {
  while (true) {
    punch_.acquire();
    while (punch_.try_acquire()) {
    }
    const bool last = stop_;
    absl::StatusOr<bool> punched = true;
    while (punched.ok() && *punched) punched = pager_->PunchNext();
    // The memory is right nevertheless; the store is held for longer.
    if (!punched.ok()) {
      LOG(ERROR) << Log("cannot give back what was filled")
                        .With("migration", spec_.migration_uid)
                        .With(punched.status());
    }
    if (last) return;
  }
}

void Server::StopThreads() {
  stop_ = true;
  if (fill_thread_.joinable()) fill_thread_.join();
  punch_.release();
  if (punch_thread_.joinable()) punch_thread_.join();
}

void Server::RestartKeeper() {
  keeper_.reset();
  absl::StatusOr<std::unique_ptr<Keeper>> keeper = Keeper::Start(ledger_->fd());
  if (!keeper.ok()) {  // the next step tries again
    LOG(ERROR)
        << Log("this pager has no keeper").With("migration", spec_.migration_uid).With(keeper.status());
    return;
  }
  keeper_ = *std::move(keeper);
  keeper_pid_ = keeper_->pid();
  Watch(keeper_->pidfd(), EPOLLIN);
  WriteStatus();
}

// To end before its processes have would let them run with memory that is not theirs.
void Server::KillContainer(const absl::Status& why) {
  LOG(ERROR) << Log("kills the container: its memory cannot be filled")
                    .With("migration", spec_.migration_uid)
                    .With("container", spec_.container_id)
                    .With(why);
  while (true) {
    const absl::Status killed = runtime::KillCgroup(spec_.cgroup, kKillLimit);
    if (killed.ok()) break;
    LOG(ERROR) << Log("the container cannot be killed").With("migration", spec_.migration_uid).With(killed);
  }
  WriteStatus(why);
  milestones_.failed = true;
}

void Server::WriteStatus(const absl::Status& failure) {
  const absl::StatusOr<Progress> progress = pager_->GetProgress();
  if (!progress.ok()) return;  // the filling will find the same, and say it
  const int64_t thawed = milestones_.thawed_ns;
  const agent_api::PagerStatus status = {
      .migration_uid = spec_.migration_uid,
      .container = spec_.container,
      .cgroup = spec_.cgroup,
      .pager_pid = getpid(),
      .keeper_pid = keeper_pid_,
      .total_bytes = milestones_.total_bytes,
      .remaining_bytes = progress->remaining_bytes,
      .missing_bytes = progress->missing_bytes,
      .faults = progress->faults,
      .fault_p50 = progress->fault_p50,
      .fault_p99 = progress->fault_p99,
      .filling = thawed == 0 ? absl::ZeroDuration() : absl::Nanoseconds(NowNs() - thawed),
      .failed = !failure.ok(),
      .message = std::string(failure.message())};
  absl::MutexLock lock(&status_mutex_);
  const absl::Status written = WriteFileDurably(spec_.status, json::Encode(status));
  if (!written.ok())
    LOG(ERROR) << Log("cannot write the status").With("migration", spec_.migration_uid).With(written);
}

}  // namespace godwit::pager
