// SPDX-License-Identifier: Apache-2.0
// A local, always fresh copy of a collection: Informer<Pod> lists and watches, answers reads from memory, and
// tells of each change. After a cut it goes on from the last resourceVersion (bookmarks keep that recent);
// when the server no longer has that version (410 Gone), or sends what cannot be read, it lists again and
// tells the difference as ordinary events.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/log.h"
#include "k8s/api.h"
#include "k8s/client.h"
#include "k8s/reflector.h"
#include "k8s/store.h"

namespace godwit::k8s {

// One change. `before` is null for an added object; `object` is the object now, or its last state when it was
// deleted (what was known of it, where the deletion itself was missed during a cut).
template <class T>
struct Change {
  WatchEventType type = WatchEventType::kAdded;  // never kBookmark
  std::shared_ptr<const T> object;
  std::shared_ptr<const T> before;
};

// Reads are thread-safe from the start. Add indexes, cut and listeners, then Start once.
template <class T>
class Informer : private ReflectorSink {
 public:
  using Object = std::shared_ptr<const T>;
  using Listener = std::function<void(const Change<T>&)>;

  explicit Informer(const Client<T>& client, InformerOptions options = {})
      : plural_(client.resource().plural),
        on_error_(options.on_error),
        reflector_(client.api(), client.resource(), std::move(options), this) {}
  ~Informer() override { Stop(); }

  // `keys` gives the keys under which ByIndex finds an object.
  void AddIndex(std::string name, typename Store<T>::IndexKeys keys) {
    store_.AddIndex(std::move(name), std::move(keys));
  }

  // Takes away, before an object is kept, what nobody reads.
  void SetCut(std::function<void(T&)> cut) { cut_ = std::move(cut); }

  // Called on the informer's thread, one change at a time, in the server's order, after the change can be
  // read. Must not block for long and must not call Stop.
  void OnChange(Listener listener) { listeners_.push_back(std::move(listener)); }

  void Start() { reflector_.Start(); }
  // Returns when no listener runs any more. What was read stays readable.
  void Stop() { reflector_.Stop(); }

  // Whether the first list is in, and all listeners have heard of it.
  bool HasSynced() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return synced_;
  }
  // DeadlineExceeded, with the last error, when that takes longer than `limit`.
  absl::Status WaitForSync(absl::Duration limit) const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&synced_), limit)) return absl::OkStatus();
    return absl::DeadlineExceededError(absl::StrCat("no list of ", plural_, " within ",
                                                    absl::FormatDuration(limit),
                                                    ", last error: ", reflector_.last_error().ToString()));
  }

  // Null when there is none.
  Object Get(absl::string_view name_space, absl::string_view name) const {
    return store_.Get({std::string(name_space), std::string(name)});
  }
  Object Get(const ObjectName& name) const { return store_.Get(name); }
  std::vector<Object> List() const { return store_.List(); }
  std::vector<Object> ByIndex(absl::string_view index, absl::string_view key) const {
    return store_.ByIndex(index, key);
  }
  size_t size() const { return store_.size(); }

 private:
  void BeginList() override { listed_.clear(); }
  void List(const rapidjson::Value& object) override;
  void EndList() override;
  void Apply(WatchEventType type, const rapidjson::Value& object) override;
  void Put(Object object);
  void Remove(const ObjectName& name, Object last);
  Object Decode(const rapidjson::Value& object) const;
  void Tell(WatchEventType type, Object object, Object before) const {
    for (const Listener& listener : listeners_) listener({type, object, before});
  }
  static ObjectMeta MetaOf(const T& object) {
    if constexpr (requires { object.metadata; }) {
      return object.metadata;
    } else {
      return object.Meta();
    }
  }

  const std::string plural_;
  const std::function<void(absl::string_view, const absl::Status&)> on_error_;
  Store<T> store_;
  std::function<void(T&)> cut_;
  std::vector<Listener> listeners_;
  absl::flat_hash_set<ObjectName> listed_;  // by the list under way; only the reflector's thread
  mutable absl::Mutex mutex_;
  bool synced_ ABSL_GUARDED_BY(mutex_) = false;
  Reflector reflector_;  // last: its thread uses the others
};

template <class T>
void Informer<T>::List(const rapidjson::Value& value) {
  Object object = Decode(value);
  if (object == nullptr) return;
  listed_.insert(MetaOf(*object).object_name());
  Put(std::move(object));
}

template <class T>
void Informer<T>::EndList() {
  for (const Object& known : store_.List()) {
    const ObjectName name = MetaOf(*known).object_name();
    if (!listed_.contains(name)) Remove(name, known);
  }
  listed_.clear();
  absl::MutexLock lock(&mutex_);
  synced_ = true;
}

template <class T>
void Informer<T>::Apply(WatchEventType type, const rapidjson::Value& value) {
  if (type == WatchEventType::kBookmark) return;
  Object object = Decode(value);
  if (object == nullptr) return;
  if (type == WatchEventType::kDeleted) {
    const ObjectName name = MetaOf(*object).object_name();
    Remove(name, std::move(object));
  } else {
    Put(std::move(object));
  }
}

// An object that comes again unchanged (after a relist) is no change; one of the same name with another uid
// is a new one.
template <class T>
void Informer<T>::Put(Object object) {
  const ObjectMeta meta = MetaOf(*object);
  Object before = store_.Get(meta.object_name());
  if (before != nullptr && MetaOf(*before).uid != meta.uid) {
    Remove(meta.object_name(), before);
    before = nullptr;
  }
  if (before != nullptr && MetaOf(*before).resource_version == meta.resource_version) return;
  store_.Put(meta.object_name(), object);
  Tell(before == nullptr ? WatchEventType::kAdded : WatchEventType::kModified, object, before);
}

template <class T>
void Informer<T>::Remove(const ObjectName& name, Object last) {
  Object before = store_.Remove(name);
  if (before != nullptr) Tell(WatchEventType::kDeleted, std::move(last), before);
}

// One object that does not fit its struct must not hide the others.
template <class T>
typename Informer<T>::Object Informer<T>::Decode(const rapidjson::Value& value) const {
  absl::StatusOr<T> object = json::FromValue<T>(value);
  if (object.ok()) {
    if (cut_) cut_(*object);
    return std::make_shared<const T>(*std::move(object));
  }
  LOG(ERROR) << Log("object left out of the cache").With("resource", plural_).With(object.status());
  if (on_error_) on_error_(plural_, object.status());
  return nullptr;
}

}  // namespace godwit::k8s
