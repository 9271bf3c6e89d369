// SPDX-License-Identifier: Apache-2.0
// Objects of one kind, typed: Client<Pod>(api).Get("shop", "cache-0"). T has metadata, `static constexpr
// Resource kResource` and Fields (base/json.h); Client<Unstructured> takes its Resource as an argument. All
// errors of the server carry k8s::Error (k8s/error.h). Cluster-wide kinds take "" as namespace.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "base/status.h"
#include "k8s/api.h"
#include "k8s/error.h"
#include "k8s/meta.h"
#include "k8s/unstructured.h"

namespace godwit::k8s {

template <class T>
struct ListOf {
  ListMeta metadata;
  std::vector<T> items;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("metadata", self.metadata);
    field("items", self.items);
  }
};

// Thread-safe; cheap to copy.
template <class T>
class Client {
 public:
  explicit Client(Api api)
    requires requires { T::kResource; }
      : Client(std::move(api), T::kResource) {}
  Client(Api api, const Resource& resource) : api_(std::move(api)), resource_(resource) {}

  absl::StatusOr<T> Get(absl::string_view name_space, absl::string_view name) const {
    return Typed(api_.Get(resource_, Named(name_space, name)));
  }

  // One page.
  absl::StatusOr<ListOf<T>> List(absl::string_view name_space, const ListOptions& options = {}) const {
    GODWIT_ASSIGN_OR_RETURN(rapidjson::Document page, api_.List(resource_, name_space, options));
    return json::FromValue<ListOf<T>>(page);
  }

  // Page after page (500 objects each unless options say otherwise). When the list changes so much meanwhile
  // that the server gives up on the continue token, it starts once again without pages.
  absl::StatusOr<ListOf<T>> ListAll(absl::string_view name_space, ListOptions options = {}) const;

  // The object's own namespace and name; with generate_name the server chooses the name.
  absl::StatusOr<T> Create(const T& object, const WriteOptions& options = {}) const {
    const ObjectMeta meta = MetaOf(object);
    return Typed(api_.Create(resource_, {meta.name_space, options.subresource.empty() ? "" : meta.name},
                             Body(object), options));
  }

  // RFC 7386. A "metadata.resourceVersion" in the patch is a precondition: IsConflict when the object has
  // changed since. A "metadata.uid" that is not the object's is IsInvalid.
  absl::StatusOr<T> MergePatch(absl::string_view name_space, absl::string_view name,
                               const Unstructured& patch, const WriteOptions& options = {}) const {
    return Typed(api_.Patch(resource_, Named(name_space, name), PatchType::kMerge, patch.ToJson(), options));
  }

  // RFC 6902.
  absl::StatusOr<T> Patch(absl::string_view name_space, absl::string_view name, const JsonPatch& patch,
                          const WriteOptions& options = {}) const {
    return Typed(api_.Patch(resource_, Named(name_space, name), PatchType::kJson, patch.ToJson(), options));
  }

  // Server-side apply: creates the object or makes these fields ours; options.field_manager is required.
  absl::StatusOr<T> Apply(const T& object, const WriteOptions& options) const {
    const ObjectMeta meta = MetaOf(object);
    return Typed(
        api_.Patch(resource_, {meta.name_space, meta.name}, PatchType::kApply, Body(object), options));
  }

  // Writes what differs between `before`, as it was read, and `after`, and nothing else: fields that T does
  // not know stay. Refused (IsConflict) when the object has changed since `before` or is another one of that
  // name. No request is made when nothing differs; the answer is then `after`.
  absl::StatusOr<T> PatchChanges(const T& before, const T& after, const WriteOptions& options = {}) const;

  // The same for the status subresource: only `status` is looked at.
  absl::StatusOr<T> PatchStatus(const T& before, const T& after, WriteOptions options = {}) const {
    options.subresource = "status";
    return PatchChanges(before, after, options);
  }

  // OK when the server took it: an object with finalizers or a grace period still exists then.
  absl::Status Delete(absl::string_view name_space, absl::string_view name,
                      const DeleteOptions& options = {}) const {
    return api_.Delete(resource_, Named(name_space, name), options).status();
  }

  const Resource& resource() const { return resource_; }
  const Api& api() const { return api_; }

 private:
  static ObjectName Named(absl::string_view name_space, absl::string_view name) {
    return {std::string(name_space), std::string(name)};
  }
  static ObjectMeta MetaOf(const T& object) {
    if constexpr (requires { object.metadata; }) {
      return object.metadata;
    } else {
      return object.Meta();
    }
  }
  std::string Body(const T& object) const {
    Unstructured body(json::ToDocument(object));
    body.Set("/apiVersion", resource_.ApiVersion());
    body.Set("/kind", std::string(resource_.kind));
    return body.ToJson();
  }
  absl::StatusOr<T> Typed(const Api::Answer& answer) const {
    if (!answer.ok()) return answer.status();
    return json::FromValue<T>(*answer);
  }

  Api api_;
  Resource resource_;
};

// The patch that PatchChanges sends: the difference, narrowed to `status` or to everything but it, with uid
// and resourceVersion of `before` as preconditions; empty when nothing differs.
Unstructured ChangesPatch(const Unstructured& before, const Unstructured& after, bool status);

template <class T>
absl::StatusOr<ListOf<T>> Client<T>::ListAll(absl::string_view name_space, ListOptions options) const {
  if (options.limit == 0) options.limit = 500;
  ListOf<T> all;
  bool paged = true;
  for (;;) {
    absl::StatusOr<ListOf<T>> page = List(name_space, options);
    if (!page.ok() && IsGone(page.status()) && paged && !options.continue_token.empty()) {
      paged = false;
      all.items.clear();
      options.continue_token.clear();
      options.limit = 0;
      continue;
    }
    if (!page.ok()) return page.status();
    for (T& item : page->items) all.items.push_back(std::move(item));
    all.metadata.resource_version = page->metadata.resource_version;
    options.continue_token = page->metadata.continue_token;
    if (options.continue_token.empty()) return all;
    options.resource_version.clear();  // refused together with a continue token
    options.resource_version_match.clear();
  }
}

template <class T>
absl::StatusOr<T> Client<T>::PatchChanges(const T& before, const T& after,
                                          const WriteOptions& options) const {
  const Unstructured patch =
      ChangesPatch(Unstructured(json::ToDocument(before)), Unstructured(json::ToDocument(after)),
                   options.subresource == "status");
  if (patch.value().ObjectEmpty()) return after;
  const ObjectMeta meta = MetaOf(before);
  return MergePatch(meta.name_space, meta.name, patch, options);
}

}  // namespace godwit::k8s
