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
constexpr int kMessagesAtOnce = 64;
constexpr absl::Duration kMemoryPatience = absl::Seconds(10);

bool IsZero(const char* data, uint64_t bytes) {
  return data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0;
}

}  // namespace

Pager::Pager(Ledger& ledger, std::function<void(int)> watch, Clock& clock)
    : ledger_(ledger),
      milestones_(ledger.milestones()),
      watch_(std::move(watch)),
      clock_(clock),
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

absl::Status Pager::SetStores(std::vector<std::pair<pid_t, UniqueFd>> stores) {
  absl::MutexLock lock(&mutex_);
  for (auto& [pid, fd] : stores) {
    if (by_pid_.contains(pid)) {
      return absl::InvalidArgumentError(absl::StrCat("the agent has two page stores for task ", pid));
    }
    ledger_.Begin(RecordKind::kStore, fd.get()).pid = pid;
    GODWIT_RETURN_IF_ERROR(ledger_.Keep());
    AddSource(pid, fd.Release());
  }
  milestones_.stores_known = true;
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
  for (const Record& record : ledger_.records()) Apply(record);
  for (const auto& [uffd, space] : by_uffd_) watch_(uffd);
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
  Apply(record);
  return absl::OkStatus();
}

absl::StatusOr<bool> Pager::IsWanted(const Space& space, memory::Range addresses) const {
  for (const Piece& piece : space.layout.Within(addresses)) {
    const uint64_t end = piece.offset + piece.bytes;
    if (end <= space.source->filled) continue;
    GODWIT_ASSIGN_OR_RETURN(const std::optional<uint64_t> held, space.source->store.NextHeld(piece.offset));
    if (held.has_value() && *held < end) return true;
  }
  return false;
}

absl::Status Pager::ServeFault(Space& space, uint64_t address, absl::Duration since) {
  const uint64_t page = address & ~(memory::PageBytes() - 1);
  GODWIT_ASSIGN_OR_RETURN(const Installation installation, InstallAround(space, page));
  GODWIT_RETURN_IF_ERROR(NoteMemory(installation.outcome != Outcome::kNoMemory));
  switch (installation.outcome) {
    case Outcome::kInstalled: latencies_.Add(clock_.Monotonic() - since); return absl::OkStatus();
    case Outcome::kGone: return Forget(space);
    case Outcome::kPresent:
    case Outcome::kUnmapped:
    case Outcome::kChanging:
    case Outcome::kNoMemory:
      // The thread looks again, and faults again where that is still called for.
      WakePages(space.uffd, page, memory::PageBytes());
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::StatusOr<Installation> Pager::InstallAround(Space& space, uint64_t page) {
  const uint64_t page_bytes = memory::PageBytes();
  const std::optional<Piece> piece = space.layout.At(page);
  uint64_t bytes = 0;  // up to the first page of zeros, which is likely none of the store's
  if (piece.has_value()) {
    const uint64_t most = std::min(piece->bytes, kFaultBytes);
    GODWIT_RETURN_IF_ERROR(space.source->store.ReadAt(piece->offset, fault_buffer_.get(), most));
    while (bytes < most && !IsZero(fault_buffer_.get() + bytes, page_bytes)) bytes += page_bytes;
  }
  if (bytes == 0) return ZeroPages(space.uffd, page, page_bytes);
  GODWIT_ASSIGN_OR_RETURN(const Installation all, CopyPages(space.uffd, page, fault_buffer_.get(), bytes));
  if (all.outcome != Outcome::kUnmapped || bytes == page_bytes) return all;
  return CopyPages(space.uffd, page, fault_buffer_.get(), page_bytes);  // the mapping ends before
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
                       .fault_p99 = latencies_.Quantile(0.99)};
  for (const auto& source : sources_) {
    if (source->done) continue;
    GODWIT_ASSIGN_OR_RETURN(const int64_t held, source->store.HeldBytes());
    progress.remaining_bytes += held;
  }
  return progress;
}

}  // namespace godwit::pager
