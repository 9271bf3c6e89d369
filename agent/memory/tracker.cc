// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/tracker.h"

#include <linux/kcmp.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <set>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/memory/pagemap_scan.h"
#include "agent/memory/pinned.h"
#include "agent/memory/shared_objects.h"
#include "agent/memory/tracked_task.h"
#include "agent/memory/uffd.h"
#include "agent/runtime/cgroup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/share_work.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

// For a thread to stop, which it does at once unless it waits for a disk or, in vfork(2), for its child. In a
// round it may as well be stopped at the next one.
constexpr absl::Duration kStopLimit = absl::Seconds(1);
constexpr absl::Duration kStopLimitInRound = absl::Milliseconds(100);
// For all that is new in one look: a container may have as many that do not stop as it may have processes.
constexpr absl::Duration kAttachLimitInRound = absl::Seconds(2);
// An exec between a look's steps is rare; what goes on doing it is taken as it is.
constexpr int kAttachAttempts = 3;

bool ShareMemory(pid_t a, pid_t b) { return syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0; }

bool HasEnded(const UniqueFd& pidfd) {
  pollfd ended{pidfd.get(), POLLIN, 0};
  return poll(&ended, 1, 0) == 1;
}

// `folder` is where the cgroup is mounted and its path; `path` is a cgroup's path, as the kernel shows it.
bool IsInCgroup(const std::string& folder, absl::string_view path) {
  for (; absl::StartsWith(path, "/") && path.size() > 1; path = path.substr(0, path.rfind('/'))) {
    if (absl::EndsWith(folder, path)) return true;
  }
  return false;
}

}  // namespace

absl::Status CheckTrackerSupport() {
  GODWIT_RETURN_IF_ERROR(PagemapScan::CheckSupport());
  return WriteProtection::CheckSupport();
}

absl::Status CheckNoneEnded(const Look& last, const std::map<pid_t, Ranges>& left_out) {
  std::set<pid_t> seen;
  for (const TaskPages& task : last.tasks) seen.insert(task.pid);
  for (const TaskPages& object : last.shared) seen.insert(object.pid);
  for (const auto& [pid, pages] : left_out) {
    if (pages.empty() || seen.contains(pid)) continue;
    return absl::DataLossError(
        absl::StrCat("process ", pid, " ended while the pod stood still: it was killed"));
  }
  return absl::OkStatus();
}

uint64_t Look::dirty_bytes() const {
  uint64_t bytes = 0;
  for (const TaskPages& task : tasks) bytes += Bytes(task.dirty);
  return bytes;
}

uint64_t Look::owned_bytes() const {
  uint64_t bytes = 0;
  for (const TaskPages& task : tasks) bytes += Bytes(task.owned);
  for (const TaskPages& object : shared) bytes += Bytes(object.owned);
  return bytes;
}

class Tracker::Impl {
 public:
  Impl(std::string proc, std::string cgroup) : proc_(std::move(proc)), cgroup_(std::move(cgroup)) {}

  absl::Status Attach(const Options& options);
  absl::StatusOr<Look> Round();
  absl::StatusOr<Look> Owned() { return TakeLook(LookKind::kOwned); }
  absl::StatusOr<Look> Last() { return TakeLook(LookKind::kLast); }
  const char* SharedMemory(pid_t key) const;
  std::vector<Pinned> FindPinned() const;

 private:
  using Tasks = std::vector<TrackedTask*>;

  absl::Status Follow();
  absl::StatusOr<Look> TakeLook(LookKind kind);
  bool SharesMemory(const TrackedTask& task) const;
  absl::Status AttachTo(TrackedTask& task, absl::Duration limit) const;
  void AttachNew(Tasks& tasks, absl::Time deadline);
  absl::Status LookOnce(LookKind kind, Tasks& tasks);
  absl::Status LookAtShared(LookKind kind, std::vector<TaskPages>& shared);

  const std::string proc_, cgroup_;
  std::map<pid_t, std::unique_ptr<TrackedTask>> tasks_;
  std::optional<SharedObjects> shared_;
  pid_t next_ = 0;  // where the last look's time for AttachNew was over
};

// Makes tasks_ those that are in the cgroup now.
absl::Status Tracker::Impl::Follow() {
  GODWIT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids, runtime::ProcessesInCgroup(cgroup_));
  std::erase_if(tasks_,
                [&](const auto& task) { return !std::binary_search(pids.begin(), pids.end(), task.first); });
  for (pid_t pid : pids) {
    std::unique_ptr<TrackedTask>& task = tasks_[pid];
    if (task == nullptr) task = std::make_unique<TrackedTask>(proc_, pid);
  }
  return absl::OkStatus();
}

