// SPDX-License-Identifier: Apache-2.0
// Keeps a sink in step with a collection of the API server: list, then watch from the list's version, for
// ever. The loop that k8s/informer.h is made from, without types.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "k8s/api.h"
#include "k8s/cancellation.h"
#include "rapidjson/document.h"

namespace godwit::k8s {

// How an informer looks at its collection, and what it tells about itself.
struct InformerOptions {
  std::string name_space;  // "": all
  std::string label_selector;
  std::string field_selector;
  int64_t page_size = 500;                           // objects; a page of large objects gets fewer
  absl::Duration watch_timeout = absl::Minutes(5);   // each watch: this to twice this, by chance
  absl::Duration backoff = absl::Milliseconds(500);  // first pause after a failure; doubles, with jitter
  absl::Duration max_backoff = absl::Seconds(30);
  // For metrics; from the informer's thread; may be empty. `reason` is "start", "expired" or "broken".
  std::function<void(absl::string_view resource, absl::string_view reason)> on_list;
  std::function<void(absl::string_view resource, const absl::Status& error)> on_error;
};

// Told by Reflector, on its thread.
class ReflectorSink {
 public:
  virtual ~ReflectorSink() = default;
  // The whole collection as the server has it now comes page by page, so that it is never in memory as text:
  // a beginning, objects, and the end, which is missing where the list failed. Then another beginning
  // follows.
  virtual void BeginList() = 0;
  virtual void List(const rapidjson::Value& object) = 0;
  virtual void EndList() = 0;
  virtual void Apply(WatchEventType type, const rapidjson::Value& object) = 0;
};

class Reflector {
 public:
  // `sink` is not owned and outlives the reflector.
  Reflector(Api api, const Resource& resource, InformerOptions options, ReflectorSink* sink);
  ~Reflector() { Stop(); }
  Reflector(const Reflector&) = delete;
  Reflector& operator=(const Reflector&) = delete;

  void Start();
  // Ends the request under way; returns when the thread is gone. Not from the sink.
  void Stop();
  // Why the last list or watch that failed did; OK when none has.
  absl::Status last_error() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run();
  absl::Status Relist(absl::string_view reason);
  absl::StatusOr<std::string> ListPages(bool in_pages);
  absl::Status WatchOnce();
  absl::Duration NextPause();

  const Resource resource_;
  const InformerOptions options_;
  ReflectorSink* const sink_;
  Cancellation cancellation_;
  const Api api_;
  std::string version_;  // where the next watch begins; empty: list first. Only Run's thread.
  int failures_ = 0;     // in a row. Only Run's thread.
  mutable absl::Mutex mutex_;
  absl::Status last_error_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace godwit::k8s
