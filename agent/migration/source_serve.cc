// SPDX-License-Identifier: Apache-2.0
// What the source does after the decision in a post-copy: it stands frozen and serves the pages that the
// target lacks, until the target says that none is missing. Which those are only the target says, and anew
// over each stream: nothing of it is lost with a connection, or with this agent.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/migration/source.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using transfer::FrameType;

constexpr absl::Duration kLook = absl::Seconds(1);
constexpr absl::Duration kRetryPause = absl::Milliseconds(200);
constexpr absl::Duration kTellLimit = absl::Seconds(5);
// Of a batch of pages; a dead peer is noticed by TCP long before.
constexpr absl::Duration kSendLimit = absl::Minutes(5);
// Frames of the target's that were not dealt with yet.
constexpr size_t kMostListed = 256;
constexpr size_t kMostWanted = 4096;

}  // namespace

SourceEvent Source::ServePages() {
  std::shared_ptr<transfer::Stream> stream;
  {
    absl::MutexLock lock(&mutex_);
    serves_ = serves_ && !abandon_;
    if (!serves_) return SourceEvent::kDone;
    stream = stream_;
    bucket_.SetLimit(limits_.bandwidth_limit);
  }
  stream->DropSides();
  stream->KeepQueueShort();  // a page that somebody waits for goes next
  PageService service(Containers(), node_.memory, &bucket_);
  service.SetStream(stream.get());
  const absl::Time begin = SteadyNow();
  std::optional<SourceEvent> end;
  for (bool all = false; !end.has_value();) {
    const absl::Status sent = SendSome(service, &all);
    if (absl::IsDataLoss(sent)) {
      all = true;
      TellPagesLost(*stream, sent);
    } else if (!sent.ok()) {
      LOG(WARNING) << Log("cannot serve pages").With("migration", spec_.migration.uid).With(sent);
      stream->Shutdown();
      if (Pause(kRetryPause)) return SourceEvent::kUnknown;
    }
    end = LookAround(/*idle=*/all || !sent.ok());
  }
  if (node_.sent) {
    node_.sent({.page_bytes = service.totals().sent,
                .wire_bytes = service.totals().wire,
                .took = SteadyNow() - begin});
  }
  return *end;
}

std::vector<PreCopy::Container> Source::Containers() const {
  std::vector<PreCopy::Container> containers;
  if (!guard_spec_.has_value()) return containers;
  for (const agent_api::GuardContainer& one : guard_spec_->containers)
    containers.push_back({one.name, node_.cgroup_here(one.cgroup)});
  return containers;
}

// Before the decision: a few pages that the restore itself cannot do without. CRIU puts right what a task has
// told the kernel of its threads (rseq), and the kernel writes there. `service` is made when it is needed.
absl::Status Source::ServeWanted(std::optional<PageService>& service) {
  std::deque<transfer::TaskRanges> wanted;
  {
    absl::MutexLock lock(&mutex_);
    wanted.swap(heard_.wanted);
  }
  if (!wanted.empty() && !service.has_value()) {
    service.emplace(Containers(), node_.memory, &bucket_);
    service->SetStream(stream_.get());
  }
  for (const transfer::TaskRanges& pages : wanted)
    GODWIT_RETURN_IF_ERROR(service->SendUnlisted(pages, FreezeDeadline()));
  return absl::OkStatus();
}

// Takes what the target has said, and sends a little.
absl::Status Source::SendSome(PageService& service, bool* all) {
  std::deque<transfer::TaskRanges> missing;
  std::deque<transfer::TaskRanges> wanted;
  bool listed = false;
  {
    absl::MutexLock lock(&mutex_);
    missing.swap(heard_.missing);
    wanted.swap(heard_.wanted);
    listed = heard_.listed;
  }
  const absl::Time deadline = SteadyNow() + kSendLimit;
  for (const transfer::TaskRanges& pages : missing) GODWIT_RETURN_IF_ERROR(service.Add(pages));
  for (const transfer::TaskRanges& pages : wanted)
    GODWIT_RETURN_IF_ERROR(service.SendWanted(pages, deadline));
  *all = false;
  // What was sent last has to be within the limit first; LookAround waits for that.
  if (bucket_.UntilPaid() <= absl::ZeroDuration()) {
    GODWIT_ASSIGN_OR_RETURN(const bool some, service.SendNext(deadline));
    *all = !some;
  }
  if (!listed) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  status_.pulled_bytes = status_.pull_bytes - service.left_bytes();
  return absl::OkStatus();
}

// The processes, and with them the only copy of these pages, are gone. The target ends its own copy.
void Source::TellPagesLost(transfer::Stream& stream, const absl::Status& why) {
  LOG(ERROR) << Log("pages that the target lacks are lost").With("migration", spec_.migration.uid).With(why);
  const transfer::Reason reason{"PagesLost", std::string(why.message())};
  stream.SendMessage(FrameType::kPagesLost, reason, SteadyNow() + kTellLimit).IgnoreError();
}

// What ends the serving, or nothing. `idle`: there is nothing to be done before the target says more. Else
// there is nothing before the next pages are within the bandwidth limit, but for those that somebody waits
// for.
std::optional<SourceEvent> Source::LookAround(bool idle) {
  const absl::Duration pause = idle ? kLook : std::min(kLook, bucket_.UntilPaid());
  absl::MutexLock lock(&mutex_);
  auto word = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || abandon_ || heard_.over.has_value() || !heard_.lost.ok() || !heard_.missing.empty() ||
           !heard_.wanted.empty();
  };
  if (pause > absl::ZeroDuration()) mutex_.AwaitWithTimeout(absl::Condition(&word), pause);
  if (heard_.over.has_value() && heard_.over->lost.empty()) status_.pulled_bytes = status_.pull_bytes;
  if (heard_.over.has_value() || abandon_) {
    serves_ = false;
    return SourceEvent::kDone;
  }
  if (stop_ || !heard_.lost.ok()) return SourceEvent::kUnknown;
  return std::nullopt;
}

// In the listener's thread. A list that is not understood would leave pages out: the target lists anew.
absl::Status Source::HearMissing(const transfer::Frame& frame) {
  switch (frame.type) {
    case FrameType::kMissing: {
      // As many as the target has tasks, and more: it waits while these are dealt with.
      auto room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return heard_.missing.size() < kMostListed || stop_ || stream_->down();
      };
      mutex_.Await(absl::Condition(&room));
      GODWIT_ASSIGN_OR_RETURN(transfer::TaskRanges pages, transfer::DecodeTaskRanges(frame.payload));
      heard_.missing.push_back(std::move(pages));
      return absl::OkStatus();
    }
    case FrameType::kWanted: {
      GODWIT_ASSIGN_OR_RETURN(transfer::TaskRanges pages, transfer::DecodeTaskRanges(frame.payload));
      if (heard_.wanted.size() < kMostWanted) heard_.wanted.push_back(std::move(pages));
      return absl::OkStatus();
    }
    default: break;
  }
  GODWIT_ASSIGN_OR_RETURN(const auto end, transfer::DecodeMessage<transfer::MissingEnd>(frame));
  if (end.bytes == 0) {
    heard_.over = end;
  } else {
    heard_.listed = true;
    if (status_.pull_bytes == 0) status_.pull_bytes = end.bytes;  // sent by an agent that ended since
  }
  return absl::OkStatus();
}

}  // namespace godwit::migration