// Between vfork and exec, and for good after clone(CLONE_VM), two processes have one memory, which one
// userfaultfd is for. The second is looked at as a whole each time, and the first one's pages are not
// re-armed by it.
bool Tracker::Impl::SharesMemory(const TrackedTask& task) const {
  return std::any_of(tasks_.begin(), tasks_.end(), [&](const auto& other) {
    return other.second->attached() && other.first != task.pid() && ShareMemory(other.first, task.pid());
  });
}

absl::Status Tracker::Impl::Attach(const Options& options) {
  if (options.shared_memory) {
    absl::StatusOr<SharedObjects> shared = SharedObjects::Start(proc_);
    if (shared.ok()) {
      shared_.emplace(*std::move(shared));
    } else {
      LOG(WARNING) << Log("shared memory is left to CRIU").With(shared.status());
    }
  }
  GODWIT_RETURN_IF_ERROR(Follow());
  for (auto task = tasks_.begin(); task != tasks_.end();) {
    const absl::Status attached =
        SharesMemory(*task->second) ? absl::OkStatus() : AttachTo(*task->second, kStopLimit);
    if (!attached.ok() && !absl::IsNotFound(attached) && !absl::IsOutOfRange(attached)) return attached;
    task = attached.ok() ? std::next(task) : tasks_.erase(task);
  }
  return absl::OkStatus();
}

// Since the cgroup was read, the process' number may have become another one's, of another container even.
// What is found to be this container's by its number, and has not ended when all is done, was it all the
// time. OutOfRange: it is not this container's.
absl::Status Tracker::Impl::AttachTo(TrackedTask& task, absl::Duration limit) const {
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, task.pid(), 0)));
  if (!pidfd.ok()) {
    return errno == ESRCH ? absl::NotFoundError(absl::StrCat("process ", task.pid(), " has ended"))
                          : ErrnoStatus(absl::StrCat("cannot get hold of process ", task.pid()));
  }
  GODWIT_ASSIGN_OR_RETURN(const std::string cgroup, runtime::CgroupOfProcess(proc_, task.pid()));
  if (!IsInCgroup(cgroup_, cgroup))
    return absl::OutOfRangeError(absl::StrCat("process ", task.pid(), " is in cgroup ", cgroup, " now"));
  GODWIT_RETURN_IF_ERROR(task.Attach(limit));
  if (!HasEnded(pidfd)) return absl::OkStatus();
  task.Detach();
  return absl::NotFoundError(absl::StrCat("process ", task.pid(), " has ended"));
}

// Goes on where the last look's time was over, so that each has its turn. Leaves in `tasks` those that are
// the container's.
void Tracker::Impl::AttachNew(Tasks& tasks, absl::Time deadline) {
  std::rotate(
      tasks.begin(),
      std::find_if(tasks.begin(), tasks.end(), [&](TrackedTask* task) { return task->pid() >= next_; }),
      tasks.end());
  for (TrackedTask*& task : tasks) {
    if (task->attached()) continue;
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) {
      next_ = task->pid();
      LOG(WARNING) << Log("new processes are left to the next round: there is no time for all in this one")
                          .With("next", next_);
      break;
    }
    if (SharesMemory(*task)) continue;
    const absl::Status attached = AttachTo(*task, std::min(left, kStopLimitInRound));
    if (absl::IsOutOfRange(attached)) {
      tasks_.erase(task->pid());
      task = nullptr;
    } else if (!attached.ok() && !absl::IsNotFound(attached)) {
      LOG(WARNING) << Log("process is sent as a whole again in the next round").With(attached);
    }
  }
  std::erase(tasks, nullptr);
}

// Leaves in `tasks` those that have to be looked at again.
absl::Status Tracker::Impl::LookOnce(LookKind kind, Tasks& tasks) {
  std::vector<absl::Status> planned(tasks.size());
  ShareWork(tasks.size(), [&](size_t i) { planned[i] = tasks[i]->Plan(kind); });
  std::vector<std::pair<TrackedTask*, TrackedTask::Piece*>> pieces;
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (absl::IsNotFound(planned[i])) {
      tasks_.erase(tasks[i]->pid());
      tasks[i] = nullptr;
      continue;
    }
    GODWIT_RETURN_IF_ERROR(planned[i]);
    for (TrackedTask::Piece& piece : tasks[i]->pieces()) pieces.emplace_back(tasks[i], &piece);
  }
  ShareWork(pieces.size(), [&](size_t i) { pieces[i].first->Scan(kind, *pieces[i].second); });
  std::erase_if(tasks, [](TrackedTask* task) { return task == nullptr || !task->DetachIfMemoryGone(); });
  return absl::OkStatus();
}

