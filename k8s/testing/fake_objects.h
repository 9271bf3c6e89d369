// SPDX-License-Identifier: Apache-2.0
// The storage of FakeApiServer: objects with the API server's rules for versions, uids, generations,
// preconditions, finalizers and deletion, and the history of what happened to them. No HTTP here.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "k8s/api.h"
#include "k8s/error.h"
#include "k8s/resource.h"
#include "k8s/unstructured.h"

namespace godwit::k8s::testing {

// "/v1/pods", "apps/v1/deployments".
using Collection = std::string;
Collection CollectionOf(const Resource& resource);

// What the server refuses, as the status that a client makes of it (MakeStatus).
absl::Status Refusal(int code, absl::string_view reason, absl::string_view message);

// A labelSelector and a fieldSelector, as in a query.
struct Selection {
  std::string name_space;  // "": all
  std::string labels;
  std::string fields;
  bool Matches(const Unstructured& object) const;
};

struct HistoryEntry {
  int64_t version = 0;
  WatchEventType type = WatchEventType::kAdded;
  Collection collection;
  Unstructured before;  // empty for an added object
  Unstructured object;  // with the version of this change

  // The event that a watch of `selection` sees, if any: an object that leaves the selection is deleted to it.
  std::optional<WatchEventType> SeenBy(const Selection& selection) const;
};

// Not thread-safe.
class FakeObjects {
 public:
  int64_t version() const { return version_; }
  int64_t compacted() const { return compacted_; }
  const std::deque<HistoryEntry>& history() const { return history_; }
  void Compact();
  void SetGraceful(const Collection& collection, bool graceful);

  const Unstructured* Get(const Collection& collection, const ObjectName& name) const;
  std::vector<Unstructured> List(const Collection& collection, const Selection& selection) const;

  // As a client's requests; errors are Refusals.
  absl::StatusOr<Unstructured> Create(const Collection& collection, Unstructured object);
  absl::StatusOr<Unstructured> Update(const Collection& collection, const ObjectName& name,
                                      Unstructured object, absl::string_view subresource);
  absl::StatusOr<Unstructured> Patch(const Collection& collection, const ObjectName& name, PatchType type,
                                     absl::string_view body, absl::string_view subresource);
  // The object that stays, or nullopt when it is gone.
  absl::StatusOr<std::optional<Unstructured>> Delete(const Collection& collection, const ObjectName& name,
                                                     const DeleteOptions& options);

  // Past all rules.
  Unstructured Put(const Collection& collection, Unstructured object);
  bool Remove(const Collection& collection, const ObjectName& name);

 private:
  Unstructured Store(const Collection& collection, Unstructured object);
  void Erase(const Collection& collection, const ObjectName& name);
  void Complete(Unstructured& object);
  std::string NewUid();

  int64_t version_ = 1000;
  int64_t compacted_ = 0;
  int64_t uids_ = 0;
  std::map<Collection, std::map<ObjectName, Unstructured>> objects_;
  std::set<Collection> graceful_;
  std::deque<HistoryEntry> history_;
};

}  // namespace godwit::k8s::testing
