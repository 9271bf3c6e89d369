// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/pull.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::AgentWord;
using agent_api::PagerWord;
using agent_api::PageSpan;
using agent_api::PagesReply;

// A pager reads at once; one that does not is hung up, and asks again.
constexpr absl::Duration kPatience = absl::Seconds(2);
constexpr absl::Duration kGiveLimit = absl::Seconds(10);
constexpr uint64_t kMaxWantedBytes = uint64_t{16} << 20;  // at a time

bool IsRegular(int fd) {
  struct stat info;
  return fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
}

absl::StatusOr<transfer::TaskRanges> RangesOf(const std::string& container, const PageSpan& span) {
  const uint64_t page = memory::PageBytes();
  if (span.task <= 0 || span.task > transfer::kMaxContainerPid || span.start % page != 0 ||
      span.bytes % page != 0 || span.bytes == 0 || span.bytes > kMaxWantedBytes ||
      span.start > memory::kAddressEnd - kMaxWantedBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the pager of container ", container, " wants ",
                                                   span.bytes, " bytes at ", span.start, " of task ",
                                                   span.task));
  }
  return transfer::TaskRanges{.container = container,
                              .container_pid = static_cast<pid_t>(span.task),
                              .ranges = {{span.start, span.start + span.bytes}}};
}

}  // namespace

Pull::Pull(std::string container, memory::PageStore* store, bool known, Want want)
    : container_(std::move(container)),
      store_(store),
      want_(std::move(want)),
      known_(known),
      alone_since_(SteadyNow()) {}

Pull::~Pull() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
    if (channel_ != nullptr) channel_->Shutdown();
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

absl::StatusOr<memory::PageServer::Found> Pull::Open() {
  absl::MutexLock lock(&mutex_);
  memory::PageServer::Found found;
  told_.clear();
  found.give = !known_;
  for (const pid_t task : known_ ? store_->Tasks() : std::vector<pid_t>()) {
    told_[task] = store_->Missing(task);
    GODWIT_ASSIGN_OR_RETURN(UniqueFd map, store_->MapOf(task));
    GODWIT_ASSIGN_OR_RETURN(UniqueFd file, store_->FileOf(task));
    found.stores.emplace_back(task, std::move(file));
    found.maps.push_back(std::move(map));
  }
  found.pull = [this](LineChannel channel) { Attach(std::move(channel)); };
  return found;
}

void Pull::Attach(LineChannel channel) {
  auto fresh = std::make_shared<LineChannel>(std::move(channel));
  absl::MutexLock lock(&mutex_);
  if (ending_) return;
  if (channel_ != nullptr) channel_->Shutdown();
  channel_ = fresh;
  alone_since_ = absl::InfiniteFuture();
  // What has come since the maps were made.
  for (const auto& [task, missing] : told_) {
    Tell({.container = container_,
          .container_pid = task,
          .ranges = memory::Difference(missing, store_->Missing(task))});
  }
  if (!lost_.empty()) Write({.lost = lost_});
  threads_.emplace_back([this, fresh] { Serve(fresh); });
}

void Pull::Serve(const Channel& channel) {
  absl::Status status = known() ? absl::OkStatus() : TakeStores(*channel);
  while (status.ok()) {
    const absl::StatusOr<std::string> line = channel->ReadLine(absl::InfiniteDuration());
    status = line.ok() ? Hear(*line) : line.status();
  }
  LOG(INFO) << Log("a pager's connection has ended").With("container", container_).With(status);
  absl::MutexLock lock(&mutex_);
  channel->Shutdown();
  if (channel_ != channel) return;
  channel_ = nullptr;
  alone_since_ = SteadyNow();
}

