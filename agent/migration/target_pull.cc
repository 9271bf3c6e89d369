// SPDX-License-Identifier: Apache-2.0
// What the target does after the commit of a post-copy: its copy runs, and what the source left in the freeze
// is pulled. This thread lists what is missing over each new stream and sees the end; streams bring pages,
// and the pagers, through Pull, wait for them.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/migration/target.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using transfer::FrameType;

constexpr absl::Duration kLook = absl::Milliseconds(100);
constexpr absl::Duration kTellLimit = absl::Seconds(5);
constexpr absl::Duration kWantLimit = absl::Seconds(2);
// A pager that lost its agent is back sooner; and where the disk knows of none, its container has ended, or
// had all.
constexpr absl::Duration kPagerLimit = absl::Seconds(10);
// For pagers to end a container whose memory is lost; then it is done without them.
constexpr absl::Duration kEndLimit = absl::Seconds(15);

absl::Time After(absl::Duration duration) { return SteadyNow() + duration; }

}  // namespace

std::map<std::string, memory::PageStore*> Target::Stores() const {
  std::map<std::string, memory::PageStore*> stores;
  for (const auto& [container, store] : stores_) stores[container] = store.get();
  return stores;
}

// An earlier agent's: only the pagers know what is missing.
void Target::TakeUpPulls() {
  if (FileExists(PulledFile())) return;
  absl::MutexLock lock(&mutex_);
  for (const Copy& copy : copies_) {
    if (copy.missing == 0) continue;
    pulled_.insert(copy.container);
    pulls_[copy.container] = MakePull(copy.container, /*known=*/false);
    if (const auto lost = ReadFile(LostFile(copy.container)); lost.ok())
      pulls_[copy.container]->Killed(*lost);
  }
}

std::unique_ptr<Pull> Target::MakePull(const std::string& container, bool known) {
  return std::make_unique<Pull>(container, stores_.at(container).get(), known,
                                [this](const transfer::TaskRanges& pages) { SendWanted(pages); });
}

int64_t Target::NoteLacking() {
  int64_t bytes = 0;
  for (const Copy& copy : copies_) bytes += copy.missing;
  absl::MutexLock lock(&mutex_);
  return pull_bytes_ = bytes;
}

void Target::BeginPulling() {
  absl::MutexLock lock(&mutex_);
  for (const Copy& copy : copies_) {
    if (copy.missing > 0) pulled_.insert(copy.container);
  }
  if (recovered_ && stream_ == nullptr) alone_since_ = SteadyNow();
  if (!recovered_) return;
  const absl::StatusOr<std::string> lost = ReadFile(PulledFile());
  if (absl::IsNotFound(lost.status())) return;
  pulled_.clear();
  pull_end_.total_bytes = pull_bytes_;
  pull_end_.lost = lost.ok() ? *lost : "how the pulling of its memory ended cannot be read any more";
}

std::optional<TargetEvent> Target::AwaitPages() {
  absl::Time lost_since = absl::InfiniteFuture();
  std::string why;
  while (!PullsOver()) {
    if (why.empty()) why = WhyLost();
    if (!why.empty()) {
      lost_since = std::min(lost_since, SteadyNow());
      for (const std::string& container : Pulled()) pulls_.at(container)->Lose(why);
      if (SteadyNow() - lost_since > kEndLimit && KillLost()) break;
    }
    List();
    absl::MutexLock lock(&mutex_);
    const std::shared_ptr<transfer::Stream> seen = told_;
    auto word = [this, &seen]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || told_ != seen; };
    mutex_.AwaitWithTimeout(absl::Condition(&word), kLook);
    if (stop_) return std::nullopt;
  }
  EndPulling(why);
  return TargetEvent::kDone;
}

std::set<std::string> Target::Pulled() const {
  absl::MutexLock lock(&mutex_);
  return pulled_;
}

// Whether no container waits for pages any more.
bool Target::PullsOver() const {
  const std::set<std::string> pulled = Pulled();
  return std::all_of(copies_.begin(), copies_.end(), [&](const Copy& copy) {
    if (!pulled.contains(copy.container)) return true;
    const Pull& pull = *pulls_.at(copy.container);
    const bool gone = SteadyNow() - pull.alone_since() > kPagerLimit && node_.pager_lives &&
                      !node_.pager_lives(copy.container_id);
    return pull.over() || gone;
  });
}

// Why what is missing will never come; empty while it may.
std::string Target::WhyLost() const {
  const std::string limit = absl::FormatDuration(node_.pull_limit);
  for (const std::string& container : Pulled()) {
    const Pull& pull = *pulls_.at(container);
    if (!pull.over() && SteadyNow() - pull.alone_since() > node_.pull_limit)
      return absl::StrCat("the pager of container ", container, " was not there for ", limit);
  }
  absl::MutexLock lock(&mutex_);
  if (pages_lost_.empty() && SteadyNow() - alone_since_ > node_.pull_limit)
    return absl::StrCat("the connection to node ", request_.source_node,
                        ", which has them, broke and did not come back within ", limit);
  return pages_lost_;
}

void Target::LosePages(const std::string& why) {
  absl::MutexLock lock(&mutex_);
  if (pages_lost_.empty()) pages_lost_ = why;
}

// Ends the containers whose pagers have not: none may run on with memory that is not its own.
bool Target::KillLost() {
  absl::Status status;
  const std::set<std::string> pulled = Pulled();
  for (const Copy& copy : copies_) {
    if (pulled.contains(copy.container) && !pulls_.at(copy.container)->over() && node_.kill)
      status.Update(node_.kill(copy.cgroup));
  }
  if (!status.ok())
    LOG(ERROR) << Log("a container whose memory is lost is not dead yet")
                      .With("migration", request_.uid)
                      .With(status);
  return status.ok();
}

