// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/page_sender.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/memory/page_store.h"
#include "agent/transfer/frame.h"
#include "agent/transfer/known_pages.h"
#include "agent/transfer/page_frame.h"
#include "agent/transfer/page_lane.h"
#include "base/file.h"
#include "base/share_work.h"
#include "base/status.h"

namespace godwit::transfer {
namespace {

using memory::Range;
using memory::Ranges;

constexpr uint64_t kCompareBytes = 4u << 20;  // by one thread at a time
// Less is sent by one thread: others would be started for too little.
constexpr uint64_t kWorthThreads = 1u << 20;
// A task that has less to send goes over one lane, in as few frames as over one connection.
constexpr uint64_t kWorthLanes = 8u << 20;

// Pages that the task itself may not read (PROT_NONE) have content all the same.
absl::StatusOr<size_t> ReadWhatIsProtected(pid_t task, uint64_t address, char* to, size_t size) {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd memory, OpenFile(absl::StrCat("/proc/", task, "/mem"), O_RDONLY));
  const ssize_t got = pread(memory.get(), to, size, static_cast<off_t>(address));
  if (got >= 0) return static_cast<size_t>(got);
  if (errno == EIO || errno == EFAULT) return 0;
  return ErrnoStatus(absl::StrFormat("cannot read the memory of task %d at 0x%x", task, address));
}

}  // namespace

class PageSender::Impl {
 public:
  Impl(std::string container, Read read, TokenBucket* bucket)
      : container_(std::move(container)), read_(std::move(read)), bucket_(bucket) {}

  void SetStream(Stream* stream) {
    stream_ = stream;
    for (size_t lane = 0; lane < lanes_.size(); ++lane) lanes_[lane]->SetStream(stream, lane);
    for (auto& [pid, task] : tasks_) ForgetAll(task.known, task.unacknowledged);
    lane_of_.clear();
  }

  void Owe(pid_t container_pid, const Ranges& pages) {
    if (pages.empty()) return;
    Task& task = tasks_[container_pid];
    task.owed = memory::Union(task.owed, pages);
  }

  void ExpectAll() { expect_all_ = true; }

  absl::Status Send(pid_t pid, pid_t container_pid, const Ranges& pages, absl::Time deadline,
                    PageTotals* totals) {
    Task& task = tasks_[container_pid];
    Ranges unchanged;
    absl::Status status = SendOverLanes(
        {.task = pid, .container_pid = container_pid, .expect_all = expect_all_, .deadline = deadline}, pages,
        task.known, totals, unchanged);
    if (absl::IsNotFound(status)) {
      Forget(container_pid);
      if (!expect_all_) return absl::OkStatus();
      return absl::DataLossError(absl::StrCat("task ", container_pid, " of container ", container_,
                                              " ended while the pod stood still: it was killed"));
    }
    const Ranges sent = memory::Difference(pages, unchanged);
    task.unacknowledged = memory::Union(task.unacknowledged, sent);
    if (status.ok()) {
      task.owed = memory::Difference(task.owed, pages);
      return status;
    }
    ForgetAll(task.known, sent);
    return Annotate(status,
                    absl::StrCat("cannot send memory of task ", container_pid, " of container ", container_));
  }

  Ranges Differing(pid_t container_pid, const Ranges& pages, const char* memory) const {
    const auto task = tasks_.find(container_pid);
    if (task == tasks_.end()) return pages;
    Ranges pieces;
    for (Range left : pages) {
      for (; left.start < left.end; left.start = pieces.back().end)
        pieces.push_back({left.start, std::min(left.end, left.start + kCompareBytes)});
    }
    std::vector<Ranges> found(pieces.size());
    ShareWork(pieces.size(), [&](size_t i) {
      for (uint64_t at = pieces[i].start; at < pieces[i].end; at += page_) {
        if (hash_(memory + at) != task->second.known.Find(at)) memory::Append(found[i], {at, at + page_});
      }
    });
    Ranges differing;
    for (const Ranges& ranges : found) {
      for (const Range& range : ranges) memory::Append(differing, range);
    }
    return differing;
  }