// What an earlier agent gave to the pager comes back.
absl::Status Pull::TakeStores(LineChannel& channel) {
  channel.AcceptDescriptors(kMaxDescriptors);
  for (bool more = true; more;) {
    GODWIT_ASSIGN_OR_RETURN(const std::string line, channel.ReadLine(kGiveLimit));
    GODWIT_ASSIGN_OR_RETURN(const PagesReply given, json::Decode<PagesReply>(line));
    if (given.tasks.size() > agent_api::kMaxPagesBatch)
      return absl::InvalidArgumentError("the pager names too many tasks");
    GODWIT_ASSIGN_OR_RETURN(std::vector<UniqueFd> files, channel.TakeDescriptors(2 * given.tasks.size()));
    for (size_t i = 0; i < given.tasks.size(); ++i) {
      const int64_t task = given.tasks[i];
      if (task <= 0 || task > transfer::kMaxContainerPid || !IsRegular(files[2 * i].get()) ||
          !IsRegular(files[2 * i + 1].get()))
        return absl::InvalidArgumentError(absl::StrCat("the pager gave no page store of task ", task));
      GODWIT_RETURN_IF_ERROR(
          store_->Adopt(static_cast<pid_t>(task), std::move(files[2 * i]), files[2 * i + 1].get()));
    }
    more = given.more;
  }
  LOG(INFO) << Log("a pager gave its memory back")
                   .With("container", container_)
                   .With("missing", store_->missing_bytes());
  absl::MutexLock lock(&mutex_);
  known_ = true;
  return absl::OkStatus();
}

absl::Status Pull::Hear(const std::string& line) {
  GODWIT_ASSIGN_OR_RETURN(const PagerWord word,
                          json::Decode<PagerWord>(line, {.max_bytes = agent_api::kMaxWord, .max_depth = 8}));
  if (word.wanted.size() > agent_api::kMaxSpans)
    return absl::InvalidArgumentError("the pager wants too much at a time");
  {
    absl::MutexLock lock(&mutex_);
    faults_ = {word.faults, word.fault_p50, word.fault_p99};
    complete_ = complete_ || word.complete;
    over_ = over_ || word.complete || word.ended;
    if (failed_.empty()) failed_ = word.failed;
  }
  for (const PageSpan& span : word.wanted) {
    GODWIT_ASSIGN_OR_RETURN(const transfer::TaskRanges pages, RangesOf(container_, span));
    {
      absl::MutexLock lock(&mutex_);
      wanted_[pages.container_pid].Insert(pages.ranges[0]);
    }
    want_(pages);
  }
  return absl::OkStatus();
}

void Pull::Arrived(const transfer::TaskRanges& pages) {
  absl::MutexLock lock(&mutex_);
  if (const auto wanted = wanted_.find(pages.container_pid); wanted != wanted_.end()) {
    for (const memory::Range& range : pages.ranges) wanted->second.Erase(range);
  }
  Tell(pages);
}

void Pull::Tell(const transfer::TaskRanges& arrived) {
  AgentWord word;
  const auto end = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Write(word);
    word.arrived.clear();
  };
  for (const memory::Range& range : arrived.ranges) {
    if (word.arrived.size() == agent_api::kMaxSpans) end();
    word.arrived.push_back({.task = arrived.container_pid, .start = range.start, .bytes = range.bytes()});
  }
  if (!word.arrived.empty()) end();
}

void Pull::Write(const AgentWord& word) {
  if (channel_ == nullptr) return;
  const absl::Status written = channel_->WriteLine(json::Encode(word), kPatience);
  if (written.ok()) return;
  LOG(WARNING) << Log("a pager does not listen").With("container", container_).With(written);
  channel_->Shutdown();  // its thread sees the end
}

void Pull::Lose(const std::string& why) {
  absl::MutexLock lock(&mutex_);
  if (!lost_.empty() || over_) return;
  lost_ = why;
  Write({.lost = lost_});
}

void Pull::Killed(const std::string& why) {
  absl::MutexLock lock(&mutex_);
  if (over_) return;
  over_ = true;
  failed_ = why;
}

bool Pull::known() const {
  absl::MutexLock lock(&mutex_);
  return known_;
}

bool Pull::complete() const {
  absl::MutexLock lock(&mutex_);
  return complete_;
}

std::string Pull::failed() const {
  absl::MutexLock lock(&mutex_);
  return failed_;
}

bool Pull::over() const {
  absl::MutexLock lock(&mutex_);
  return over_;
}

absl::Time Pull::alone_since() const {
  absl::MutexLock lock(&mutex_);
  return alone_since_;
}

std::vector<transfer::TaskRanges> Pull::Wanted() const {
  absl::MutexLock lock(&mutex_);
  std::vector<transfer::TaskRanges> wanted;
  for (const auto& [task, pages] : wanted_) {
    if (!pages.empty())
      wanted.push_back(
          {.container = container_, .container_pid = task, .ranges = pages.Inside({0, memory::kAddressEnd})});
  }
  return wanted;
}

Pull::Faults Pull::faults() const {
  absl::MutexLock lock(&mutex_);
  return faults_;
}

}  // namespace godwit::migration
