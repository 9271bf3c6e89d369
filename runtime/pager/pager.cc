// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/pager.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::pager {
namespace {

// CRIU's last word, in place of a pid (CRIU 4.2, criu/uffd.c: LAZY_PAGES_RESTORE_FINISHED).
constexpr int32_t kRestoreFinished = 0x52535446;
// A descriptor follows its pid at once.
constexpr int kDescriptorLimitMs = 5000;
// Installed with the page that is waited for: neighbours are likely next, and all must come anyway.
constexpr uint64_t kFaultBytes = uint64_t{32} << 10;
// Asked for with a missing page that is waited for, likewise.
constexpr uint64_t kWantedBytes = uint64_t{32} << 10;
constexpr int kMessagesAtOnce = 64;
constexpr absl::Duration kMemoryPatience = absl::Seconds(10);

bool IsZero(const char* data, uint64_t bytes) {
  return data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0;
}

}  // namespace

Pager::Pager(Ledger& ledger, std::function<void(int)> watch, std::function<void()> wanted, Clock& clock)
    : ledger_(ledger),
      milestones_(ledger.milestones()),
      watch_(std::move(watch)),
      wanted_callback_(std::move(wanted)),
      clock_(clock),
      arrived_buffer_(new char[kChunk]),
      fault_buffer_(new char[kFaultBytes]) {}

Pager::~Pager() = default;

// --- what there is
// ------------------------------------------------------------------------------------------------

void Pager::AddSource(pid_t pid, int fd) {
  sources_.push_back(std::make_unique<Source>(fd));
  by_pid_[pid] = sources_.back().get();
}

Pager::Space& Pager::AddSpace(int uffd, Source& source) {
  source.spaces.push_back(std::make_unique<Space>());
  Space& space = *source.spaces.back();
  space.uffd = uffd;
  space.source = &source;
  by_uffd_[uffd] = &space;
  return space;
}

void Pager::AddTask(const Record& record) {
  if (!by_pid_.contains(record.pid)) AddSource(record.pid, -1);
  AddSpace(TaskDescriptor(record), *by_pid_[record.pid]);
}

absl::Status Pager::SetStores(std::vector<TaskStore> stores) {
  absl::MutexLock lock(&mutex_);
  for (TaskStore& task : stores) {
    const pid_t pid = task.pid;
    if (by_pid_.contains(pid)) {
      return absl::InvalidArgumentError(absl::StrCat("the agent has two page stores for task ", pid));
    }
    ledger_.Begin(RecordKind::kStore, task.store.get()).pid = pid;
    GODWIT_RETURN_IF_ERROR(ledger_.Keep());
    AddSource(pid, task.store.Release());
    if (!task.map.ok()) continue;
    ledger_.Begin(RecordKind::kMap, task.map.get()).pid = pid;
    GODWIT_RETURN_IF_ERROR(ledger_.Keep());
    GODWIT_RETURN_IF_ERROR(AddMap(pid, task.map.Release()));
  }
  milestones_.stores_known = true;
  return absl::OkStatus();
}

absl::Status Pager::AddMap(pid_t pid, int map) {
  const auto source = by_pid_.find(pid);
  if (source == by_pid_.end()) return absl::InternalError("a map of missing pages without a store");
  source->second->map = map;
  GODWIT_ASSIGN_OR_RETURN(source->second->missing, memory::PageSet::ReadMap(map));
  source->second->late = source->second->missing;
  return absl::OkStatus();
}

void Pager::Apply(const Record& record) {
  if (record.kind == RecordKind::kStore) return AddSource(record.pid, record.fd);
  if (record.kind == RecordKind::kTask) return AddTask(record);
  const auto at = by_uffd_.find(record.fd);
  if (at == by_uffd_.end()) return;
  Space& space = *at->second;
  if (record.kind == RecordKind::kClosed) {
    space.gone = true;
    by_uffd_.erase(at);
    return;
  }
  const uffd_msg& message = record.message;
  switch (message.event) {
    case UFFD_EVENT_FORK: {
      Space& child = AddSpace(static_cast<int>(message.arg.fork.ufd), *space.source);
      child.layout = space.layout;
      child.forked = true;
      return;
    }
    case UFFD_EVENT_REMAP:
      return space.layout.Move(message.arg.remap.from, message.arg.remap.to, message.arg.remap.len);
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP: return space.layout.Remove({message.arg.remove.start, message.arg.remove.end});
    default: return;
  }
}

