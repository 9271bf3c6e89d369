// SPDX-License-Identifier: Apache-2.0
// A small Kubernetes API server in this process, for tests: it keeps objects of any kind with versions, uids,
// generations, finalizers and deletion timestamps, serves list (paged, with selectors), watch (with history,
// bookmarks and 410), create, replace, the patch kinds, delete with preconditions and the status subresource;
// and it fails on demand. It does not validate objects, has no admission, and takes server-side apply as a
// merge.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "k8s/api.h"
#include "k8s/config.h"
#include "k8s/resource.h"
#include "k8s/unstructured.h"

namespace godwit::k8s::testing {

// A request as it came.
struct SeenRequest {
  std::string method;
  std::string path;   // without the query
  std::string query;  // decoded, "a=b&c=d"
  std::string body;
  std::string content_type;
  std::string authorization;
};

// An answer instead of the server's own.
struct ForcedAnswer {
  int code = 500;
  std::string reason;  // metav1.StatusReason
  std::string message;
  std::string retry_after;  // header; "" is none
  std::string raw_body;     // instead of a Status
};

class FakeApiServer {
 public:
  FakeApiServer();  // listens on a free port of 127.0.0.1
  ~FakeApiServer();
  FakeApiServer(const FakeApiServer&) = delete;
  FakeApiServer& operator=(const FakeApiServer&) = delete;

  std::string url() const;
  Config config() const;
  Api api() const;  // over a transport of its own

  // As another client would. `object` has apiVersion, kind and metadata; Put creates or replaces everything,
  // status included, and answers what is stored now.
  Unstructured Put(const Resource& resource, Unstructured object);
  template <class T>
  Unstructured Put(const T& object) {
    return Put(T::kResource, Unstructured::From(object));
  }
  std::optional<Unstructured> Get(const Resource& resource, const ObjectName& name) const;
  // At once, whatever finalizers there are. False when there was none.
  bool Remove(const Resource& resource, const ObjectName& name);
  std::vector<Unstructured> List(const Resource& resource) const;

  // Objects of this resource stay with a deletionTimestamp when deleted without grace 0, as pods that run do.
  void SetGraceful(const Resource& resource, bool graceful = true);
  // Each request that is not `Bearer <token>` is answered 401. "": anybody.
  void RequireToken(const std::string& token);
  // Called with each request before it is served, from the server's threads; an answer replaces the server's
  // own.
  void Intercept(std::function<std::optional<ForcedAnswer>(const SeenRequest&)> interceptor);
  // Called to make the answer to a create that is not stored: TokenReview, pods/eviction. Keyed by plural or
  // "pods/eviction".
  void OnCreate(const std::string& resource,
                std::function<absl::StatusOr<Unstructured>(const Unstructured&)> answer);

  // Forgets history: watches and continue tokens from before now are answered 410, open ones get an ERROR
  // event.
  void Compact();
  // Ends all open watches: properly, or by cutting the connection in the middle of an event, or after a line
  // of nonsense.
  enum class Break { kEnd, kCut, kGarbage };
  void BreakWatches(Break how);
  // A BOOKMARK with the current version on each open watch that allows them.
  void SendBookmarks();
  // New watches wait with their answers, as a hanging server does, until released.
  void HoldWatches(bool hold);

  std::vector<SeenRequest> requests() const;
  void ForgetRequests();
  int open_watches() const;
  // Looks at `condition` again and again until it holds; false when it does not within `limit`.
  static bool WaitUntil(const std::function<bool()>& condition, absl::Duration limit = absl::Seconds(20));

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace godwit::k8s::testing
