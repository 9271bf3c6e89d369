// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/page_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/memory/page_set.h"
#include "agent/memory/shared_key.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

std::string NameOf(pid_t key) {
  return IsShared(key) ? absl::StrCat("shared memory ", SharedId(key)) : absl::StrCat("task ", key);
}

absl::Status Failed(absl::string_view what, pid_t task, uint64_t address) {
  return ErrnoStatus(absl::StrFormat("cannot %s memory of %s at 0x%x", what, NameOf(task), address));
}

// As long as the address space, so that what was never written is a hole, not the end of the file.
absl::StatusOr<UniqueFd> MakeTaskFile(pid_t task) {
  UniqueFd file(memfd_create(absl::StrCat("godwit-pages-", task).c_str(), MFD_CLOEXEC));
  if (file.ok() && ftruncate(file.get(), static_cast<off_t>(kAddressEnd)) == 0) return file;
  return ErrnoStatus(absl::StrCat("cannot make a memory file for task ", task));
}

// A memfd would do as well, but would be one in the eyes of whoever moves the tasks the next time: memory
// that may be written through descriptors.
absl::StatusOr<UniqueFd> MakeSharedFile() {
  const uint64_t page = PageBytes();
  void* memory =
      mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return ErrnoStatus("cannot make shared memory");
  const auto start = reinterpret_cast<uint64_t>(memory);
  absl::StatusOr<UniqueFd> file =
      OpenFile(absl::StrFormat("/proc/self/map_files/%x-%x", start, start + page), O_RDWR);
  munmap(memory, page);
  return file;
}

absl::Status WriteAt(int file, pid_t task, uint64_t address, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(address));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Failed("store", task, address);
    address += static_cast<uint64_t>(written);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

}  // namespace

// Outlives its place in tasks_ while a call still works on it.
struct PageStore::Task {
  Task(pid_t pid, UniqueFd fd, std::atomic<uint64_t>& all) : pid(pid), file(std::move(fd)), all_bytes(all) {}
  ~Task() {
    absl::MutexLock lock(&mutex);
    all_bytes -= held.pages() * PageBytes();
  }
  absl::Status CheckOurs() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (!handed_over) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(NameOf(pid), " is the restored tasks' own already"));
  }
  absl::Status Drop(Range range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    missing.Erase(range);
    const uint64_t dropped = held.Erase(range) * PageBytes();
    if (dropped == 0) return absl::OkStatus();
    all_bytes -= dropped;
    return Punch(range);
  }
  absl::Status Punch(Range range) const {
    if (fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.start),
                  static_cast<off_t>(range.bytes())) != 0) {
      return Failed("drop", pid, range.start);
    }
    return absl::OkStatus();
  }

  const pid_t pid;
  const UniqueFd file;
  std::atomic<uint64_t>& all_bytes;
  absl::Mutex mutex;
  PageSet held ABSL_GUARDED_BY(mutex);
  PageSet missing ABSL_GUARDED_BY(mutex);  // among those held
  bool handed_over ABSL_GUARDED_BY(mutex) = false;
};

std::shared_ptr<PageStore::Task> PageStore::Find(pid_t task) const {
  absl::MutexLock lock(&mutex_);
  const auto found = tasks_.find(task);
  return found == tasks_.end() ? nullptr : found->second;
}

absl::StatusOr<std::shared_ptr<PageStore::Task>> PageStore::FindOrMake(pid_t task) {
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<Task>& place = tasks_[task];
  if (place != nullptr) return place;
  absl::Status status;
  if (tasks_.size() > max_tasks_) {
    status = absl::ResourceExhaustedError(absl::StrCat("a container of more than ", max_tasks_, " tasks"));
  } else {
    absl::StatusOr<UniqueFd> file = IsShared(task) ? MakeSharedFile() : MakeTaskFile(task);
    if (file.ok()) {
      place = std::make_shared<Task>(task, *std::move(file), bytes_);
      return place;
    }
    status = file.status();
  }
  tasks_.erase(task);
  return status;
}