// Its tasks are gone, or need nothing more. Closing a userfaultfd makes what it covered ordinary memory.
absl::Status Pager::Forget(Space& space) {
  if (space.gone) return absl::OkStatus();
  const Record& record = ledger_.Begin(RecordKind::kClosed, space.uffd);
  GODWIT_RETURN_IF_ERROR(ledger_.Keep());
  Apply(record);
  close(space.uffd);
  return absl::OkStatus();
}

absl::Status Pager::Recover(int connection) {
  absl::MutexLock lock(&mutex_);
  if (!milestones_.stores_known) ledger_.Clear();  // only some of the stores, if any
  for (const Record& record : ledger_.records()) {
    if (record.kind != RecordKind::kMap) {
      Apply(record);
    } else {
      GODWIT_RETURN_IF_ERROR(AddMap(record.pid, record.fd));
    }
  }
  for (const auto& [uffd, space] : by_uffd_) watch_(uffd);
  for (const auto& source : sources_) WakeWaiting(*source);
  // What was received last may not have been dealt with.
  Record& last = ledger_.next();
  if (last.kind == RecordKind::kTask && last.pid != 0) return HandleWord(connection, last);
  const auto at = by_uffd_.find(last.fd);
  if (last.kind != RecordKind::kMessage || last.message.event == 0 || at == by_uffd_.end())
    return absl::OkStatus();
  return Handle(*at->second, last, clock_.Monotonic());
}

// --- what CRIU says
// -----------------------------------------------------------------------------------------------

absl::StatusOr<bool> Pager::ReceiveFromCriu(int connection) {
  absl::MutexLock lock(&mutex_);
  Record& record = ledger_.Begin(RecordKind::kTask, -1);
  const ssize_t got = recv(connection, &record.pid, sizeof record.pid, MSG_WAITALL);
  if (got == 0 || (got < 0 && errno == ECONNRESET)) return false;
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (got < 0) return ErrnoStatus("cannot read what CRIU says");
  if (got != sizeof record.pid) return absl::DataLossError("CRIU's connection ended within a word");
  GODWIT_RETURN_IF_ERROR(HandleWord(connection, record));
  return true;
}

absl::Status Pager::HandleWord(int connection, Record& record) {
  if (record.pid == kRestoreFinished) milestones_.restored = true;
  // The pid of a zombie is negative: it has no memory.
  if (record.pid != kRestoreFinished && record.pid > 0) return ReceiveDescriptor(connection, record);
  ledger_.Begin(RecordKind::kNone, -1);
  return absl::OkStatus();
}