  absl::Status KeepPages(pid_t container_pid, const Ranges& populated, absl::Time deadline) {
    auto task = tasks_.find(container_pid);
    if (task != tasks_.end()) {
      ForgetAll(task->second.known, memory::Difference({{0, memory::kAddressEnd}}, populated));
    }
    GODWIT_RETURN_IF_ERROR(stream_->JoinLanes(deadline));
    transfer::KeepPages keep{.container = container_, .container_pid = container_pid};
    for (Range left : populated) {
      while (left.start < left.end) {
        if (keep.ranges.size() == kMaxKeptRanges) {
          keep.window.end = keep.ranges.back().end;
          GODWIT_RETURN_IF_ERROR(stream_->Send(FrameType::kKeepPages, {EncodeKeepPages(keep)}, deadline));
          keep.window.start = keep.window.end;
          keep.ranges.clear();
        }
        keep.ranges.push_back({left.start, std::min(left.end, left.start + kMaxRunBytes)});
        left.start = keep.ranges.back().end;
      }
    }
    keep.window.end = memory::kAddressEnd;
    return stream_->Send(FrameType::kKeepPages, {EncodeKeepPages(keep)}, deadline);
  }

  absl::Status MissPages(pid_t container_pid, const Ranges& missing, absl::Time deadline) {
    GODWIT_RETURN_IF_ERROR(stream_->JoinLanes(deadline));
    const TaskRanges task{.container = container_, .container_pid = container_pid, .ranges = missing};
    for (const std::string& payload : EncodeMissing(task))
      GODWIT_RETURN_IF_ERROR(stream_->Send(FrameType::kMissing, {payload}, deadline));
    return absl::OkStatus();
  }

  absl::Status KeepTasks(const std::vector<pid_t>& container_pids, absl::Time deadline) {
    if (container_pids.size() > memory::PageStore::kMaxTasks) {
      return absl::ResourceExhaustedError(absl::StrCat("container ", container_, " has ",
                                                       container_pids.size(), " tasks; at most ",
                                                       memory::PageStore::kMaxTasks, " can be moved"));
    }
    const absl::flat_hash_set<pid_t> kept(container_pids.begin(), container_pids.end());
    std::erase_if(tasks_, [&](const auto& entry) { return !kept.contains(entry.first); });
    GODWIT_RETURN_IF_ERROR(stream_->JoinLanes(deadline));
    const transfer::KeepPages keep{.container = container_, .tasks = container_pids};
    return stream_->Send(FrameType::kKeepPages, {EncodeKeepPages(keep)}, deadline);
  }

  void Acknowledge() {
    for (auto& [pid, task] : tasks_) task.unacknowledged.clear();
    lane_of_.clear();  // nothing is on its way that could come late
  }

  std::vector<std::pair<pid_t, Ranges>> Unacknowledged() const {
    std::vector<std::pair<pid_t, Ranges>> list;
    for (const auto& [pid, task] : tasks_) {
      Ranges pages = memory::Union(task.unacknowledged, task.owed);
      if (!pages.empty()) list.emplace_back(pid, std::move(pages));
    }
    return list;
  }

  void Forget(pid_t container_pid) { tasks_.erase(container_pid); }

 private:
  struct Task {
    KnownPages known;
    Ranges unacknowledged;
    Ranges owed;
  };

  // Of what several lanes say: one whose connection failed tells more than those that were ended with it, and
  // either more than that a task has gone.
  static int Weight(const absl::Status& status) {
    if (status.ok()) return 0;
    if (absl::IsNotFound(status)) return 1;
    return absl::IsCancelled(status) ? 2 : 3;
  }

  static void ForgetAll(KnownPages& known, const Ranges& ranges) {
    for (const Range& range : ranges) known.Forget(range);
  }

  // Deals the pages of a task to the stream's lanes, each page always to the same one.
  std::vector<Ranges> Deal(pid_t container_pid, const Ranges& pages) {
    const size_t lanes = stream_->lanes();
    if (lanes == 1) return {pages};
    std::vector<Ranges> dealt(lanes);
    const auto [lane, fresh] = lane_of_.try_emplace(container_pid);
    if (fresh && memory::Bytes(pages) < kWorthLanes) lane->second = next_lane_++ % lanes;
    if (lane->second.has_value()) {
      dealt[*lane->second] = pages;
      return dealt;
    }
    for (Range left : pages) {
      while (left.start < left.end) {
        const Range part{left.start, std::min(left.end, KnownPages::ShardEnd(left.start))};
        memory::Append(dealt[KnownPages::ShardOf(part.start) % lanes], part);
        left.start = part.end;
      }
    }
    return dealt;
  }

