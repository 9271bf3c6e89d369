// SPDX-License-Identifier: Apache-2.0
#include "k8s/events.h"

#include <algorithm>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "k8s/error.h"
#include "k8s/unstructured.h"

namespace godwit::k8s {
namespace {

constexpr size_t kMaxMessageBytes = 1024;  // core/v1 Event.message as events.k8s.io validates it
constexpr size_t kForgetAbove = 1024;      // series and budgets that are kept without a look at their age
constexpr int kTries = 4;
constexpr absl::Duration kFirstPause = absl::Milliseconds(250);

// At most `limit` bytes, cut between two characters of UTF-8.
std::string Shortened(absl::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t end = limit - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(text.substr(0, end), "...");
}

std::string ObjectKey(const ObjectReference& object) {
  return absl::StrCat(object.kind, "/", object.name_space, "/", object.name, "/", object.uid);
}

}  // namespace

EventRecorder::EventRecorder(Api api, Options options)
    : options_(std::move(options)), events_(api.With(&cancellation_)), thread_([this] { Run(); }) {}

EventRecorder::~EventRecorder() {
  Flush(absl::Seconds(2));
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  cancellation_.Cancel();
  thread_.join();
}

void EventRecorder::Record(const ObjectReference& object, absl::string_view type, absl::string_view reason,
                           absl::string_view message) {
  const absl::Time now = options_.clock->Now();
  Item item;
  item.event.metadata.name_space = object.name_space.empty() ? "default" : object.name_space;
  item.event.involved_object = object;
  item.event.type = std::string(type);
  item.event.reason = std::string(reason);
  item.event.message = Shortened(message, kMaxMessageBytes);
  item.event.source.component = options_.component;
  item.event.reporting_component = options_.component;
  item.event.reporting_instance = options_.instance;
  item.event.first_timestamp = item.event.last_timestamp = now;
  item.event.count = 1;
  item.key = absl::StrCat(ObjectKey(object), "\n", type, "\n", reason, "\n", item.event.message);

  absl::MutexLock lock(&mutex_);
  if (stopping_) return;
  for (Item& queued : queue_) {
    if (queued.key != item.key) continue;
    ++queued.event.count;
    queued.event.last_timestamp = now;
    return;
  }
  if (queue_.size() >= options_.max_queued || !Spend(ObjectKey(object), now)) {
    ++dropped_;
    return;
  }
  queue_.push_back(std::move(item));
}

bool EventRecorder::Spend(const std::string& object, absl::Time now) {
  if (budgets_.size() > kForgetAbove) {
    absl::erase_if(budgets_, [this, now](const auto& entry) {
      return now - entry.second.at > options_.refill * options_.burst;  // full again: as if it were new
    });
  }
  auto [entry, added] = budgets_.try_emplace(object, Budget{static_cast<double>(options_.burst), now});
  Budget& budget = entry->second;
  const double earned = absl::FDivDuration(now - budget.at, options_.refill);
  budget.tokens = std::min<double>(options_.burst, budget.tokens + std::max(0.0, earned));
  budget.at = now;
  if (budget.tokens < 1) return false;
  budget.tokens -= 1;
  return true;
}

bool EventRecorder::Flush(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return queue_.empty() && !busy_; };
  return mutex_.AwaitWithTimeout(absl::Condition(&idle), limit);
}

int64_t EventRecorder::dropped() const {
  absl::MutexLock lock(&mutex_);
  return dropped_;
}

void EventRecorder::Drop() {
  absl::MutexLock lock(&mutex_);
  ++dropped_;
}

void EventRecorder::Run() {
  for (;;) {
    Item item;
    {
      absl::MutexLock lock(&mutex_);
      busy_ = false;
      auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !queue_.empty(); };
      mutex_.Await(absl::Condition(&work));
      if (stopping_) return;
      item = std::move(queue_.front());
      queue_.pop_front();
      busy_ = true;
    }
    Write(item);
  }
}

void EventRecorder::Write(const Item& item) {
  absl::Duration pause = kFirstPause;
  for (int tries = 1;; ++tries, pause *= 2) {
    const absl::Status status = WriteOnce(item);
    if (status.ok()) return;
    if (IsTransient(status) && tries < kTries && !cancellation_.WaitFor(pause)) continue;
    LOG(WARNING) << Log("event not written")
                        .With("reason", item.event.reason)
                        .With("object", item.event.involved_object.name)
                        .With(status);
    return Drop();
  }
}

absl::Status EventRecorder::WriteOnce(const Item& item) {
  auto known = series_.find(item.key);
  if (known != series_.end() &&
      *item.event.last_timestamp - known->second.last <= options_.aggregation_window) {
    const absl::Status status = CountUp(item, known->second);
    if (!k8s::IsNotFound(status)) return status;  // the server keeps events for an hour only
  }
  return Insert(item);
}

absl::Status EventRecorder::CountUp(const Item& item, Series& series) {
  Unstructured patch;
  patch.Set("/count", series.count + item.event.count);
  patch.Set("/lastTimestamp", WholeSeconds(*item.event.last_timestamp));
  absl::StatusOr<Event> written = events_.MergePatch(series.name_space, series.name, patch);
  if (!written.ok()) return written.status();
  series.count += item.event.count;
  series.last = *item.event.last_timestamp;
  return absl::OkStatus();
}

absl::Status EventRecorder::Insert(const Item& item) {
  Event event = item.event;
  event.metadata.name = absl::StrFormat("%s.%x", event.involved_object.name.substr(0, 200),
                                        absl::ToUnixNanos(options_.clock->Now()) + ++inserted_);
  event.first_timestamp = WholeSeconds(*event.first_timestamp);
  event.last_timestamp = WholeSeconds(*event.last_timestamp);
  absl::StatusOr<Event> written = events_.Create(event);
  if (!written.ok()) return written.status();
  if (series_.size() > kForgetAbove) {
    absl::erase_if(series_, [this, &item](const auto& entry) {
      return *item.event.last_timestamp - entry.second.last > options_.aggregation_window;
    });
  }
  series_[item.key] = {event.metadata.name_space, event.metadata.name, event.count,
                       *item.event.last_timestamp};
  return absl::OkStatus();
}

}  // namespace godwit::k8s