absl::Status Pager::ReceiveDescriptor(int connection, Record& record) {
  pollfd ready = {connection, POLLIN, 0};
  char byte;
  iovec part = {&byte, 1};
  msghdr message = {.msg_iov = &part,
                    .msg_iovlen = 1,
                    .msg_control = record.control,
                    .msg_controllen = sizeof record.control};
  if (TaskDescriptor(record) < 0) {
    poll(&ready, 1, kDescriptorLimitMs);
    const ssize_t got = recvmsg(connection, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got != 1 || TaskDescriptor(record) < 0) {
      return absl::DataLossError(absl::StrCat("CRIU sent no userfaultfd for task ", record.pid));
    }
  }
  const int uffd = TaskDescriptor(record);
  // Else poll(2) knows nothing of its messages.
  if (fcntl(uffd, F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("cannot use CRIU's userfaultfd");
  GODWIT_RETURN_IF_ERROR(ledger_.Keep());
  Apply(record);
  watch_(uffd);
  LOG(INFO) << Log("has the memory of a task")
                   .With("task", record.pid)
                   .With("store", by_uffd_[uffd]->source->store.fd() >= 0);
  return absl::OkStatus();
}

// --- what the tasks say
// -------------------------------------------------------------------------------------------

absl::Status Pager::Serve(int uffd, absl::Duration since) {
  urgent_.fetch_add(1);
  absl::MutexLock lock(&mutex_);
  urgent_.fetch_sub(1);
  const auto at = by_uffd_.find(uffd);
  if (at == by_uffd_.end()) return absl::OkStatus();  // closed meanwhile
  return ReadMessages(*at->second, since).status();
}

absl::StatusOr<int> Pager::ReadMessages(Space& space, absl::Duration since) {
  int count = 0;
  while (count < kMessagesAtOnce && !space.gone) {
    Record& record = ledger_.Begin(RecordKind::kMessage, space.uffd);
    const ssize_t got = read(space.uffd, &record.message, sizeof record.message);
    if (got < 0 && errno == EAGAIN) break;
    if (got < 0 && errno == EINTR) continue;
    if (got != sizeof record.message) return ErrnoStatus("cannot read a userfaultfd's message");
    ++count;
    GODWIT_RETURN_IF_ERROR(Handle(space, record, since));
  }
  return count;
}

absl::Status Pager::Handle(Space& space, const Record& record, absl::Duration since) {
  const uffd_msg& message = record.message;
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT: return ServeFault(space, message.arg.pagefault.address, since);
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP: {
      // Most of what is dropped was installed before, or never in the store: not worth a record.
      GODWIT_ASSIGN_OR_RETURN(const bool wanted,
                              IsWanted(space, {message.arg.remove.start, message.arg.remove.end}));
      if (!wanted) return absl::OkStatus();
      break;
    }
    case UFFD_EVENT_FORK: watch_(static_cast<int>(message.arg.fork.ufd)); break;
    case UFFD_EVENT_REMAP: break;
    default:
      return absl::InternalError(absl::StrCat("a userfaultfd says something unknown, ", message.event));
  }
  GODWIT_RETURN_IF_ERROR(ledger_.Keep());
  const bool moves = message.event == UFFD_EVENT_REMAP;
  const bool drops = message.event == UFFD_EVENT_REMOVE || message.event == UFFD_EVENT_UNMAP;
  const memory::Range range =
      moves ? memory::Range{message.arg.remap.from, message.arg.remap.from + message.arg.remap.len}
            : memory::Range{message.arg.remove.start, message.arg.remove.end};
  Apply(record);
  // A thread may wait there for a page that will come to another place now, or to none: it looks again.
  if ((moves || drops) && !space.source->late.empty()) WakePages(space.uffd, range.start, range.bytes());
  return absl::OkStatus();
}

absl::StatusOr<bool> Pager::IsWanted(const Space& space, memory::Range addresses) const {
  for (const Piece& piece : space.layout.Within(addresses)) {
    const uint64_t end = piece.offset + piece.bytes;
    if (!space.source->late.Inside({piece.offset, end}).empty()) return true;
    if (end <= space.source->punched) continue;  // what was only filled a next pager would fill again
    GODWIT_ASSIGN_OR_RETURN(const std::optional<uint64_t> held, space.source->store.NextHeld(piece.offset));
    if (held.has_value() && *held < end) return true;
  }
  return false;
}

absl::Status Pager::ServeFault(Space& space, uint64_t address, absl::Duration since) {
  const uint64_t page = address & ~(memory::PageBytes() - 1);
  if (const std::optional<uint64_t> offset = MissingOffset(space, page)) {
    Await(*space.source, *offset, since);
    return absl::OkStatus();
  }
  GODWIT_ASSIGN_OR_RETURN(const bool installed, Install(space, page));
  if (installed) latencies_.Add(clock_.Monotonic() - since);
  return absl::OkStatus();
}

absl::StatusOr<bool> Pager::Install(Space& space, uint64_t page) {
  GODWIT_ASSIGN_OR_RETURN(const Installation installation, InstallAround(space, page));
  GODWIT_RETURN_IF_ERROR(NoteMemory(installation.outcome != Outcome::kNoMemory));
  switch (installation.outcome) {
    case Outcome::kInstalled: return true;
    case Outcome::kGone: GODWIT_RETURN_IF_ERROR(Forget(space)); return false;
    case Outcome::kPresent:
    case Outcome::kUnmapped:
    case Outcome::kChanging:
    case Outcome::kNoMemory:
      // The thread looks again, and faults again where that is still called for.
      WakePages(space.uffd, page, memory::PageBytes());
      return false;
  }
  return false;
}

absl::StatusOr<Installation> Pager::InstallAround(Space& space, uint64_t page) {
  const uint64_t page_bytes = memory::PageBytes();
  const std::optional<Piece> piece = space.layout.At(page);
  uint64_t bytes = 0;  // up to the first page of zeros, which is likely none of the store's
  if (piece.has_value()) {
    uint64_t most = std::min(piece->bytes, kFaultBytes);
    const memory::Ranges missing = space.source->missing.Inside({piece->offset, piece->offset + most});
    if (!missing.empty()) most = missing[0].start - piece->offset;
    GODWIT_RETURN_IF_ERROR(space.source->store.ReadAt(piece->offset, fault_buffer_.get(), most));
    while (bytes < most && !IsZero(fault_buffer_.get() + bytes, page_bytes)) bytes += page_bytes;
  }
  if (bytes == 0) return ZeroPages(space.uffd, page, page_bytes);
  GODWIT_ASSIGN_OR_RETURN(const Installation all, CopyPages(space.uffd, page, fault_buffer_.get(), bytes));
  if (all.outcome != Outcome::kUnmapped || bytes == page_bytes) return all;
  return CopyPages(space.uffd, page, fault_buffer_.get(), page_bytes);  // the mapping ends before
}

// --- missing pages
// ------------------------------------------------------------------------------------------------

std::optional<uint64_t> Pager::MissingOffset(const Space& space, uint64_t page) const {
  if (space.source->missing.empty()) return std::nullopt;
  const std::optional<Piece> piece = space.layout.At(page);
  if (!piece.has_value()) return std::nullopt;
  const memory::Range own = {piece->offset, piece->offset + memory::PageBytes()};
  if (space.source->missing.Missing(own) > 0) return std::nullopt;
  return piece->offset;
}

// Threads that an earlier pager has heard of wait for missing pages; they fault again, and this one hears it.
void Pager::WakeWaiting(const Source& source) {
  for (const memory::Range& range : source.missing.Inside({0, kAddressEnd})) {
    for (const auto& space : source.spaces) {
      if (space->gone) continue;
      for (uint64_t at = range.start; at < range.end;) {
        const std::optional<Piece> piece = space->layout.NextStored(at, range.end);
        if (!piece.has_value()) break;
        WakePages(space->uffd, piece->address, piece->bytes);
        at = piece->offset + piece->bytes;
      }
    }
  }
}

void Pager::Await(Source& source, uint64_t offset, absl::Duration since) {
  source.awaited.try_emplace(offset, since);
  Ask(source, offset);
  if (!wanted_.empty()) wanted_callback_();
}

// For the missing pages from this one on, as far as they lie together.
void Pager::Ask(Source& source, uint64_t offset) {
  if (source.asked.Missing({offset, offset + memory::PageBytes()}) == 0) return;
  const memory::Ranges missing = source.missing.Inside({offset, offset + kWantedBytes});
  if (missing.empty()) return;
  source.asked.Insert(missing[0]);
  wanted_.push_back({.pid = PidOf(source), .offsets = missing[0]});
}

pid_t Pager::PidOf(const Source& source) const {
  for (const auto& [pid, one] : by_pid_) {
    if (one == &source) return pid;
  }
  return 0;
}

std::vector<StorePages> Pager::TakeWanted(size_t most, bool again) {
  absl::MutexLock lock(&mutex_);
  if (again) {
    wanted_.clear();
    for (const auto& source : sources_) {
      source->asked = {};
      for (const auto& [offset, since] : source->awaited) Ask(*source, offset);
    }
  }
  std::vector<StorePages> taken;
  while (!wanted_.empty() && taken.size() < most) {
    taken.push_back(wanted_.front());
    wanted_.pop_front();
  }
  return taken;
}

absl::Status Pager::Arrived(const StorePages& pages) {
  urgent_.fetch_add(1);
  absl::MutexLock lock(&mutex_);
  urgent_.fetch_sub(1);
  const auto source = by_pid_.find(pages.pid);
  if (source == by_pid_.end() || source->second->map < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("pages of task ", pages.pid, ", of which none is missing"));
  return HaveArrived(*source->second, pages.offsets);
}

absl::Status Pager::Narrow(pid_t pid, int map) {
  GODWIT_ASSIGN_OR_RETURN(const memory::PageSet still, memory::PageSet::ReadMap(map));
  absl::MutexLock lock(&mutex_);
  const auto source = by_pid_.find(pid);
  if (source == by_pid_.end() || source->second->map < 0) return absl::OkStatus();
  for (const memory::Range& range :
       memory::Difference(source->second->missing.Inside({0, kAddressEnd}), still.Inside({0, kAddressEnd})))
    GODWIT_RETURN_IF_ERROR(HaveArrived(*source->second, range));
  return absl::OkStatus();
}

absl::Status Pager::HaveArrived(Source& source, memory::Range offsets) {
  const memory::Ranges came = source.missing.Inside(offsets);
  if (came.empty()) return absl::OkStatus();  // told twice
  for (const memory::Range& range : came) {
    source.missing.Erase(range);
    source.asked.Erase(range);
    source.arrived.push_back(range);
    ++arrivals_;
  }
  GODWIT_RETURN_IF_ERROR(source.missing.WriteMap(source.map, offsets));
  const uint64_t page_bytes = memory::PageBytes();
  for (auto at = source.awaited.lower_bound(offsets.start);
       at != source.awaited.end() && at->first < offsets.end;) {
    const auto [offset, since] = *at;
    at = source.awaited.erase(at);
    for (size_t i = 0; i < source.spaces.size(); ++i) {
      Space& space = *source.spaces[i];
      if (space.gone) continue;
      const std::optional<Piece> piece = space.layout.NextStored(offset, offset + page_bytes);
      if (piece.has_value()) GODWIT_RETURN_IF_ERROR(Install(space, piece->address).status());
    }
    pulled_latencies_.Add(clock_.Monotonic() - since);
  }
  return absl::OkStatus();
}

bool Pager::missing() const {
  absl::MutexLock lock(&mutex_);
  return std::any_of(sources_.begin(), sources_.end(),
                     [](const auto& source) { return !source->missing.empty(); });
}

std::vector<GivenStore> Pager::GivenStores() const {
  absl::MutexLock lock(&mutex_);
  std::vector<GivenStore> stores;
  for (const auto& [pid, source] : by_pid_) {
    if (source->map >= 0) stores.push_back({.pid = pid, .store = source->store.fd(), .map = source->map});
  }
  return stores;
}

absl::Status Pager::NoteMemory(bool enough) {
  if (enough) {
    out_of_memory_since_.reset();
  } else if (!out_of_memory_since_.has_value()) {
    out_of_memory_since_ = clock_.Monotonic();
  } else if (clock_.Monotonic() - *out_of_memory_since_ > kMemoryPatience) {
    return absl::ResourceExhaustedError(
        "the node or the container's cgroup has no memory left for the container's pages");
  }
  return absl::OkStatus();
}

absl::StatusOr<Progress> Pager::GetProgress() {
  absl::MutexLock lock(&mutex_);
  Progress progress = {.faults = latencies_.count(),
                       .fault_p50 = latencies_.Quantile(0.5),
                       .fault_p99 = latencies_.Quantile(0.99),
                       .pulled_faults = pulled_latencies_.count(),
                       .pulled_p50 = pulled_latencies_.Quantile(0.5),
                       .pulled_p99 = pulled_latencies_.Quantile(0.99)};
  for (const auto& source : sources_) {
    progress.missing_bytes += static_cast<int64_t>(source->missing.pages() * memory::PageBytes());
    if (source->done) continue;
    GODWIT_ASSIGN_OR_RETURN(const int64_t held, source->store.HeldBytes());
    progress.remaining_bytes += held;
  }
  return progress;
}

}  // namespace godwit::pager
