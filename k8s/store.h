// SPDX-License-Identifier: Apache-2.0
// The objects that an informer knows, by name and by indexes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "k8s/resource.h"

namespace godwit::k8s {

// Thread-safe. Objects are shared and never changed in place: a reader keeps what it got as long as it likes.
template <class T>
class Store {
 public:
  using Object = std::shared_ptr<const T>;
  // The keys under which an object is found: none, one or many.
  using IndexKeys = std::function<std::vector<std::string>(const T&)>;

  // Before the first object is put.
  void AddIndex(std::string name, IndexKeys keys) {
    absl::MutexLock lock(&mutex_);
    indexes_[std::move(name)].keys = std::move(keys);
  }

  // Null when there is none.
  Object Get(const ObjectName& name) const {
    absl::ReaderMutexLock lock(&mutex_);
    auto found = objects_.find(name);
    return found == objects_.end() ? nullptr : found->second;
  }

  // In no order.
  std::vector<Object> List() const {
    absl::ReaderMutexLock lock(&mutex_);
    std::vector<Object> all;
    all.reserve(objects_.size());
    for (const auto& [name, object] : objects_) all.push_back(object);
    return all;
  }

  // Ordered by name. An index that was not added is empty.
  std::vector<Object> ByIndex(absl::string_view index, absl::string_view key) const {
    absl::ReaderMutexLock lock(&mutex_);
    std::vector<Object> found;
    auto at = indexes_.find(index);
    if (at == indexes_.end()) return found;
    auto names = at->second.names.find(key);
    if (names == at->second.names.end()) return found;
    for (const ObjectName& name : names->second) found.push_back(objects_.at(name));
    return found;
  }

  size_t size() const {
    absl::ReaderMutexLock lock(&mutex_);
    return objects_.size();
  }

  // Puts or replaces; what was there before, or null.
  Object Put(const ObjectName& name, Object object) {
    absl::MutexLock lock(&mutex_);
    Object& slot = objects_[name];
    Object before = std::exchange(slot, std::move(object));
    if (before != nullptr) Unindex(name, *before);
    for (auto& [index_name, index] : indexes_) {
      for (std::string& key : index.keys(*slot)) index.names[std::move(key)].insert(name);
    }
    return before;
  }

  // What was there, or null.
  Object Remove(const ObjectName& name) {
    absl::MutexLock lock(&mutex_);
    auto found = objects_.find(name);
    if (found == objects_.end()) return nullptr;
    Object before = std::move(found->second);
    objects_.erase(found);
    Unindex(name, *before);
    return before;
  }

 private:
  struct Index {
    IndexKeys keys;
    absl::flat_hash_map<std::string, std::set<ObjectName>> names;
  };

  void Unindex(const ObjectName& name, const T& object) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (auto& [index_name, index] : indexes_) {
      for (const std::string& key : index.keys(object)) {
        auto names = index.names.find(key);
        if (names == index.names.end()) continue;
        names->second.erase(name);
        if (names->second.empty()) index.names.erase(names);
      }
    }
  }

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<ObjectName, Object> objects_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Index> indexes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::k8s
