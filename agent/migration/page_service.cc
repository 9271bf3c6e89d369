// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/page_service.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/memory/page_store.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using memory::Range;
using memory::Ranges;

// At a time: what is waited for waits for no more than this.
constexpr uint64_t kBatchBytes = uint64_t{256} << 10;
constexpr size_t kMaxRanges = size_t{16} << 20;

using Open = std::map<pid_t, MemoryNode::ReadOne>;

// A frozen task gives nothing back: a page that is not there is a task that was killed.
transfer::PageSender::Read ReadStrictly(const Open& open) {
  return [&open](pid_t task, uint64_t address, char* to, size_t size) -> absl::StatusOr<size_t> {
    const absl::StatusOr<size_t> got = open.at(task)(address, to, size);
    if (got.ok() && *got >= memory::PageBytes()) return got;
    return absl::DataLossError(absl::StrFormat("the memory of process %d at 0x%x cannot be read: %s", task,
                                               address,
                                               got.ok() ? "it is not there" : got.status().message()));
  };
}

}  // namespace

PageService::PageService(std::vector<PreCopy::Container> containers, const MemoryNode& node,
                         transfer::TokenBucket* bucket)
    : node_(node) {
  for (PreCopy::Container& container : containers) {
    Part& part = parts_[container.name];
    const auto read = ReadStrictly(part.open);
    part.urgent = std::make_unique<transfer::PageSender>(container.name, read, &unlimited_);
    part.steady = std::make_unique<transfer::PageSender>(container.name, read, bucket);
    part.container = std::move(container);
  }
}

void PageService::SetStream(transfer::Stream* stream) {
  index_.clear();
  tasks_.clear();
  at_ = 0;
  ranges_ = 0;
  for (auto& [name, part] : parts_) {
    part.tasks.clear();
    part.open.clear();
    part.urgent->SetStream(stream);
    part.steady->SetStream(stream);
  }
}

// Whose pages these are.
absl::StatusOr<PageService::Found> PageService::Find(const transfer::TaskRanges& pages) {
  const auto part = parts_.find(pages.container);
  if (part == parts_.end())
    return absl::InvalidArgumentError(absl::StrCat("the target misses pages of container \"",
                                                   absl::CEscape(pages.container),
                                                   "\", which is none of this pod"));
  if (part->second.tasks.empty()) GODWIT_RETURN_IF_ERROR(OpenTasks(part->second));
  const auto pid = part->second.tasks.find(pages.container_pid);
  if (pid == part->second.tasks.end())
    return absl::DataLossError(absl::StrCat("process ", pages.container_pid, " of container ",
                                            pages.container, " is no longer there"));
  return Found{&part->second, pid->second};
}

absl::Status PageService::SendUnlisted(const transfer::TaskRanges& pages, absl::Time deadline) {
  GODWIT_ASSIGN_OR_RETURN(const Found found, Find(pages));
  return found.part->urgent->Send(found.pid, pages.container_pid, pages.ranges, deadline, &totals_);
}

absl::Status PageService::Add(const transfer::TaskRanges& missing) {
  ranges_ += missing.ranges.size();
  if (ranges_ > kMaxRanges)
    return absl::InvalidArgumentError(absl::StrCat("the target misses more than ", kMaxRanges, " ranges"));
  GODWIT_ASSIGN_OR_RETURN(const Found found, Find(missing));
  const auto [place, fresh] = index_.try_emplace({missing.container, missing.container_pid}, tasks_.size());
  if (fresh) tasks_.push_back({.part = found.part, .pid = found.pid, .container_pid = missing.container_pid});
  Task& task = tasks_[place->second];
  for (const Range& range : missing.ranges) {
    if (!task.listed.empty() && range.start < task.listed.back().end)
      return absl::InvalidArgumentError("the target lists missing pages out of order");
    memory::Append(task.listed, range);
    task.left.Insert(range);
  }
  return absl::OkStatus();
}

// What was opened is theirs only if they are there still.
absl::Status PageService::OpenTasks(Part& part) const {
  const auto open = [&]() -> absl::Status {
    GODWIT_ASSIGN_OR_RETURN(part.tasks, node_.tasks(part.container.cgroup));
    for (const auto& [container_pid, pid] : part.tasks) {
      GODWIT_ASSIGN_OR_RETURN(part.open[pid], node_.open(pid));
    }
    GODWIT_ASSIGN_OR_RETURN(const auto again, node_.tasks(part.container.cgroup));
    return again == part.tasks ? absl::OkStatus() : absl::NotFoundError("they are ending");
  };
  const absl::Status status = open();
  if (status.ok()) return status;
  return absl::DataLossError(absl::StrCat("the frozen processes of container ", part.container.name,
                                          " cannot be read: ", status.message()));
}

absl::Status PageService::SendWanted(const transfer::TaskRanges& wanted, absl::Time deadline) {
  const auto place = index_.find({wanted.container, wanted.container_pid});
  if (place == index_.end()) return absl::OkStatus();  // never missing, or not any more
  Task& task = tasks_[place->second];
  Ranges pages;
  for (const Range& range : wanted.ranges) {
    for (const Range& part : task.left.Inside(range)) memory::Append(pages, part);
  }
  if (pages.empty()) return absl::OkStatus();
  for (const Range& range : pages) task.left.Erase(range);
  at_ = place->second;
  task.from = pages.back().end;
  task.next = static_cast<size_t>(
      std::upper_bound(task.listed.begin(), task.listed.end(), task.from,
                       [](uint64_t address, const Range& range) { return address < range.end; }) -
      task.listed.begin());
  return task.part->urgent->Send(task.pid, task.container_pid, pages, deadline, &totals_);
}

// Up to a batch of what is left behind where the last one ended; once more from the beginning.
Ranges PageService::TakeNext(Task& task) {
  Ranges pages;
  uint64_t bytes = 0;
  while (!task.left.empty() && bytes < kBatchBytes) {
    if (task.next == task.listed.size()) {
      if (bytes > 0) break;
      task.next = 0;
      task.from = 0;
    }
    const Range& range = task.listed[task.next];
    const uint64_t start = std::max(range.start, task.from);
    const uint64_t end = std::min(range.end, start + (kBatchBytes - bytes));
    if (start >= range.end) {
      ++task.next;
      continue;
    }
    for (const Range& part : task.left.Inside({start, end})) {
      memory::Append(pages, part);
      bytes += part.bytes();
      task.left.Erase(part);
    }
    task.from = end;
  }
  return pages;
}

absl::StatusOr<bool> PageService::SendNext(absl::Time deadline) {
  for (size_t tried = 0; tried < tasks_.size(); ++tried) {
    Task& task = tasks_[at_];
    const Ranges pages = TakeNext(task);
    if (pages.empty()) {
      at_ = (at_ + 1) % tasks_.size();
      continue;
    }
    GODWIT_RETURN_IF_ERROR(task.part->steady->Send(task.pid, task.container_pid, pages, deadline, &totals_));
    return true;
  }
  return false;
}

int64_t PageService::left_bytes() const {
  uint64_t pages = 0;
  for (const Task& task : tasks_) pages += task.left.pages();
  return static_cast<int64_t>(pages * memory::PageBytes());
}

}  // namespace godwit::migration