absl::Status Tracker::Impl::LookAtShared(LookKind kind, std::vector<TaskPages>& shared) {
  if (!shared_.has_value()) return absl::OkStatus();
  // At the last look CRIU works in the tasks: what it has mapped there is not theirs.
  if (kind != LookKind::kLast) {
    std::vector<std::pair<pid_t, SharedMapping>> mappings;
    for (const auto& [pid, task] : tasks_) {
      for (const SharedMapping& mapping : task->shared()) mappings.emplace_back(pid, mapping);
    }
    shared_->Follow(mappings);
  }
  for (const SharedObjects::Object& object : shared_->objects()) {
    TaskPages pages{.pid = object.key, .container_pid = object.key, .owned = {{0, object.bytes}}};
    if (kind != LookKind::kOwned) {
      GODWIT_ASSIGN_OR_RETURN(pages.dirty, shared_->Populated(object.key));
      if (kind == LookKind::kLast) pages.populated = pages.dirty;
    }
    shared.push_back(std::move(pages));
  }
  return absl::OkStatus();
}

absl::StatusOr<Look> Tracker::Impl::TakeLook(LookKind kind) {
  const absl::Time began = SteadyNow();
  GODWIT_RETURN_IF_ERROR(Follow());
  Tasks open;
  for (const auto& [pid, task] : tasks_) open.push_back(task.get());
  for (int attempt = 0; !open.empty(); ++attempt) {
    if (kind == LookKind::kRound && attempt < kAttachAttempts) AttachNew(open, began + kAttachLimitInRound);
    GODWIT_RETURN_IF_ERROR(LookOnce(kind, open));
  }
  Look look;
  for (auto task = tasks_.begin(); task != tasks_.end();) {
    absl::StatusOr<TaskPages> pages = task->second->Take(kind);
    if (absl::IsNotFound(pages.status())) {  // it has ended meanwhile
      task = tasks_.erase(task);
      continue;
    }
    GODWIT_RETURN_IF_ERROR(pages.status());
    look.tasks.push_back(*std::move(pages));
    ++task;
  }
  std::sort(look.tasks.begin(), look.tasks.end(),
            [](const TaskPages& a, const TaskPages& b) { return a.container_pid < b.container_pid; });
  GODWIT_RETURN_IF_ERROR(LookAtShared(kind, look.shared));
  look.took = SteadyNow() - began;
  return look;
}

absl::StatusOr<Look> Tracker::Impl::Round() {
  absl::StatusOr<Look> look = TakeLook(LookKind::kRound);
  // What was armed and is not reported must be reported some time.
  if (!look.ok()) {
    for (const auto& [pid, task] : tasks_) task->Forget();
  }
  return look;
}

const char* Tracker::Impl::SharedMemory(pid_t key) const {
  return shared_.has_value() ? shared_->MemoryOf(key) : nullptr;
}

std::vector<Pinned> Tracker::Impl::FindPinned() const {
  std::vector<Pinned> pinned;
  for (pid_t pid : runtime::ProcessesInCgroup(cgroup_).value_or(std::vector<pid_t>())) {
    for (Pinned& one : FindPinnedOf(proc_, pid)) pinned.push_back(std::move(one));
  }
  return pinned;
}

Tracker::Tracker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tracker::~Tracker() = default;

absl::StatusOr<std::unique_ptr<Tracker>> Tracker::Attach(const std::string& proc, const std::string& cgroup,
                                                         const Options& options) {
  GODWIT_RETURN_IF_ERROR(CheckTrackerSupport());
  auto impl = std::make_unique<Impl>(proc, cgroup);
  GODWIT_RETURN_IF_ERROR(impl->Attach(options));
  return std::unique_ptr<Tracker>(new Tracker(std::move(impl)));
}

absl::StatusOr<Look> Tracker::Round() { return impl_->Round(); }
absl::StatusOr<Look> Tracker::Owned() { return impl_->Owned(); }
absl::StatusOr<Look> Tracker::Last() { return impl_->Last(); }
const char* Tracker::SharedMemory(pid_t key) const { return impl_->SharedMemory(key); }
std::vector<Pinned> Tracker::FindPinned() const { return impl_->FindPinned(); }

}  // namespace godwit::memory
