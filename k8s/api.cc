// SPDX-License-Identifier: Apache-2.0
#include "k8s/api.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status.h"
#include "k8s/error.h"

namespace godwit::k8s {
namespace {

constexpr json::Limits kListLimits{.max_bytes = 128u << 20, .max_depth = 64};
constexpr size_t kMaxEventBytes = 16 << 20;                // etcd keeps no object that large
constexpr absl::Duration kWatchGrace = absl::Seconds(30);  // for the server to end a watch by itself

// "?a=b&c=d" of what is not empty, values percent-encoded.
class Query {
 public:
  Query& Add(absl::string_view name, absl::string_view value) {
    if (value.empty()) return *this;
    absl::StrAppend(&text_, text_.empty() ? "?" : "&", name, "=");
    constexpr absl::string_view kHex = "0123456789ABCDEF";
    for (const char c : value) {
      const unsigned char byte = static_cast<unsigned char>(c);
      if (absl::ascii_isalnum(byte) || c == '-' || c == '_' || c == '.' || c == '~') {
        text_.push_back(c);
      } else {
        text_.append({'%', kHex[byte >> 4], kHex[byte & 15]});
      }
    }
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

Query WriteQuery(const WriteOptions& options) {
  Query query;
  query.Add("fieldManager", options.field_manager);
  if (options.dry_run) query.Add("dryRun", "All");
  return query;
}

absl::string_view ContentType(PatchType type) {
  switch (type) {
    case PatchType::kMerge: return "application/merge-patch+json";
    case PatchType::kJson: return "application/json-patch+json";
    case PatchType::kStrategicMerge: return "application/strategic-merge-patch+json";
    case PatchType::kApply: return "application/apply-patch+yaml";  // JSON is YAML
  }
  return "";
}

std::string Describe(absl::string_view verb, const Resource& resource, const ObjectName& name,
                     absl::string_view subresource = "") {
  std::string what = absl::StrCat(verb, " ", resource.plural);
  if (!subresource.empty()) absl::StrAppend(&what, "/", subresource);
  if (!name.name.empty()) return absl::StrCat(what, " ", name.ToString());
  return name.name_space.empty() ? what : absl::StrCat(what, " in ", name.name_space);
}

// Cuts a watch's stream into events.
class EventLines {
 public:
  using Event = absl::FunctionRef<absl::Status(WatchEventType, const rapidjson::Value&)>;
  explicit EventLines(Event event) : event_(event) {}

  absl::Status Feed(absl::string_view piece) {
    for (;;) {
      const size_t end = piece.find('\n');
      if (end == absl::string_view::npos) break;
      if (partial_.empty()) {
        GODWIT_RETURN_IF_ERROR(Line(piece.substr(0, end)));
      } else {
        absl::StrAppend(&partial_, piece.substr(0, end));
        const std::string line = std::exchange(partial_, "");
        GODWIT_RETURN_IF_ERROR(Line(line));
      }
      piece.remove_prefix(end + 1);
    }
    if (partial_.size() + piece.size() > kMaxEventBytes) {
      return absl::DataLossError(absl::StrCat("a watch event of more than ", kMaxEventBytes, " bytes"));
    }
    absl::StrAppend(&partial_, piece);
    return absl::OkStatus();
  }

 private:
  absl::Status Line(absl::string_view line) {
    if (line.empty()) return absl::OkStatus();
    absl::StatusOr<rapidjson::Document> parsed =
        json::Parse(line, {.max_bytes = kMaxEventBytes, .max_depth = 64});
    if (!parsed.ok())
      return absl::DataLossError(absl::StrCat("a watch event is ", parsed.status().message()));
    if (!parsed->IsObject() || !parsed->HasMember("type") || !(*parsed)["type"].IsString() ||
        !parsed->HasMember("object") || !(*parsed)["object"].IsObject()) {
      return absl::DataLossError("a watch event has no type or no object");
    }
    const rapidjson::Value& object = (*parsed)["object"];
    const absl::string_view type((*parsed)["type"].GetString());
    if (type == "ERROR") return StatusFromResponse(500, json::Write(object));
    for (WatchEventType known : {WatchEventType::kAdded, WatchEventType::kModified, WatchEventType::kDeleted,
                                 WatchEventType::kBookmark}) {
      if (WatchEventName(known) == type) return event_(known, object);
    }
    return absl::DataLossError(absl::StrCat("a watch event of unknown type ", type));
  }

  Event event_;
  std::string partial_;
};

std::string DeleteBody(const DeleteOptions& options) {
  Unstructured body;
  body.Set("/kind", "DeleteOptions");
  body.Set("/apiVersion", "v1");
  if (!options.uid.empty()) body.Set("/preconditions/uid", options.uid);
  if (!options.resource_version.empty()) body.Set("/preconditions/resourceVersion", options.resource_version);
  if (options.grace_seconds.has_value()) body.Set("/gracePeriodSeconds", *options.grace_seconds);
  if (!options.propagation.empty()) body.Set("/propagationPolicy", options.propagation);
  return body.ToJson();
}

}  // namespace

absl::string_view WatchEventName(WatchEventType type) {
  switch (type) {
    case WatchEventType::kAdded: return "ADDED";
    case WatchEventType::kModified: return "MODIFIED";
    case WatchEventType::kDeleted: return "DELETED";
    case WatchEventType::kBookmark: return "BOOKMARK";
  }
  return "";
}

Api Api::With(Cancellation* cancellation) const {
  Api copy = *this;
  copy.cancellation_ = cancellation;
  return copy;
}

Api Api::With(absl::Duration timeout) const {
  Api copy = *this;
  copy.timeout_ = timeout;
  return copy;
}

Request Api::Start(absl::string_view method, absl::string_view verb, const Resource& resource,
                   absl::string_view subresource) const {
  Request request;
  request.method = std::string(method);
  request.verb = std::string(verb);
  request.resource =
      subresource.empty() ? std::string(resource.plural) : absl::StrCat(resource.plural, "/", subresource);
  request.timeout = timeout_;
  request.cancellation = cancellation_;
  return request;
}

Api::Answer Api::Send(Request request, absl::string_view what) const {
  absl::StatusOr<std::string> body = transport_->Do(request);
  if (!body.ok()) return Annotate(body.status(), what);
  Answer answer = json::Parse(*body, kListLimits);
  if (!answer.ok())
    return absl::DataLossError(absl::StrCat(what, ": the answer is ", answer.status().message()));
  if (!answer->IsObject()) return absl::DataLossError(absl::StrCat(what, ": the answer is not an object"));
  return answer;
}

Api::Answer Api::Get(const Resource& resource, const ObjectName& name, absl::string_view subresource) const {
  const std::string what = Describe("get", resource, name, subresource);
  if (name.name.empty()) return absl::InvalidArgumentError(absl::StrCat(what, ": no name given"));
  Request request = Start("GET", "get", resource, subresource);
  request.path = ResourcePath(resource, name.name_space, name.name, subresource);
  return Send(std::move(request), what);
}

Api::Answer Api::List(const Resource& resource, absl::string_view name_space,
                      const ListOptions& options) const {
  Request request = Start("GET", "list", resource, "");
  Query query;
  query.Add("labelSelector", options.label_selector).Add("fieldSelector", options.field_selector);
  if (options.limit > 0) query.Add("limit", absl::StrCat(options.limit));
  query.Add("continue", options.continue_token).Add("resourceVersion", options.resource_version);
  query.Add("resourceVersionMatch", options.resource_version_match);
  request.path = absl::StrCat(ResourcePath(resource, name_space), query.text());
  return Send(std::move(request), Describe("list", resource, {std::string(name_space), ""}));
}

Api::Answer Api::Create(const Resource& resource, const ObjectName& name, absl::string_view body,
                        const WriteOptions& options) const {
  const std::string what = Describe("create", resource, name, options.subresource);
  if (options.subresource.empty() != name.name.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": a name goes with a subresource, and only then"));
  }
  Request request = Start("POST", "create", resource, options.subresource);
  request.path = absl::StrCat(ResourcePath(resource, name.name_space, name.name, options.subresource),
                              WriteQuery(options).text());
  request.content_type = "application/json";
  request.body = std::string(body);
  return Send(std::move(request), what);
}

Api::Answer Api::Replace(const Resource& resource, const ObjectName& name, absl::string_view body,
                         const WriteOptions& options) const {
  const std::string what = Describe("update", resource, name, options.subresource);
  if (name.name.empty()) return absl::InvalidArgumentError(absl::StrCat(what, ": no name given"));
  Request request = Start("PUT", "update", resource, options.subresource);
  request.path = absl::StrCat(ResourcePath(resource, name.name_space, name.name, options.subresource),
                              WriteQuery(options).text());
  request.content_type = "application/json";
  request.body = std::string(body);
  return Send(std::move(request), what);
}

Api::Answer Api::Patch(const Resource& resource, const ObjectName& name, PatchType type,
                       absl::string_view body, const WriteOptions& options) const {
  const std::string what =
      Describe(type == PatchType::kApply ? "apply" : "patch", resource, name, options.subresource);
  if (name.name.empty()) return absl::InvalidArgumentError(absl::StrCat(what, ": no name given"));
  if (type == PatchType::kApply && options.field_manager.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": server-side apply needs a field_manager"));
  }
  Request request = Start("PATCH", "patch", resource, options.subresource);
  Query query = WriteQuery(options);
  if (type == PatchType::kApply) query.Add("force", options.force ? "true" : "false");
  request.path =
      absl::StrCat(ResourcePath(resource, name.name_space, name.name, options.subresource), query.text());
  request.content_type = std::string(ContentType(type));
  request.body = std::string(body);
  return Send(std::move(request), what);
}