absl::Status PageStore::Reserve(pid_t task, uint64_t more) {
  const uint64_t all = bytes_.fetch_add(more) + more;
  std::string why;
  if (all > limit_) {
    why = absl::StrCat(more, " bytes more than the ", limit_, " that may be held here");
  } else if (free_ && all > granted_) {
    const uint64_t free = free_();
    if (free < limit_ / 8 + more)
      why = absl::StrCat("only ", free, " bytes are free on this node by now");
    else
      granted_ = all + kGrant;
  }
  if (why.empty()) return absl::OkStatus();
  bytes_ -= more;
  return absl::ResourceExhaustedError(absl::StrCat("no room for the memory of ", NameOf(task), ": ", why));
}

absl::Status PageStore::Write(pid_t task, uint64_t address, absl::string_view bytes) {
  GODWIT_ASSIGN_OR_RETURN(std::shared_ptr<Task> found, FindOrMake(task));
  const Range range{address, address + bytes.size()};
  absl::MutexLock lock(&found->mutex);
  GODWIT_RETURN_IF_ERROR(found->CheckOurs());
  const uint64_t more = found->held.Missing(range) * PageBytes();
  GODWIT_RETURN_IF_ERROR(Reserve(task, more));
  absl::Status status = WriteAt(found->file.get(), task, address, bytes);
  if (!status.ok()) {
    bytes_ -= more;
    return status;
  }
  found->held.Insert(range);
  found->missing.Erase(range);
  return absl::OkStatus();
}

absl::Status PageStore::Zero(pid_t task, Range range) {
  const std::shared_ptr<Task> found = Find(task);
  if (found == nullptr) return absl::OkStatus();
  absl::MutexLock lock(&found->mutex);
  GODWIT_RETURN_IF_ERROR(found->CheckOurs());
  return found->Drop(range);
}

absl::Status PageStore::Keep(pid_t task, const Ranges& ranges, Range window) {
  if (ranges.empty() && window == Range{0, kAddressEnd}) {
    absl::MutexLock lock(&mutex_);
    tasks_.erase(task);
    return absl::OkStatus();
  }
  const std::shared_ptr<Task> found = Find(task);
  if (found == nullptr) return absl::OkStatus();
  absl::MutexLock lock(&found->mutex);
  GODWIT_RETURN_IF_ERROR(found->CheckOurs());
  for (const Range& gap : Difference(found->held.Inside(window), ranges)) {
    GODWIT_RETURN_IF_ERROR(found->Drop(gap));
  }
  return absl::OkStatus();
}

// A range longer than all that may be held is refused before it is noted bit by bit.
absl::Status PageStore::Miss(pid_t task, const Ranges& ranges) {
  if (IsShared(task)) return absl::InvalidArgumentError(absl::StrCat(NameOf(task), " cannot be missing"));
  GODWIT_ASSIGN_OR_RETURN(std::shared_ptr<Task> found, FindOrMake(task));
  absl::MutexLock lock(&found->mutex);
  for (const Range& range : ranges) {
    if (range.bytes() > limit_) return Reserve(task, range.bytes());
    GODWIT_RETURN_IF_ERROR(Reserve(task, found->held.Missing(range) * PageBytes()));
    found->held.Insert(range);
    found->missing.Insert(range);
  }
  return absl::OkStatus();
}

absl::StatusOr<Ranges> PageStore::Arrive(pid_t task, Range range, absl::string_view bytes) {
  const std::shared_ptr<Task> found = Find(task);
  if (found == nullptr) return Ranges();
  absl::MutexLock lock(&found->mutex);
  Ranges arrived = found->missing.Inside(range);
  for (const Range& part : arrived) {
    GODWIT_RETURN_IF_ERROR(bytes.empty() ? found->Punch(part)
                                         : WriteAt(found->file.get(), task, part.start,
                                                   bytes.substr(part.start - range.start, part.bytes())));
    found->missing.Erase(part);
  }
  return arrived;
}

absl::Status PageStore::Adopt(pid_t task, UniqueFd file, int map) {
  GODWIT_ASSIGN_OR_RETURN(PageSet missing, PageSet::ReadMap(map));
  auto adopted = std::make_shared<Task>(task, std::move(file), bytes_);
  {
    absl::MutexLock lock(&adopted->mutex);
    adopted->missing = std::move(missing);
  }
  absl::MutexLock lock(&mutex_);
  tasks_[task] = std::move(adopted);
  return absl::OkStatus();
}

