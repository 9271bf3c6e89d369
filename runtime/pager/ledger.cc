// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/ledger.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::pager {
namespace {

constexpr uint64_t kMagic = 0x6c74776772656731;
constexpr size_t kMaxSpec = size_t{64} << 10;
constexpr size_t kHeadBytes = size_t{128} << 10;
// Sparse: only what is used takes memory. Dropping pages is recorded at most once for each page of a store;
// only forks and moves can go on without end.
constexpr size_t kMaxRecords = size_t{8} << 20;
constexpr size_t kBytes = kHeadBytes + (kMaxRecords + 1) * sizeof(Record);

absl::StatusOr<void*> Map(int fd) {
  void* address = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (address == MAP_FAILED) return ErrnoStatus("cannot map the ledger");
  return address;
}

}  // namespace

int TaskDescriptor(const Record& record) {
  cmsghdr header;
  memcpy(&header, record.control, sizeof header);
  if (header.cmsg_len != CMSG_LEN(sizeof(int)) || header.cmsg_level != SOL_SOCKET ||
      header.cmsg_type != SCM_RIGHTS) {
    return -1;
  }
  int fd = -1;
  memcpy(&fd, record.control + CMSG_LEN(0), sizeof fd);
  return fd;
}

struct Ledger::Head {
  uint64_t magic;
  uint64_t spec_bytes;
  std::atomic<uint64_t> count;
  Milestones milestones;
  char spec[kMaxSpec];
};

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Make(absl::string_view spec) {
  static_assert(sizeof(Head) <= kHeadBytes);
  if (spec.size() > kMaxSpec) return absl::InvalidArgumentError("the spec is too long for the ledger");
  UniqueFd memory(memfd_create("godwit-pager-ledger", MFD_CLOEXEC));
  if (!memory.ok() || ftruncate(memory.get(), kBytes) != 0) return ErrnoStatus("cannot make the ledger");
  GODWIT_ASSIGN_OR_RETURN(void* const address, Map(memory.get()));
  std::unique_ptr<Ledger> ledger(new Ledger(std::move(memory), address));
  ledger->head_->magic = kMagic;
  ledger->head_->spec_bytes = spec.size();
  memcpy(ledger->head_->spec, spec.data(), spec.size());
  return ledger;
}

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(UniqueFd memory) {
  struct stat info;
  if (fstat(memory.get(), &info) != 0) return ErrnoStatus("cannot look at the ledger");
  if (static_cast<size_t>(info.st_size) != kBytes) return absl::InvalidArgumentError("this is no ledger");
  GODWIT_ASSIGN_OR_RETURN(void* const address, Map(memory.get()));
  std::unique_ptr<Ledger> ledger(new Ledger(std::move(memory), address));
  if (ledger->head_->magic != kMagic || ledger->head_->spec_bytes > kMaxSpec ||
      ledger->head_->count.load() > kMaxRecords) {
    return absl::InvalidArgumentError("this is no ledger of this program");
  }
  return ledger;
}

Ledger::~Ledger() { munmap(head_, kBytes); }

absl::string_view Ledger::spec() const { return {head_->spec, head_->spec_bytes}; }
Milestones& Ledger::milestones() { return head_->milestones; }

Record* Ledger::First() const {
  return reinterpret_cast<Record*>(reinterpret_cast<char*>(head_) + kHeadBytes);
}

absl::Span<const Record> Ledger::records() const { return {First(), head_->count.load()}; }

std::set<int> Ledger::Descriptors() const {
  std::set<int> in_use;
  for (const Record& record : absl::Span<const Record>(First(), head_->count.load() + 1)) {
    switch (record.kind) {
      case RecordKind::kNone: break;
      case RecordKind::kStore:
      case RecordKind::kMap: in_use.insert(record.fd); break;
      case RecordKind::kTask: in_use.insert(TaskDescriptor(record)); break;
      case RecordKind::kMessage:
        if (record.message.event == UFFD_EVENT_FORK)
          in_use.insert(static_cast<int>(record.message.arg.fork.ufd));
        break;
      case RecordKind::kClosed: in_use.erase(record.fd); break;
    }
  }
  in_use.erase(-1);
  return in_use;
}

Record& Ledger::next() { return First()[head_->count.load()]; }

Record& Ledger::Begin(RecordKind kind, int fd) {
  Record& record = next();
  memset(static_cast<void*>(&record), 0, sizeof record);
  record.kind = kind;
  record.fd = fd;
  return record;
}

void Ledger::Clear() {
  head_->count = 0;
  Begin(RecordKind::kNone, -1);
}

absl::Status Ledger::Keep() {
  if (head_->count.load() == kMaxRecords) {
    return absl::ResourceExhaustedError(absl::StrCat("the container changed its mappings more than ",
                                                     kMaxRecords, " times before its memory was filled"));
  }
  head_->count.fetch_add(1);
  return absl::OkStatus();
}

}  // namespace godwit::pager