Api::Answer Api::Delete(const Resource& resource, const ObjectName& name,
                        const DeleteOptions& options) const {
  const std::string what = Describe("delete", resource, name);
  // Without a name the path is the collection's: the server would delete everything in it.
  if (name.name.empty()) return absl::InvalidArgumentError(absl::StrCat(what, ": no name given"));
  Request request = Start("DELETE", "delete", resource, "");
  request.path = ResourcePath(resource, name.name_space, name.name);
  request.content_type = "application/json";
  request.body = DeleteBody(options);
  return Send(std::move(request), what);
}

absl::Status Api::Watch(
    const Resource& resource, absl::string_view name_space, const WatchOptions& options,
    absl::FunctionRef<absl::Status(WatchEventType, const rapidjson::Value&)> event) const {
  Request request = Start("GET", "watch", resource, "");
  Query query;
  query.Add("watch", "true").Add("resourceVersion", options.resource_version);
  query.Add("labelSelector", options.label_selector).Add("fieldSelector", options.field_selector);
  if (options.allow_bookmarks) query.Add("allowWatchBookmarks", "true");
  query.Add("timeoutSeconds", absl::StrCat(std::max<int64_t>(1, absl::ToInt64Seconds(options.timeout))));
  request.path = absl::StrCat(ResourcePath(resource, name_space), query.text());
  request.timeout = options.timeout + kWatchGrace;
  EventLines lines(event);
  const absl::Status status =
      transport_->Stream(request, [&lines](absl::string_view piece) { return lines.Feed(piece); });
  return Annotate(status, Describe("watch", resource, {std::string(name_space), ""}));
}

absl::StatusOr<std::string> Api::GetPath(const std::string& path) const {
  Request request;
  request.path = path;
  request.verb = "get";
  request.resource = "-";
  request.timeout = timeout_;
  request.cancellation = cancellation_;
  return transport_->Do(request);
}

}  // namespace godwit::k8s
