// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/shared_objects.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/memory/shared_key.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

constexpr uint64_t kMostObjectsOfAll = 2048;
constexpr uint64_t kMostBytesOfAll = uint64_t{4} << 40;

// A runtime may allow as little as 1024.
uint64_t QuarterOfDescriptors() {
  struct rlimit limit{};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur / 4 : 0;
}

bool TakeFrom(std::atomic<uint64_t>& used, uint64_t amount, uint64_t most) {
  uint64_t before = used;
  do {
    if (before > most || amount > most - before) return false;
  } while (!used.compare_exchange_weak(before, before + amount));
  return true;
}

std::string MapFile(const std::string& proc, pid_t pid, Range range) {
  return absl::StrFormat("%s/%d/map_files/%x-%x", proc, pid, range.start, range.end);
}

// A page of such memory, to try on this process what is done to others.
absl::Status CheckPermission(const std::string& proc) {
  const uint64_t page = PageBytes();
  void* own = mmap(nullptr, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (own == MAP_FAILED) return ErrnoStatus("cannot map a page");
  const auto start = reinterpret_cast<uint64_t>(own);
  const absl::StatusOr<UniqueFd> file = OpenFile(MapFile(proc, getpid(), {start, start + page}), O_RDONLY);
  munmap(own, page);
  if (file.ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("shared memory cannot be read by its mappings: ", file.status().message()));
}

}  // namespace

SharedBudget& SharedBudget::OfProcess() {
  static SharedBudget budget(
      {.objects = std::min(kMostObjectsOfAll, QuarterOfDescriptors()), .bytes = kMostBytesOfAll});
  return budget;
}

absl::StatusOr<SharedBudget::Share> SharedBudget::Take(uint64_t bytes) {
  if (!TakeFrom(objects_, 1, most_.objects))
    return absl::ResourceExhaustedError(
        absl::StrCat("all that is copied here together has ", most_.objects, " objects of it already"));
  Share share(this, 0);
  if (!TakeFrom(bytes_, bytes, most_.bytes))
    return absl::ResourceExhaustedError(absl::StrCat(
        "with its ", bytes, " bytes, all that is copied here together would have more than ", most_.bytes));
  share.bytes_ = bytes;
  return share;
}

SharedBudget::Share::~Share() {
  if (budget_ == nullptr) return;
  budget_->bytes_ -= bytes_;
  budget_->objects_ -= 1;
}

class SharedObjects::Held {
 public:
  static absl::StatusOr<std::shared_ptr<Held>> Map(UniqueFd file, uint64_t bytes, SharedBudget::Share share) {
    void* memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.get(), 0);
    if (memory == MAP_FAILED) return ErrnoStatus("cannot map shared memory");
    return std::shared_ptr<Held>(
        new Held(std::move(share), std::move(file), static_cast<char*>(memory), bytes));
  }
  ~Held() { munmap(memory_, bytes_); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  const char* memory() const { return memory_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t start() const { return reinterpret_cast<uint64_t>(memory_); }

  // Whole pages; 0: it cannot be told.
  static uint64_t SizeOf(int file) {
    struct stat status{};
    if (fstat(file, &status) != 0) return 0;
    return (static_cast<uint64_t>(status.st_size) + PageBytes() - 1) / PageBytes() * PageBytes();
  }
  bool HasItsSize() const { return SizeOf(file_.get()) == bytes_; }

  // Content in `gap`, where this process has no page mapped: never touched here, swapped out, or a hole. It
  // is mapped in, so that it need not be looked for the next time.
  absl::Status FindIn(Range gap, Ranges& found) const {
    while (gap.start < gap.end) {
      const off_t data = lseek(file_.get(), static_cast<off_t>(gap.start), SEEK_DATA);
      if (data < 0 && errno == ENXIO) return absl::OkStatus();
      const off_t hole = data < 0 ? data : lseek(file_.get(), data, SEEK_HOLE);
      if (hole < 0) return ErrnoStatus("cannot tell what shared memory holds");
      const Range range{std::max(static_cast<uint64_t>(data), gap.start),
                        std::min(static_cast<uint64_t>(hole), gap.end)};
      if (range.start >= range.end) return absl::OkStatus();
      if (madvise(memory_ + range.start, range.bytes(), MADV_POPULATE_READ) != 0)
        return ErrnoStatus("cannot read shared memory");
      Append(found, range);
      gap.start = range.end;
    }
    return absl::OkStatus();
  }

 private:
  Held(SharedBudget::Share share, UniqueFd file, char* memory, uint64_t bytes)
      : share_(std::move(share)), file_(std::move(file)), memory_(memory), bytes_(bytes) {}

  const SharedBudget::Share share_;  // the last to go
  const UniqueFd file_;
  char* const memory_;
  const uint64_t bytes_;
};

absl::StatusOr<SharedObjects> SharedObjects::Start(const std::string& proc, const SharedBounds& own,
                                                   SharedBudget& all) {
  GODWIT_RETURN_IF_ERROR(CheckPermission(proc));
  const UniqueFd file(memfd_create("godwit", MFD_CLOEXEC));
  struct stat status{};
  if (!file.ok() || fstat(file.get(), &status) != 0) return ErrnoStatus("cannot make shared memory");
  GODWIT_ASSIGN_OR_RETURN(PagemapScan pages, PagemapScan::Open(proc, getpid()));
  return SharedObjects(proc, own, all, status.st_dev,
                       absl::StrFormat("%02x:%02x", major(status.st_dev), minor(status.st_dev)),
                       std::move(pages));
}

// 0: no object that could be followed.
pid_t SharedObjects::KeyOf(const SharedMapping& mapping) const {
  if (mapping.device != device_name_ || mapping.inode > kMaxSharedId) return 0;
  return SharedKey(static_cast<uint32_t>(mapping.inode));
}

absl::StatusOr<std::shared_ptr<SharedObjects::Held>> SharedObjects::Open(pid_t pid,
                                                                         const SharedMapping& mapping) const {
  if (held_.size() >= bounds_.objects)
    return absl::ResourceExhaustedError(
        absl::StrCat("the container has more than ", bounds_.objects, " objects of it"));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(MapFile(proc_, pid, mapping.range), O_RDONLY));
  struct stat status{};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_dev != device_ ||
      status.st_ino != mapping.inode)
    return absl::NotFoundError("something else is mapped there now");
  const uint64_t bytes = Held::SizeOf(file.get());
  if (bytes == 0) return absl::NotFoundError("it is empty");
  uint64_t others = 0;
  for (const auto& [key, held] : held_) others += held->bytes();
  if (bytes > bounds_.bytes - others)
    return absl::ResourceExhaustedError(
        absl::StrCat("the container has more than ", bounds_.bytes, " bytes of it"));
  GODWIT_ASSIGN_OR_RETURN(SharedBudget::Share share, all_->Take(bytes));
  return Held::Map(std::move(file), bytes, std::move(share));
}