void PageStore::KeepTasks(const std::vector<pid_t>& tasks) {
  const absl::flat_hash_set<pid_t> kept(tasks.begin(), tasks.end());
  absl::MutexLock lock(&mutex_);
  std::erase_if(tasks_, [&](const auto& entry) { return !kept.contains(entry.first); });
}

Ranges PageStore::Held(pid_t task) const {
  const std::shared_ptr<Task> found = Find(task);
  if (found == nullptr) return {};
  absl::MutexLock lock(&found->mutex);
  return found->held.Inside({0, kAddressEnd});
}

Ranges PageStore::Missing(pid_t task) const {
  const std::shared_ptr<Task> found = Find(task);
  if (found == nullptr) return {};
  absl::MutexLock lock(&found->mutex);
  return found->missing.Inside({0, kAddressEnd});
}

uint64_t PageStore::missing_bytes() const {
  uint64_t bytes = 0;
  for (const pid_t task : Tasks()) {
    const std::shared_ptr<Task> found = Find(task);
    if (found == nullptr) continue;
    absl::MutexLock lock(&found->mutex);
    bytes += found->missing.pages() * PageBytes();
  }
  return bytes;
}

absl::StatusOr<UniqueFd> PageStore::MapOf(pid_t task) const {
  UniqueFd map(memfd_create("godwit-missing-pages", MFD_CLOEXEC));
  if (!map.ok() || ftruncate(map.get(), PageSet::kMapBytes) != 0)
    return ErrnoStatus(absl::StrCat("cannot make the map of task ", task));
  const std::shared_ptr<Task> found = Find(task);
  if (found == nullptr) return map;
  absl::MutexLock lock(&found->mutex);
  GODWIT_RETURN_IF_ERROR(found->missing.WriteMap(map.get()));
  return map;
}

std::vector<pid_t> PageStore::Tasks() const {
  absl::MutexLock lock(&mutex_);
  std::vector<pid_t> tasks;
  tasks.reserve(tasks_.size());
  for (const auto& entry : tasks_) {
    if (!IsShared(entry.first)) tasks.push_back(entry.first);
  }
  return tasks;
}

std::vector<pid_t> PageStore::Objects() const {
  absl::MutexLock lock(&mutex_);
  std::vector<pid_t> objects;
  for (const auto& entry : tasks_) {
    if (IsShared(entry.first)) objects.push_back(entry.first);
  }
  return objects;
}

absl::StatusOr<PageStore::SharedFile> PageStore::HandOver(pid_t key) {
  const std::shared_ptr<Task> found = IsShared(key) ? Find(key) : nullptr;
  if (found == nullptr) return absl::NotFoundError(absl::StrCat("nothing is held of ", NameOf(key)));
  struct stat status{};
  if (fstat(found->file.get(), &status) != 0)
    return ErrnoStatus(absl::StrCat("cannot look at ", NameOf(key)));
  absl::MutexLock lock(&found->mutex);
  found->handed_over = true;
  return SharedFile{absl::StrCat("/proc/", getpid(), "/fd/", found->file.get()), status.st_ino};
}

absl::StatusOr<UniqueFd> PageStore::FileOf(pid_t task) const {
  const std::shared_ptr<Task> found = Find(task);
  if (found == nullptr) return absl::NotFoundError(absl::StrCat("nothing is held of ", NameOf(task)));
  UniqueFd copy(fcntl(found->file.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.ok()) return ErrnoStatus(absl::StrCat("cannot copy the memory file of ", NameOf(task)));
  return copy;
}

absl::Status PageStore::Read(pid_t task, uint64_t address, char* to, size_t size) const {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd file, FileOf(task));
  while (size > 0) {
    const ssize_t got = pread(file.get(), to, size, static_cast<off_t>(address));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return ErrnoStatus(absl::StrCat("cannot read the memory of ", NameOf(task)));
    to += got;
    size -= static_cast<size_t>(got);
    address += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

}  // namespace godwit::memory
