// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/pre_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/memory/copy_on_write.h"
#include "agent/memory/shared_key.h"
#include "agent/memory/task_status.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/weight.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/nice.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

// As kFirstContentsLimit, before each further look.
constexpr absl::Duration kContentsLimit = absl::Milliseconds(20);

class RealTracked final : public TrackedMemory {
 public:
  explicit RealTracked(std::unique_ptr<memory::Tracker> tracker) : tracker_(std::move(tracker)) {}
  absl::StatusOr<memory::Look> Round() override { return tracker_->Round(); }
  absl::StatusOr<memory::Look> Owned() override { return tracker_->Owned(); }
  absl::StatusOr<memory::Look> Last() override { return tracker_->Last(); }
  const char* SharedMemory(pid_t key) const override { return tracker_->SharedMemory(key); }
  std::vector<memory::Pinned> FindPinned() const override { return tracker_->FindPinned(); }

 private:
  std::unique_ptr<memory::Tracker> tracker_;
};

}  // namespace

absl::StatusOr<size_t> ReadTracked(const MemoryNode& node, const TrackedMemory& memory, pid_t task,
                                   uint64_t address, char* to, size_t size) {
  if (!memory::IsShared(task)) return node.read(task, address, to, size);
  memcpy(to, memory.SharedMemory(task) + address, size);
  return size;
}

MemoryNode RealMemory(const std::string& proc, const memory::Tracker::Options& options) {
  return {
      .track = [proc, options](const std::string& cgroup) -> absl::StatusOr<std::unique_ptr<TrackedMemory>> {
        GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<memory::Tracker> tracker,
                                memory::Tracker::Attach(proc, cgroup, options));
        return std::make_unique<RealTracked>(std::move(tracker));
      },
      .read = transfer::ReadTaskMemory,
      .tasks = [proc](const std::string& cgroup) -> absl::StatusOr<std::map<pid_t, pid_t>> {
        GODWIT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids, runtime::ProcessesInCgroup(cgroup));
        std::map<pid_t, pid_t> tasks;
        for (const pid_t pid : pids) {
          GODWIT_ASSIGN_OR_RETURN(const memory::TaskStatus status, memory::ReadTaskStatus(proc, pid));
          tasks[status.container_pid] = pid;
        }
        return tasks;
      },
      .open = [proc](pid_t pid) -> absl::StatusOr<MemoryNode::ReadOne> {
        const std::string path = absl::StrCat(proc, "/", pid, "/mem");
        GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_RDONLY));
        return [path, memory = std::make_shared<UniqueFd>(std::move(file))](
                   uint64_t address, char* to, size_t size) -> absl::StatusOr<size_t> {
          const ssize_t got = pread(memory->get(), to, size, static_cast<off_t>(address));
          if (got < 0) return ErrnoStatus(absl::StrFormat("cannot read %s at 0x%x", path, address));
          return static_cast<size_t>(got);
        };
      },
      .fits = [proc](const std::string& cgroup) { return memory::FitsUnshared(proc, cgroup); },
      .weigh = [proc](const std::string& cgroup) { return runtime::WeighCgroup(proc, cgroup); },
      .contents =
          [proc](const std::string& cgroup, absl::Duration limit) {
            const auto pids = runtime::ProcessesInCgroup(cgroup);
            return pids.ok() ? runtime::ContentsOf(proc, *pids, SteadyNow() + limit) : runtime::Contents{};
          },
      .private_memory =
          [proc](const std::string& cgroup, const std::set<pid_t>& but) {
            std::vector<pid_t> pids = runtime::ProcessesInCgroup(cgroup).value_or(std::vector<pid_t>());
            std::erase_if(pids, [&but](pid_t pid) { return but.contains(pid); });
            return runtime::PrivateBytes(proc, pids);
          }};
}

// Of each process the less of two counts; of one that has ended nothing.
static void KeepLess(std::map<pid_t, runtime::Contents::Private>& of,
                     const std::map<pid_t, runtime::Contents::Private>& than) {
  std::erase_if(of, [&than](auto& entry) {
    const auto found = than.find(entry.first);
    if (found == than.end()) return true;
    entry.second.bytes = std::min(entry.second.bytes, found->second.bytes);
    return false;
  });
}

static void KeepShared(const runtime::Contents& before, runtime::Contents& now) {
  now.files = std::max(now.files, before.files);
  now.anonymous.insert(before.anonymous.begin(), before.anonymous.end());
}

