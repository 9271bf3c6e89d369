// SPDX-License-Identifier: Apache-2.0
// The verbs of the Kubernetes API on untyped objects; k8s/client.h puts types on top.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "k8s/cancellation.h"
#include "k8s/meta.h"
#include "k8s/resource.h"
#include "k8s/transport.h"
#include "k8s/unstructured.h"
#include "rapidjson/document.h"

namespace godwit::k8s {

struct ListOptions {
  std::string label_selector;
  std::string field_selector;
  int64_t limit = 0;  // objects a page; 0: all in one answer
  std::string continue_token;
  std::string resource_version;        // "": the newest; "0": any, from the server's cache
  std::string resource_version_match;  // "", "Exact", "NotOlderThan"
};

struct WatchOptions {
  std::string label_selector;
  std::string field_selector;
  std::string resource_version;  // events after this one
  bool allow_bookmarks = true;
  absl::Duration timeout = absl::Minutes(5);  // the server ends the watch then
};

enum class WatchEventType { kAdded, kModified, kDeleted, kBookmark };
absl::string_view WatchEventName(WatchEventType type);

struct WriteOptions {
  std::string field_manager;  // "": by user agent
  std::string subresource;    // "", "status", "scale", ...
  bool force = false;         // server-side apply only: take over fields of other managers
  bool dry_run = false;
};

struct DeleteOptions {
  std::string uid;                       // precondition; "": none
  std::string resource_version;          // precondition; "": none
  std::optional<int64_t> grace_seconds;  // nullopt: the object's own
  std::string propagation;               // "", "Background", "Foreground", "Orphan"
};

enum class PatchType { kMerge, kJson, kStrategicMerge, kApply };

// Thread-safe; copies share the transport.
class Api {
 public:
  explicit Api(std::shared_ptr<Transport> transport) : transport_(std::move(transport)) {}

  // A copy whose requests end when `cancellation` (not owned) is cancelled, and by `timeout` each.
  Api With(Cancellation* cancellation) const;
  Api With(absl::Duration timeout) const;

  using Answer = absl::StatusOr<rapidjson::Document>;
  Answer Get(const Resource& resource, const ObjectName& name, absl::string_view subresource = "") const;
  // One page: a List object.
  Answer List(const Resource& resource, absl::string_view name_space, const ListOptions& options) const;
  // `subresource` of `name` ("eviction", "token") when options.subresource is set; then object_name.name must
  // be set.
  Answer Create(const Resource& resource, const ObjectName& name, absl::string_view body,
                const WriteOptions& options) const;
  // PUT: the object's resourceVersion, when it has one, is a precondition.
  Answer Replace(const Resource& resource, const ObjectName& name, absl::string_view body,
                 const WriteOptions& options) const;
  Answer Patch(const Resource& resource, const ObjectName& name, PatchType type, absl::string_view body,
               const WriteOptions& options) const;
  // The object, when it stays for a while (finalizers, grace), or a Status.
  Answer Delete(const Resource& resource, const ObjectName& name, const DeleteOptions& options) const;

  // Each event as it comes, on this thread, until the server ends the watch (OK), it is cancelled
  // (Cancelled), it breaks (Unavailable; a text that is no event is DataLoss), or `event` returns an error. A
  // resourceVersion that is too old is IsGone, whether the server says so by its HTTP code or by an ERROR
  // event.
  absl::Status Watch(const Resource& resource, absl::string_view name_space, const WatchOptions& options,
                     absl::FunctionRef<absl::Status(WatchEventType, const rapidjson::Value&)> event) const;

  // GET of any path ("/version", "/readyz"); the body as it is.
  absl::StatusOr<std::string> GetPath(const std::string& path) const;

  const std::string& default_namespace() const { return transport_->config().name_space; }

 private:
  Answer Send(Request request, absl::string_view what) const;
  Request Start(absl::string_view method, absl::string_view verb, const Resource& resource,
                absl::string_view subresource) const;

  std::shared_ptr<Transport> transport_;
  Cancellation* cancellation_ = nullptr;
  absl::Duration timeout_ = absl::Seconds(30);
};

}  // namespace godwit::k8s