void SharedObjects::Follow(const std::vector<std::pair<pid_t, SharedMapping>>& mappings) {
  // First what stays: what does not makes room. An inode number is not given to another object while this one
  // is held.
  std::map<pid_t, std::shared_ptr<Held>> staying;
  for (const auto& [pid, mapping] : mappings) {
    const auto before = held_.find(KeyOf(mapping));
    if (before != held_.end() && !staying.contains(before->first) && before->second->HasItsSize())
      staying.insert(*before);
  }
  held_ = std::move(staying);

  std::set<pid_t> left;
  uint64_t more = 0;
  absl::Status why;
  for (const auto& [pid, mapping] : mappings) {
    const pid_t key = KeyOf(mapping);
    if (key == 0 || held_.contains(key) || left.contains(key)) continue;
    if (left_.contains(key)) {
      left.insert(key);
      continue;
    }
    absl::StatusOr<std::shared_ptr<Held>> opened = Open(pid, mapping);
    if (opened.ok()) {
      held_.emplace(key, *std::move(opened));
    } else if (!absl::IsNotFound(opened.status())) {
      left.insert(key);
      ++more;
      why.Update(Annotate(opened.status(), absl::StrCat("of process ", pid)));
    }
  }
  left_ = std::move(left);
  if (more > 0) LOG(WARNING) << Log("shared memory is left to CRIU").With("objects", more).With(why);
}

std::vector<SharedObjects::Object> SharedObjects::objects() const {
  std::vector<Object> list;
  for (const auto& [key, held] : held_) list.push_back({key, held->bytes(), held->memory()});
  return list;
}

const char* SharedObjects::MemoryOf(pid_t key) const {
  const auto found = held_.find(key);
  return found == held_.end() ? nullptr : found->second->memory();
}

absl::StatusOr<Ranges> SharedObjects::Populated(pid_t key) const {
  const auto found = held_.find(key);
  if (found == held_.end()) return absl::NotFoundError(absl::StrCat("no shared memory ", SharedId(key)));
  const Held& held = *found->second;
  // What this process has mapped is there; the kernel needs ten times as long to tell by the object.
  PagemapScan::Pages pages;
  GODWIT_RETURN_IF_ERROR(own_.LookUnregistered({held.start(), held.start() + held.bytes()}, pages));
  Ranges mapped;
  for (const Range& range : pages.populated)
    mapped.push_back({range.start - held.start(), range.end - held.start()});
  Ranges others;
  for (const Range& gap : Difference({{0, held.bytes()}}, mapped))
    GODWIT_RETURN_IF_ERROR(held.FindIn(gap, others));
  return Union(mapped, others);
}

}  // namespace godwit::memory