void Target::EndPulling(std::string why) {
  agent_api::PullStatus end = PullNow();
  end.pulling = false;
  const std::set<std::string> pulled = Pulled();
  bool all = true;
  for (const std::string& container : pulled) {
    const Pull& pull = *pulls_.at(container);
    if (pull.complete()) continue;
    all = false;
    if (why.empty()) why = pull.failed();
  }
  // Where there is no reason the container has ended by itself, and needs none of it.
  end.lost = why.empty() || all ? "" : absl::StrCat(end.missing_bytes, " bytes of memory are lost: ", why);
  std::shared_ptr<transfer::Stream> stream;
  if (!pulled.empty()) {
    if (absl::Status written = WriteFileDurably(PulledFile(), end.lost); !written.ok())
      LOG(WARNING) << Log("a restart will have to find out that all pages are there")
                          .With("migration", request_.uid)
                          .With(written);
    if (node_.pulled) node_.pulled(end);
    LOG(INFO) << Log("pulling has ended")
                     .With("migration", request_.uid)
                     .With("bytes", end.total_bytes)
                     .With("faults", end.faults)
                     .With("lost", end.lost);
    absl::MutexLock lock(&mutex_);
    pulled_.clear();
    pull_end_ = end;
    stream = told_;
  }
  if (stream == nullptr) return;
  const transfer::MissingEnd over{.bytes = 0, .lost = end.lost};
  // The source asks when it does not hear.
  stream->SendMessage(FrameType::kMissingEnd, over, After(kTellLimit)).IgnoreError();
}

// What is missing, once over each stream; when all of that is known.
void Target::List() {
  std::shared_ptr<transfer::Stream> stream;
  {
    absl::MutexLock lock(&mutex_);
    if (told_ == nullptr || told_ == listed_) return;
    stream = told_;
  }
  const std::set<std::string> pulled = Pulled();
  for (const std::string& container : pulled) {
    if (!pulls_.at(container)->known() && !pulls_.at(container)->over()) return;
  }
  int64_t bytes = 0;
  absl::Status status;
  for (const std::string& container : pulled) {
    if (pulls_.at(container)->over()) continue;  // nobody needs it
    const memory::PageStore& store = *stores_.at(container);
    for (const pid_t task : store.Tasks()) {
      const memory::Ranges missing = store.Missing(task);
      bytes += static_cast<int64_t>(memory::Bytes(missing));
      for (const std::string& payload :
           transfer::EncodeMissing({.container = container, .container_pid = task, .ranges = missing}))
        status.Update(stream->Send(FrameType::kMissing, {payload}, After(kTellLimit)));
    }
  }
  // With 0 bytes it would say that the source is not needed: that is for the pagers to say.
  if (bytes > 0)
    status.Update(
        stream->SendMessage(FrameType::kMissingEnd, transfer::MissingEnd{.bytes = bytes}, After(kTellLimit)));
  if (!status.ok())
    LOG(WARNING) << Log("the source was not told").With("migration", request_.uid).With(status);
  {
    absl::MutexLock lock(&mutex_);
    listed_ = stream;
  }
  for (const std::string& container : pulled) {
    for (const transfer::TaskRanges& pages : pulls_.at(container)->Wanted()) SendWanted(pages);
  }
}

void Target::SendWanted(const transfer::TaskRanges& pages) {
  std::shared_ptr<transfer::Stream> stream;
  {
    absl::MutexLock lock(&mutex_);
    // Before the pod runs: the restore itself waits for it. Later List asks for what was not asked for yet.
    if (told_ != nullptr && listed_ != told_) return;
    stream = told_ == nullptr ? stream_ : listed_;
  }
  if (stream == nullptr) return;
  stream->Send(FrameType::kWanted, {transfer::EncodeTaskRanges(pages)}, After(kWantLimit)).IgnoreError();
}

absl::Status Target::TakeArriving(const transfer::Frame& frame, transfer::PageReceiver& receiver) {
  const absl::StatusOr<transfer::TaskRanges> arrived = receiver.TakeArriving(frame);
  if (!arrived.ok()) {
    // Nonsense can come anew; what this node cannot keep will not be kept the next time either.
    if (!absl::IsInvalidArgument(arrived.status()) && !absl::IsDataLoss(arrived.status()))
      LosePages(std::string(arrived.status().message()));
    return arrived.status();
  }
  if (!arrived->ranges.empty()) pulls_.at(arrived->container)->Arrived(*arrived);
  return absl::OkStatus();
}

agent_api::PullStatus Target::PullNow() const {
  agent_api::PullStatus status;
  std::set<std::string> pulled;
  {
    absl::MutexLock lock(&mutex_);
    if (pulled_.empty()) return pull_end_;
    pulled = pulled_;
    status = {.pulling = true, .total_bytes = pull_bytes_, .lost = pages_lost_};
  }
  bool known = true;
  for (const std::string& container : pulled) {
    const Pull& pull = *pulls_.at(container);
    known = known && pull.known();
    status.missing_bytes += static_cast<int64_t>(stores_.at(container)->missing_bytes());
    const Pull::Faults faults = pull.faults();
    status.faults += faults.count;
    status.fault_p50 = std::max(status.fault_p50, faults.p50);
    status.fault_p99 = std::max(status.fault_p99, faults.p99);
  }
  if (!known) status.missing_bytes = status.total_bytes;
  return status;
}

}  // namespace godwit::migration
