// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/pull_link.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/pager/agent_pages.h"

namespace godwit::pager {
namespace {

using agent_api::AgentWord;
using agent_api::PagerWord;
using agent_api::PageSpan;

constexpr absl::Duration kWriteLimit = absl::Seconds(5);
constexpr absl::Duration kRetryPause = absl::Milliseconds(300);
// For an agent that is not there. Its own limit, for a source that is not, is not shorter.
constexpr absl::Duration kAgentLimit = absl::Minutes(10);
// For one that is there and knows nothing of the container.
constexpr absl::Duration kRefusedLimit = absl::Seconds(30);
constexpr int kLookMs = 1000;

absl::Duration Now() { return Clock::Real().Monotonic(); }

}  // namespace

PullLink::PullLink(const agent_api::PagerSpec& spec, Pager& pager) : spec_(spec), pager_(pager) {}

PullLink::~PullLink() {
  ending_ = true;
  Wake();
  if (thread_.joinable()) thread_.join();
}

absl::Status PullLink::Start(std::optional<LineChannel> channel) {
  wake_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  failed_event_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.ok() || !failed_event_.ok()) return ErrnoStatus("cannot wait for missing pages");
  thread_ = std::thread([this, moved = std::move(channel)]() mutable { Run(std::move(moved)); });
  return absl::OkStatus();
}

void PullLink::Killed(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  killed_ = why;
}

void PullLink::Wake() {
  if (wake_.ok()) eventfd_write(wake_.get(), 1);
}

absl::Status PullLink::failure() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

void PullLink::Fail(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return;
  failure_ = why;
  eventfd_write(failed_event_.get(), 1);
}

void PullLink::Pause(absl::Duration duration) {
  pollfd wake = {wake_.get(), POLLIN, 0};
  if (!ending_) poll(&wake, 1, static_cast<int>(absl::ToInt64Milliseconds(duration)));
  if (!ending_ && (wake.revents & POLLIN) != 0) Clock::Real().SleepFor(duration);  // more to ask for: later
}

void PullLink::Run(std::optional<LineChannel> channel) {
  absl::Duration lost_since = Now();
  absl::Duration refused_since = absl::InfiniteDuration();
  while (true) {
    if (channel.has_value()) {
      const absl::Status end = Exchange(*channel);
      if (end.ok()) return;
      LOG(WARNING) << Log("lost the agent that pulls pages").With("migration", spec_.migration_uid).With(end);
      channel.reset();
      lost_since = Now();
      refused_since = absl::InfiniteDuration();
    }
    if (ending_ || !failure().ok()) return;
    absl::StatusOr<LineChannel> fresh = Connect();
    if (fresh.ok()) {
      channel.emplace(*std::move(fresh));
      continue;
    }
    refused_since = absl::IsFailedPrecondition(fresh.status()) ? std::min(refused_since, Now())
                                                               : absl::InfiniteDuration();
    if (Now() - lost_since > kAgentLimit || Now() - refused_since > kRefusedLimit)
      Fail(Annotate(fresh.status(), "missing pages cannot be pulled"));
    Pause(kRetryPause);
  }
}

// With an agent that knows what is missing by now, or knows it again.
absl::StatusOr<LineChannel> PullLink::Connect() {
  GODWIT_ASSIGN_OR_RETURN(AgentPages pages, AskForPages(spec_, /*resume=*/true));
  if (!pages.pull.has_value())
    return absl::FailedPreconditionError("the agent pulls no pages of this container");
  if (pages.give) GODWIT_RETURN_IF_ERROR(GivePages(*pages.pull, pager_.GivenStores()));
  for (const TaskStore& task : pages.stores) {
    if (task.map.ok()) GODWIT_RETURN_IF_ERROR(pager_.Narrow(task.pid, task.map.get()));
  }
  GODWIT_RETURN_IF_ERROR(Ask(*pages.pull, /*again=*/true));
  return *std::move(pages.pull);
}

// Until the connection ends; OK when this has no more to say.
absl::Status PullLink::Exchange(LineChannel& channel) {
  while (true) {
    const bool ended = ending_;
    if (ended || !pager_.missing()) return Say(channel, ended);
    pollfd events[] = {{channel.fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    poll(events, 2, kLookMs);
    eventfd_t woken = 0;
    eventfd_read(wake_.get(), &woken);
    GODWIT_RETURN_IF_ERROR(Ask(channel, /*again=*/false));
    if (events[0].revents != 0) GODWIT_RETURN_IF_ERROR(Hear(channel));
  }
}

// All that has come by now.
absl::Status PullLink::Hear(LineChannel& channel) {
  while (true) {
    const absl::StatusOr<std::string> line = channel.ReadLine(absl::ZeroDuration());
    if (absl::IsDeadlineExceeded(line.status())) return absl::OkStatus();
    GODWIT_RETURN_IF_ERROR(line.status());
    GODWIT_ASSIGN_OR_RETURN(const AgentWord word, json::Decode<AgentWord>(*line));
    for (const PageSpan& span : word.arrived) {
      const absl::Status arrived = pager_.Arrived(
          {.pid = static_cast<pid_t>(span.task), .offsets = {span.start, span.start + span.bytes}});
      if (absl::IsInvalidArgument(arrived)) return arrived;
      if (!arrived.ok()) Fail(arrived);
    }
    if (!word.lost.empty())
      Fail(absl::DataLossError(absl::StrCat("a part of its memory was never received: ", word.lost)));
  }
}

absl::Status PullLink::Ask(LineChannel& channel, bool again) {
  while (true) {
    const std::vector<StorePages> wanted = pager_.TakeWanted(agent_api::kMaxSpans, again);
    again = false;
    if (wanted.empty()) return absl::OkStatus();
    PagerWord word;
    for (const StorePages& pages : wanted)
      word.wanted.push_back(
          {.task = pages.pid, .start = pages.offsets.start, .bytes = pages.offsets.bytes()});
    GODWIT_ASSIGN_OR_RETURN(const Progress progress, pager_.GetProgress());
    word.faults = progress.pulled_faults;
    word.fault_p50 = progress.pulled_p50;
    word.fault_p99 = progress.pulled_p99;
    GODWIT_RETURN_IF_ERROR(channel.WriteLine(json::Encode(word), kWriteLimit));
  }
}

// The last word.
absl::Status PullLink::Say(LineChannel& channel, bool ended) {
  GODWIT_ASSIGN_OR_RETURN(const Progress progress, pager_.GetProgress());
  PagerWord word = {.faults = progress.pulled_faults,
                    .fault_p50 = progress.pulled_p50,
                    .fault_p99 = progress.pulled_p99,
                    .complete = !pager_.missing(),
                    .ended = ended};
  {
    absl::MutexLock lock(&mutex_);
    word.failed = std::string(killed_.message());
  }
  return channel.WriteLine(json::Encode(word), kWriteLimit);
}

}  // namespace godwit::pager