absl::StatusOr<LookAndContents> LookAround(const MemoryNode& node, TrackedMemory& memory,
                                           const std::string& cgroup, absl::Duration limit) {
  LookAndContents around;
  if (node.contents) around.contents = node.contents(cgroup, limit);
  GODWIT_ASSIGN_OR_RETURN(around.look, memory.Round());
  if (node.private_memory) KeepLess(around.contents.processes, node.private_memory(cgroup, {}));
  return around;
}

// Each process for itself: what one gave back to the kernel since a look told of it is no other's. No look
// tells of that, so that the largest difference of all looks counts, as far as the process has so much still.
int64_t LeftToCriu(const runtime::Contents& contents, const memory::Look& look, std::map<pid_t, Told>& told) {
  std::map<pid_t, Told> now;
  int64_t bytes = contents.files;
  for (const memory::TaskPages& task : look.tasks) {
    Told& one = now[task.pid];
    if (const auto before = told.find(task.pid); before != told.end()) one = std::move(before->second);
    one.pages = memory::Intersection(memory::Union(one.pages, task.dirty), task.owned);
    if (const auto process = contents.processes.find(task.pid); process != contents.processes.end()) {
      const int64_t all = process->second.bytes;
      const int64_t beyond = all - static_cast<int64_t>(memory::Bytes(one.pages));
      one.criu_bytes = std::min(all, std::max(one.criu_bytes, beyond));
    }
    bytes += one.criu_bytes;
  }
  told = std::move(now);
  std::set<uint64_t> carried;
  for (const memory::TaskPages& object : look.shared) carried.insert(memory::SharedId(object.pid));
  for (const auto& [inode, size] : contents.anonymous) {
    if (!carried.contains(inode)) bytes += size;
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<TrackedMemory>> Track(const MemoryNode& node, const std::string& cgroup) {
  if (node.fits) GODWIT_RETURN_IF_ERROR(node.fits(cgroup));
  return node.track(cgroup);
}

PreCopy::PreCopy(std::vector<Container> containers, const MemoryNode& node, transfer::TokenBucket* bucket)
    : node_(node) {
  for (Container& container : containers) {
    const size_t index = parts_.size();
    auto read = [this, index](pid_t task, uint64_t address, char* to, size_t size) {
      return ReadTracked(node_, *parts_[index].memory, task, address, to, size);
    };
    auto sender = std::make_unique<transfer::PageSender>(container.name, std::move(read), bucket);
    parts_.push_back({.container = std::move(container), .sender = std::move(sender)});
  }
}

absl::Status PreCopy::Attach() {
  absl::Status status;
  for (Part& part : parts_) {
    absl::StatusOr<std::unique_ptr<TrackedMemory>> memory = Track(node_, part.container.cgroup);
    status = Annotate(memory.status(), absl::StrCat("container ", part.container.name));
    if (!status.ok()) break;
    part.memory = *std::move(memory);
  }
  if (status.ok()) status = CheckPinned();
  if (!status.ok()) {
    for (Part& part : parts_) part.memory.reset();
  }
  return status;
}

absl::Status CheckPinned(const TrackedMemory* memory, absl::string_view container) {
  if (memory == nullptr) return absl::OkStatus();
  const std::vector<memory::Pinned> pinned = memory->FindPinned();
  if (pinned.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("container ", container, ": ", pinned.front().what,
                   ": memory that the kernel writes past the page tables cannot be copied while it runs"));
}

absl::Status PreCopy::CheckPinned() const {
  for (const Part& part : parts_)
    GODWIT_RETURN_IF_ERROR(migration::CheckPinned(part.memory.get(), part.container.name));
  return absl::OkStatus();
}

FixedPart PreCopy::Fixed() const {
  agent_api::Weight weight;
  for (const Part& part : parts_) {
    if (node_.weigh) weight += node_.weigh(part.container.cgroup);
  }
  return FixedPartFor(static_cast<int>(parts_.size()), weight);
}

void PreCopy::SetStream(transfer::Stream* stream) {
  again_ = stream_ != nullptr;
  stream_ = stream;
  for (Part& part : parts_) part.sender->SetStream(stream);
}

absl::StatusOr<RoundFigures> PreCopy::Round(bool nice, absl::Time deadline) {
  const absl::Time begin = SteadyNow();
  const int64_t sent = totals_.sent;
  RoundFigures figures;
  bool shared = false, complete = true;
  int64_t processes = 0, criu_bytes = 0;
  if (looked_at_ != absl::InfinitePast()) figures.since_last = begin - looked_at_;
  looked_at_ = begin;
  for (Part& part : parts_) {
    // What is read with O_DIRECT while the look is taken arrives behind the tracker's back: by a descriptor
    // that was there before it, or is there after it.
    GODWIT_RETURN_IF_ERROR(migration::CheckPinned(part.memory.get(), part.container.name));
    absl::StatusOr<LookAndContents> around = LookAround(
        node_, *part.memory, part.container.cgroup, part.told.empty() ? kFirstContentsLimit : kContentsLimit);
    if (!around.ok()) return Annotate(around.status(), absl::StrCat("container ", part.container.name));
    const memory::Look* const look = &around->look;
    // What there was no time for is likely to be as it was.
    if (!around->contents.complete) KeepShared(part.contents, around->contents);
    part.contents = std::move(around->contents);
    processes += static_cast<int64_t>(look->tasks.size());
    criu_bytes += LeftToCriu(part.contents, *look, part.told);
    complete = complete && part.contents.complete;
    figures.memory_bytes += static_cast<int64_t>(look->owned_bytes());
    figures.dirty_bytes += static_cast<int64_t>(look->dirty_bytes());
    shared = shared || !look->shared.empty();
    // The tracker tells of them once: where the stream is cut at one task, those of the others are not lost.
    for (const memory::TaskPages& task : look->tasks) part.sender->Owe(task.container_pid, task.dirty);
    GODWIT_RETURN_IF_ERROR(migration::CheckPinned(part.memory.get(), part.container.name));
    {
      // Not the looks themselves, for which the tasks' mappings are locked.
      std::optional<ScopedNice> gives_way;
      if (nice) gives_way.emplace();
      if (again_) GODWIT_RETURN_IF_ERROR(SendAgain(part, *look, deadline));
      GODWIT_RETURN_IF_ERROR(SendLook(part, *look, deadline));
    }
    GODWIT_ASSIGN_OR_RETURN(const Compared compared, SendShared(part, look->shared, deadline));
    figures.dirty_bytes += compared.different;
    figures.shared_bytes += compared.different;
    figures.comparing += compared.took;
  }
  GODWIT_RETURN_IF_ERROR(stream_->JoinLanes(deadline));
  again_ = false;
  criu_bytes_ = complete ? std::optional(criu_bytes) : std::nullopt;
  figures.criu_bytes = BeyondSmall(criu_bytes, static_cast<int>(parts_.size()), processes);
  carries_shared_ = shared;
  figures.took = SteadyNow() - begin;
  figures.sent_bytes = totals_.sent - sent;
  figures.lanes = static_cast<int64_t>(stream_->lanes());
  return figures;
}

PreCopy::Unseen PreCopy::FindUnseen() const {
  Unseen unseen;
  int64_t most = 0;
  for (const Part& part : parts_) {
    if (!node_.private_memory) break;
    std::set<pid_t> seen;
    for (const auto& [pid, told] : part.told) seen.insert(pid);
    for (const auto& [pid, process] : node_.private_memory(part.container.cgroup, seen)) {
      unseen.bytes += process.bytes;
      if (process.bytes <= most) continue;
      most = process.bytes;
      unseen.which =
          absl::StrCat("process ", pid, " (", process.command, ") of container ", part.container.name);
    }
  }
  return unseen;
}

absl::Status PreCopy::SendLook(Part& part, const memory::Look& look, absl::Time deadline) {
  for (const memory::TaskPages& task : look.tasks) {
    GODWIT_RETURN_IF_ERROR(part.sender->Send(task.pid, task.container_pid, task.dirty, deadline, &totals_));
  }
  return absl::OkStatus();
}

// `dirty` of them is all that they hold. What a cut stream may have lost is not known to be at the target,
// and goes again.
absl::StatusOr<PreCopy::Compared> PreCopy::SendShared(Part& part,
                                                      const std::vector<memory::TaskPages>& shared,
                                                      absl::Time deadline) {
  Compared compared;
  for (const memory::TaskPages& object : shared) {
    const absl::Time begin = SteadyNow();
    const memory::Ranges different =
        part.sender->Differing(object.container_pid, object.dirty, part.memory->SharedMemory(object.pid));
    compared.took += SteadyNow() - begin;
    compared.different += static_cast<int64_t>(memory::Bytes(different));
    GODWIT_RETURN_IF_ERROR(
        part.sender->Send(object.pid, object.container_pid, different, deadline, &totals_));
  }
  return compared;
}

// What the cut stream may have lost, of tasks that are there still.
absl::Status PreCopy::SendAgain(Part& part, const memory::Look& look, absl::Time deadline) {
  for (const auto& [container_pid, pages] : part.sender->Unacknowledged()) {
    const auto task = std::find_if(look.tasks.begin(), look.tasks.end(), [&](const memory::TaskPages& one) {
      return one.container_pid == container_pid;
    });
    if (task == look.tasks.end()) continue;
    GODWIT_RETURN_IF_ERROR(part.sender->Send(task->pid, container_pid,
                                             memory::Intersection(pages, task->owned), deadline, &totals_));
  }
  return absl::OkStatus();
}

void PreCopy::Acknowledge() {
  for (Part& part : parts_) part.sender->Acknowledge();
}

absl::StatusOr<std::string> PreCopy::LookOwned(size_t container) {
  Part& part = parts_[container];
  absl::StatusOr<memory::Look> look = part.memory->Owned();
  if (!look.ok()) return Annotate(look.status(), absl::StrCat("container ", part.container.name));
  for (memory::TaskPages& task : look->tasks) part.owned[task.pid] = std::move(task.owned);
  for (memory::TaskPages& object : look->shared) part.owned[object.pid] = std::move(object.owned);
  std::string hidden;
  for (const auto& [pid, owned] : part.owned) {
    if (memory::IsShared(pid)) {  // these keys are the lowest, and ascend with the ids
      const uint64_t id = memory::SharedId(pid);
      absl::StrAppendFormat(&hidden, "0 %x-%x\n", id, id + 1);
      continue;
    }
    for (const memory::Range& range : owned)
      absl::StrAppendFormat(&hidden, "%d %x-%x\n", pid, range.start, range.end);
  }
  return hidden;
}

// What the target has of these pages is old, or in doubt.
absl::StatusOr<int64_t> PreCopy::LeaveLast(Part& part, const memory::Look& look, absl::Time deadline) {
  std::map<pid_t, memory::Ranges> unacknowledged;
  if (again_) {
    for (auto& [task, pages] : part.sender->Unacknowledged()) unacknowledged[task] = std::move(pages);
  }
  int64_t left = 0;
  for (const memory::TaskPages& task : look.tasks) {
    const memory::Ranges pages =
        memory::Intersection(memory::Union(task.dirty, unacknowledged[task.container_pid]), task.populated);
    GODWIT_RETURN_IF_ERROR(part.sender->MissPages(task.container_pid, pages, deadline));
    left += static_cast<int64_t>(memory::Bytes(pages));
  }
  return left;
}

absl::StatusOr<int64_t> PreCopy::SendLast(size_t container, bool leave, absl::Time deadline) {
  Part& part = parts_[container];
  absl::StatusOr<memory::Look> look = part.memory->Last();
  if (!look.ok()) return Annotate(look.status(), absl::StrCat("container ", part.container.name));
  GODWIT_RETURN_IF_ERROR(
      Annotate(memory::CheckNoneEnded(*look, part.owned), absl::StrCat("container ", part.container.name)));
  part.sender->ExpectAll();
  // CRIU works in the tasks meanwhile: what it may have mapped is not theirs.
  for (memory::TaskPages& task : look->tasks) {
    const memory::Ranges& owned = part.owned[task.pid];
    task.dirty = memory::Intersection(task.dirty, owned);
    task.populated = memory::Intersection(task.populated, owned);
  }
  int64_t left = 0;
  if (leave) {
    GODWIT_ASSIGN_OR_RETURN(left, LeaveLast(part, *look, deadline));
  } else {
    if (again_) GODWIT_RETURN_IF_ERROR(SendAgain(part, *look, deadline));
    GODWIT_RETURN_IF_ERROR(SendLook(part, *look, deadline));
  }
  // Restored tasks map it as it is: none of it can be left.
  GODWIT_RETURN_IF_ERROR(SendShared(part, look->shared, deadline).status());
  std::vector<pid_t> tasks;
  for (const memory::TaskPages& object : look->shared) {
    GODWIT_RETURN_IF_ERROR(part.sender->KeepPages(object.container_pid, object.populated, deadline));
    tasks.push_back(object.container_pid);
  }
  for (const memory::TaskPages& task : look->tasks) {
    GODWIT_RETURN_IF_ERROR(part.sender->KeepPages(task.container_pid, task.populated, deadline));
    tasks.push_back(task.container_pid);
  }
  GODWIT_RETURN_IF_ERROR(part.sender->KeepTasks(tasks, deadline));
  return left;
}

}  // namespace godwit::migration