  // `job` but for its pages.
  absl::Status SendOverLanes(const PageLane::Job& job, const Ranges& pages, KnownPages& known,
                             PageTotals* totals, Ranges& unchanged) {
    std::vector<Ranges> dealt = Deal(job.container_pid, pages);
    while (lanes_.size() < dealt.size()) {
      lanes_.push_back(std::make_unique<PageLane>(container_, read_, hash_, *bucket_));
      lanes_.back()->SetStream(stream_, lanes_.size() - 1);
    }
    std::vector<absl::Status> results(dealt.size());
    const auto send = [&](size_t lane) {
      PageLane::Job part = job;
      part.pages = std::move(dealt[lane]);
      results[lane] = lanes_[lane]->Send(part, known);
    };
    if (memory::Bytes(pages) < kWorthThreads) {
      for (size_t lane = 0; lane < dealt.size(); ++lane) send(lane);
    } else {
      ShareWork(dealt.size(), send);
    }
    absl::Status status;
    for (size_t lane = 0; lane < results.size(); ++lane) {
      *totals += lanes_[lane]->totals();
      unchanged = memory::Union(unchanged, lanes_[lane]->unchanged());
      if (Weight(results[lane]) > Weight(status)) status = results[lane];
    }
    return status;
  }

  const std::string container_;
  const Read read_;
  TokenBucket* const bucket_;
  const size_t page_ = memory::PageBytes();
  const PageHash hash_;
  Stream* stream_ = nullptr;
  std::map<pid_t, Task> tasks_;  // by container_pid
  std::vector<std::unique_ptr<PageLane>> lanes_;
  // By container_pid: the one lane that the pages of a task go by which has little to send; of others each
  // page has its own. It holds until all has arrived, for whoever gets the pid of a task that is gone, too.
  std::map<pid_t, std::optional<size_t>> lane_of_;
  size_t next_lane_ = 0;
  bool expect_all_ = false;
};

PageTotals& PageTotals::operator+=(const PageTotals& more) {
  looked_at += more.looked_at;
  sent += more.sent;
  zero += more.zero;
  unchanged += more.unchanged;
  wire += more.wire;
  return *this;
}

PageSender::PageSender(std::string container, Read read, TokenBucket* bucket)
    : impl_(std::make_unique<Impl>(std::move(container), std::move(read), bucket)) {}
PageSender::~PageSender() = default;
void PageSender::SetStream(Stream* stream) { impl_->SetStream(stream); }
void PageSender::Owe(pid_t container_pid, const Ranges& pages) { impl_->Owe(container_pid, pages); }
void PageSender::ExpectAll() { impl_->ExpectAll(); }
absl::Status PageSender::Send(pid_t task, pid_t container_pid, const Ranges& pages, absl::Time deadline,
                              PageTotals* totals) {
  return impl_->Send(task, container_pid, pages, deadline, totals);
}
Ranges PageSender::Differing(pid_t container_pid, const Ranges& pages, const char* memory) const {
  return impl_->Differing(container_pid, pages, memory);
}
absl::Status PageSender::KeepPages(pid_t container_pid, const Ranges& populated, absl::Time deadline) {
  return impl_->KeepPages(container_pid, populated, deadline);
}
absl::Status PageSender::MissPages(pid_t container_pid, const Ranges& missing, absl::Time deadline) {
  return impl_->MissPages(container_pid, missing, deadline);
}
absl::Status PageSender::KeepTasks(const std::vector<pid_t>& container_pids, absl::Time deadline) {
  return impl_->KeepTasks(container_pids, deadline);
}
void PageSender::Acknowledge() { impl_->Acknowledge(); }
std::vector<std::pair<pid_t, Ranges>> PageSender::Unacknowledged() const { return impl_->Unacknowledged(); }
void PageSender::Forget(pid_t container_pid) { impl_->Forget(container_pid); }

absl::StatusOr<size_t> ReadTaskMemory(pid_t task, uint64_t address, char* to, size_t size) {
  const iovec local{to, size};
  const iovec remote{reinterpret_cast<void*>(address), size};
  const ssize_t got = process_vm_readv(task, &local, 1, &remote, 1, 0);
  if (got >= 0) return static_cast<size_t>(got);
  if (errno == EFAULT) return ReadWhatIsProtected(task, address, to, size);
  if (errno == ESRCH) return absl::NotFoundError(absl::StrCat("task ", task, " is gone"));
  return ErrnoStatus(absl::StrFormat("cannot read the memory of task %d at 0x%x", task, address));
}

}  // namespace godwit::transfer
