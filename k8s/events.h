// SPDX-License-Identifier: Apache-2.0
// Events that a person sees in `kubectl describe`. The same event again only counts up; too many of one
// object are dropped and counted. Recording never blocks and never fails the caller.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "k8s/api.h"
#include "k8s/cancellation.h"
#include "k8s/client.h"
#include "k8s/core.h"

namespace godwit::k8s {

inline constexpr absl::string_view kEventNormal = "Normal";
inline constexpr absl::string_view kEventWarning = "Warning";

// Thread-safe.
class EventRecorder {
 public:
  struct Options {
    std::string component;  // who says it: "godwit-controller" appears in kubectl's From column
    std::string instance;   // e.g. the pod's name
    absl::Duration aggregation_window = absl::Minutes(10);  // the same event after that long is a new one
    int burst = 25;                                         // new events of one object
    absl::Duration refill = absl::Seconds(30);              // one more each
    size_t max_queued = 1000;
    Clock* clock = &Clock::Real();
  };
  EventRecorder(Api api, Options options);
  // Waits up to two seconds for what is queued.
  ~EventRecorder();
  EventRecorder(const EventRecorder&) = delete;
  EventRecorder& operator=(const EventRecorder&) = delete;

  // `reason` is CamelCase and short, `message` a sentence (cut at 1024 bytes, the server's limit). Goes to
  // the object's namespace, for cluster-wide objects to "default".
  void Record(const ObjectReference& object, absl::string_view type, absl::string_view reason,
              absl::string_view message) ABSL_LOCKS_EXCLUDED(mutex_);
  template <class T>
  void Record(const T& object, absl::string_view type, absl::string_view reason, absl::string_view message) {
    Record(ReferenceTo(object), type, reason, message);
  }

  // Until all that was recorded so far is written or given up; false when that takes longer than `limit`.
  bool Flush(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);
  // Events that were not written: too many, or refused by the server.
  int64_t dropped() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Item {
    Event event;
    std::string key;
  };
  struct Series {  // an event that the server has
    std::string name_space;
    std::string name;
    int64_t count = 0;
    absl::Time last;
  };
  struct Budget {
    double tokens = 0;
    absl::Time at;
  };

  void Run();
  void Write(const Item& item);
  absl::Status WriteOnce(const Item& item);
  absl::Status CountUp(const Item& item, Series& series);
  absl::Status Insert(const Item& item);
  bool Spend(const std::string& object, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Drop() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  Cancellation cancellation_;
  const Client<Event> events_;
  mutable absl::Mutex mutex_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Budget> budgets_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, Series> series_;  // only Run's thread
  int64_t inserted_ = 0;                             // only Run's thread
  std::thread thread_;
};

}  // namespace godwit::k8s
