// SPDX-License-Identifier: Apache-2.0
#include "k8s/testing/fake_api_server.h"

#include <algorithm>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "httplib.h"
#include "k8s/error.h"
#include "k8s/testing/fake_objects.h"
#include "k8s/transport.h"

namespace godwit::k8s::testing {
namespace {

constexpr int kThreads = 64;  // each connection that is kept alive and each watch takes one
constexpr absl::Duration kLook =
    absl::Milliseconds(20);  // how often a silent watch looks whether its client is gone

// "/apis/apps/v1/namespaces/shop/deployments/web/status", taken apart.
struct Target {
  Collection collection;
  std::string plural;
  std::string api_version;
  ObjectName name;  // name empty: the collection
  std::string subresource;
};

std::optional<Target> ParsePath(const std::string& path) {
  std::vector<std::string> parts = absl::StrSplit(path, '/', absl::SkipEmpty());
  size_t at = 0;
  std::string group, version;
  if (parts.size() >= 3 && parts[0] == "api") {
    version = parts[1];
    at = 2;
  } else if (parts.size() >= 4 && parts[0] == "apis") {
    group = parts[1];
    version = parts[2];
    at = 3;
  } else {
    return std::nullopt;
  }
  Target target;
  if (parts[at] == "namespaces" && parts.size() > at + 2) {
    target.name.name_space = parts[at + 1];
    at += 2;
  }
  target.plural = parts[at];
  target.collection = absl::StrCat(group, "/", version, "/", target.plural);
  target.api_version = group.empty() ? version : absl::StrCat(group, "/", version);
  if (parts.size() > at + 1) target.name.name = parts[at + 1];
  if (parts.size() > at + 2) target.subresource = parts[at + 2];
  return target;
}

std::string StatusBody(const Error& error) {
  Unstructured body;
  body.Set("/kind", "Status");
  body.Set("/apiVersion", "v1");
  body.Set("/status", "Failure");
  body.Set("/message", error.message);
  body.Set("/reason", error.reason);
  body.Set("/code", error.http_code);
  return body.ToJson();
}

std::optional<PatchType> PatchTypeOf(const std::string& content_type) {
  if (absl::StartsWith(content_type, "application/merge-patch+json")) return PatchType::kMerge;
  if (absl::StartsWith(content_type, "application/json-patch+json")) return PatchType::kJson;
  if (absl::StartsWith(content_type, "application/strategic-merge-patch+json"))
    return PatchType::kStrategicMerge;
  if (absl::StartsWith(content_type, "application/apply-patch+yaml")) return PatchType::kApply;
  return std::nullopt;
}

std::string EventLine(absl::string_view type, const rapidjson::Value& object) {
  return absl::StrCat("{\"type\":\"", type, "\",\"object\":", json::Write(object), "}\n");
}

// One open watch. Guarded by State's mutex.
struct Watch {
  Collection collection;
  std::string api_version;
  Selection selection;
  int64_t seen = 0;  // history up to here was sent
  bool bookmarks = false;
  bool bookmark_due = false;
  bool compacted = false;
  std::optional<FakeApiServer::Break> broken;
  absl::Time end;
};

}  // namespace

struct FakeApiServer::State {
  httplib::Server http;
  int port = 0;
  std::thread thread;

  mutable absl::Mutex mutex;
  FakeObjects objects ABSL_GUARDED_BY(mutex);
  std::map<std::string, std::vector<Unstructured>> pages
      ABSL_GUARDED_BY(mutex);  // what follows a continue token
  int64_t next_page ABSL_GUARDED_BY(mutex) = 0;
  std::vector<std::shared_ptr<Watch>> watches ABSL_GUARDED_BY(mutex);
  std::vector<SeenRequest> requests ABSL_GUARDED_BY(mutex);
  std::string token ABSL_GUARDED_BY(mutex);
  std::function<std::optional<ForcedAnswer>(const SeenRequest&)> interceptor ABSL_GUARDED_BY(mutex);
  std::map<std::string, std::function<absl::StatusOr<Unstructured>(const Unstructured&)>> creations
      ABSL_GUARDED_BY(mutex);
  bool hold_watches ABSL_GUARDED_BY(mutex) = false;
  bool stopping ABSL_GUARDED_BY(mutex) = false;

  void Route();
  void Serve(const httplib::Request& request, httplib::Response& response);
  bool Forced(const SeenRequest& seen, httplib::Response& response);
  absl::StatusOr<std::string> Answer(const httplib::Request& request, const Target& target,
                                     httplib::Response& response);
  absl::StatusOr<std::string> Write(const httplib::Request& request, const Target& target,
                                    httplib::Response& response);
  absl::StatusOr<std::string> Page(const httplib::Request& request, const Target& target);
  absl::Status StartWatch(const httplib::Request& request, const Target& target, httplib::Response& response);
  bool Continue(const std::shared_ptr<Watch>& watch, httplib::DataSink& sink);
  bool Due(const Watch& watch) const ABSL_SHARED_LOCKS_REQUIRED(mutex);
  std::string Collect(Watch& watch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
};

void FakeApiServer::State::Route() {
  auto serve = [this](const httplib::Request& request, httplib::Response& response) {
    Serve(request, response);
  };
  http.Get("/.*", serve);
  http.Post("/.*", serve);
  http.Put("/.*", serve);
  http.Patch("/.*", serve);
  http.Delete("/.*", serve);
  http.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  http.set_keep_alive_max_count(1'000'000);
  http.set_keep_alive_timeout(300);
  http.set_tcp_nodelay(true);
}

// True when the answer is not the server's own.
bool FakeApiServer::State::Forced(const SeenRequest& seen, httplib::Response& response) {
  std::function<std::optional<ForcedAnswer>(const SeenRequest&)> ask;
  bool refused = false;
  {
    absl::MutexLock lock(&mutex);
    requests.push_back(seen);
    ask = interceptor;
    refused = !token.empty() && seen.authorization != absl::StrCat("Bearer ", token);
  }
  std::optional<ForcedAnswer> forced = ask ? ask(seen) : std::nullopt;
  if (refused && !forced.has_value())
    forced = ForcedAnswer{.code = 401, .reason = "Unauthorized", .message = "Unauthorized"};
  if (!forced.has_value()) return false;
  response.status = forced->code;
  if (!forced->retry_after.empty()) response.set_header("Retry-After", forced->retry_after);
  const std::string body =
      !forced->raw_body.empty()
          ? forced->raw_body
          : StatusBody({.http_code = forced->code, .reason = forced->reason, .message = forced->message});
  response.set_content(body, "application/json");
  return true;
}

void FakeApiServer::State::Serve(const httplib::Request& request, httplib::Response& response) {
  SeenRequest seen{.method = request.method,
                   .path = request.path,
                   .body = request.body,
                   .content_type = request.get_header_value("Content-Type"),
                   .authorization = request.get_header_value("Authorization")};
  for (const auto& [name, value] : request.params) {
    absl::StrAppend(&seen.query, seen.query.empty() ? "" : "&", name, "=", value);
  }
  if (Forced(seen, response)) return;
  const std::optional<Target> target = ParsePath(request.path);
  absl::StatusOr<std::string> body =
      target.has_value() ? Answer(request, *target, response)
                         : Refusal(404, "NotFound", "the server could not find the requested resource");
  if (body.ok()) {
    if (!body->empty()) response.set_content(*body, "application/json");
    return;
  }
  const Error error =
      ErrorOf(body.status())
          .value_or(Error{.http_code = 500, .reason = "InternalError", .message = body.status().ToString()});
  response.status = error.http_code;
  response.set_content(StatusBody(error), "application/json");
}

absl::StatusOr<std::string> FakeApiServer::State::Answer(const httplib::Request& request,
                                                         const Target& target, httplib::Response& response) {
  if (request.method != "GET") return Write(request, target, response);
  if (target.name.name.empty()) {
    if (request.get_param_value("watch") != "true") return Page(request, target);
    GODWIT_RETURN_IF_ERROR(StartWatch(request, target, response));
    return "";
  }
  absl::MutexLock lock(&mutex);
  const Unstructured* found = objects.Get(target.collection, target.name);
  if (found != nullptr) return found->ToJson();
  return Refusal(404, "NotFound", absl::StrCat(target.plural, " \"", target.name.name, "\" not found"));
}

absl::StatusOr<std::string> FakeApiServer::State::Write(const httplib::Request& request, const Target& target,
                                                        httplib::Response& response) {
  if (request.method == "PATCH") {
    const std::optional<PatchType> type = PatchTypeOf(request.get_header_value("Content-Type"));
    if (!type.has_value()) return Refusal(415, "UnsupportedMediaType", "not a patch's content type");
    absl::MutexLock lock(&mutex);
    GODWIT_ASSIGN_OR_RETURN(Unstructured stored, objects.Patch(target.collection, target.name, *type,
                                                               request.body, target.subresource));
    return stored.ToJson();
  }
  absl::StatusOr<Unstructured> body = Unstructured::Parse(request.body);
  if (!body.ok()) return Refusal(400, "BadRequest", body.status().message());
  if (request.method == "DELETE") {
    DeleteOptions options{.uid = body->String("/preconditions/uid"),
                          .resource_version = body->String("/preconditions/resourceVersion")};
    if (const rapidjson::Value* grace = body->Find("/gracePeriodSeconds");
        grace != nullptr && grace->IsInt64()) {
      options.grace_seconds = grace->GetInt64();
    }
    absl::MutexLock lock(&mutex);
    GODWIT_ASSIGN_OR_RETURN(std::optional<Unstructured> left,
                            objects.Delete(target.collection, target.name, options));
    return left.has_value() ? left->ToJson() : R"({"kind":"Status","apiVersion":"v1","status":"Success"})";
  }
  if (!target.name.name_space.empty() && target.subresource.empty())
    body->Set("/metadata/namespace", target.name.name_space);
  std::function<absl::StatusOr<Unstructured>(const Unstructured&)> creation;
  absl::ReleasableMutexLock lock(&mutex);
  if (request.method == "PUT") {
    GODWIT_ASSIGN_OR_RETURN(Unstructured stored, objects.Update(target.collection, target.name,
                                                                *std::move(body), target.subresource));
    return stored.ToJson();
  }
  response.status = 201;
  const std::string key =
      target.subresource.empty() ? target.plural : absl::StrCat(target.plural, "/", target.subresource);
  if (auto found = creations.find(key); found != creations.end()) creation = found->second;
  if (creation) {
    lock.Release();
    GODWIT_ASSIGN_OR_RETURN(Unstructured made, creation(*body));
    return made.ToJson();
  }
  if (!target.subresource.empty())
    return Refusal(404, "NotFound", absl::StrCat("no such subresource: ", key));
  GODWIT_ASSIGN_OR_RETURN(Unstructured stored, objects.Create(target.collection, *std::move(body)));
  return stored.ToJson();
}

absl::StatusOr<std::string> FakeApiServer::State::Page(const httplib::Request& request,
                                                       const Target& target) {
  absl::MutexLock lock(&mutex);
  std::vector<Unstructured> items;
  const std::string token = request.get_param_value("continue");
  int64_t version = objects.version();
  if (token.empty()) {
    items = objects.List(target.collection, {.name_space = target.name.name_space,
                                             .labels = request.get_param_value("labelSelector"),
                                             .fields = request.get_param_value("fieldSelector")});
  } else {
    auto found = pages.find(token);
    if (found == pages.end()) return Refusal(410, "Expired", "The provided continue parameter is too old");
    items = std::move(found->second);
    pages.erase(found);
    CHECK(absl::SimpleAtoi(token.substr(0, token.find('.')), &version));
  }
  size_t limit = items.size();
  int64_t asked = 0;
  if (absl::SimpleAtoi(request.get_param_value("limit"), &asked) && asked > 0)
    limit = std::min<size_t>(limit, asked);
  Unstructured list;
  list.Set("/kind", "List");
  list.Set("/apiVersion", target.api_version);
  list.Set("/metadata/resourceVersion", absl::StrCat(version));
  if (limit < items.size()) {
    const std::string next = absl::StrCat(version, ".", ++next_page);
    pages[next].assign(items.begin() + limit, items.end());
    list.Set("/metadata/continue", next);
  }
  list.SetValue("/items", rapidjson::Value(rapidjson::kArrayType));
  for (size_t i = 0; i < limit; ++i) list.SetValue("/items/-", items[i].value());
  return list.ToJson();
}

absl::Status FakeApiServer::State::StartWatch(const httplib::Request& request, const Target& target,
                                              httplib::Response& response) {
  auto watch = std::make_shared<Watch>();
  watch->collection = target.collection;
  watch->api_version = target.api_version;
  watch->selection = {.name_space = target.name.name_space,
                      .labels = request.get_param_value("labelSelector"),
                      .fields = request.get_param_value("fieldSelector")};
  watch->bookmarks = request.get_param_value("allowWatchBookmarks") == "true";
  int64_t seconds = 0;
  if (!absl::SimpleAtoi(request.get_param_value("timeoutSeconds"), &seconds)) seconds = 300;
  watch->end = absl::Now() + absl::Seconds(seconds);

  absl::MutexLock lock(&mutex);
  auto released = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex) { return !hold_watches || stopping; };
  mutex.Await(absl::Condition(&released));
  const std::string version = request.get_param_value("resourceVersion");
  if (!absl::SimpleAtoi(version, &watch->seen)) {
    return Refusal(400, "BadRequest", absl::StrCat("resourceVersion: Invalid value: \"", version, "\""));
  }
  if (watch->seen < objects.compacted())
    return Refusal(410, "Expired", absl::StrCat("too old resource version: ", version));
  watches.push_back(watch);
  response.set_chunked_content_provider(
      "application/json", [this, watch](size_t, httplib::DataSink& sink) { return Continue(watch, sink); },
      [this, watch](bool) {
        absl::MutexLock lock(&mutex);
        std::erase(watches, watch);
      });
  return absl::OkStatus();
}

bool FakeApiServer::State::Due(const Watch& watch) const {
  return stopping || watch.broken.has_value() || watch.bookmark_due || watch.compacted ||
         (!objects.history().empty() && objects.history().back().version > watch.seen);
}

// The lines to send now.
std::string FakeApiServer::State::Collect(Watch& watch) {
  std::string lines;
  for (const HistoryEntry& entry : objects.history()) {
    if (entry.version <= watch.seen) continue;
    watch.seen = entry.version;
    if (entry.collection != watch.collection) continue;
    if (const std::optional<WatchEventType> type = entry.SeenBy(watch.selection); type.has_value()) {
      absl::StrAppend(&lines, EventLine(WatchEventName(*type), entry.object.value()));
    }
  }
  if (std::exchange(watch.bookmark_due, false) && watch.bookmarks) {
    Unstructured mark;
    mark.Set("/apiVersion", watch.api_version);
    mark.Set("/metadata/resourceVersion", absl::StrCat(objects.version()));
    absl::StrAppend(&lines, EventLine("BOOKMARK", mark.value()));
  }
  if (watch.compacted) {
    const absl::StatusOr<Unstructured> expired = Unstructured::Parse(
        StatusBody({.http_code = 410, .reason = "Expired", .message = "too old resource version"}));
    absl::StrAppend(&lines, EventLine("ERROR", expired->value()));
  }
  return lines;
}

// What httplib calls again and again while the watch is open; false cuts the connection.
bool FakeApiServer::State::Continue(const std::shared_ptr<Watch>& watch, httplib::DataSink& sink) {
  std::string lines;
  bool end = false;
  std::optional<Break> broken;
  {
    absl::MutexLock lock(&mutex);
    auto due = [this, &watch]() ABSL_SHARED_LOCKS_REQUIRED(mutex) { return Due(*watch); };
    mutex.AwaitWithTimeout(absl::Condition(&due), kLook);
    if (stopping) return false;
    lines = Collect(*watch);
    broken = watch->broken;
    end = watch->compacted || broken == Break::kEnd || absl::Now() >= watch->end;
  }
  if (broken == Break::kCut) absl::StrAppend(&lines, "{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"na");
  if (broken == Break::kGarbage) absl::StrAppend(&lines, "<html>bad gateway</html>\n");
  if (lines.empty() && !sink.is_writable()) return false;
  if (!lines.empty() && !sink.write(lines.data(), lines.size())) return false;
  if (broken == Break::kCut) return false;
  if (end || broken == Break::kGarbage) sink.done();
  return true;
}

FakeApiServer::FakeApiServer() : state_(std::make_unique<State>()) {
  state_->Route();
  state_->port = state_->http.bind_to_any_port("127.0.0.1");
  CHECK_GT(state_->port, 0) << "no free port on 127.0.0.1";
  state_->thread = std::thread([state = state_.get()] { state->http.listen_after_bind(); });
  state_->http.wait_until_ready();
}

FakeApiServer::~FakeApiServer() {
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stopping = true;
  }
  state_->http.stop();
  state_->thread.join();
}

std::string FakeApiServer::url() const { return absl::StrCat("http://127.0.0.1:", state_->port); }

Config FakeApiServer::config() const {
  Config config;
  config.server = url();
  config.name_space = "default";
  return config;
}

Api FakeApiServer::api() const {
  absl::StatusOr<std::shared_ptr<Transport>> transport = Transport::Create(config());
  CHECK_OK(transport.status());
  return Api(*transport);
}

Unstructured FakeApiServer::Put(const Resource& resource, Unstructured object) {
  absl::MutexLock lock(&state_->mutex);
  return state_->objects.Put(CollectionOf(resource), std::move(object));
}

std::optional<Unstructured> FakeApiServer::Get(const Resource& resource, const ObjectName& name) const {
  absl::MutexLock lock(&state_->mutex);
  const Unstructured* found = state_->objects.Get(CollectionOf(resource), name);
  return found == nullptr ? std::nullopt : std::optional(*found);
}

bool FakeApiServer::Remove(const Resource& resource, const ObjectName& name) {
  absl::MutexLock lock(&state_->mutex);
  return state_->objects.Remove(CollectionOf(resource), name);
}

std::vector<Unstructured> FakeApiServer::List(const Resource& resource) const {
  absl::MutexLock lock(&state_->mutex);
  return state_->objects.List(CollectionOf(resource), {});
}

void FakeApiServer::SetGraceful(const Resource& resource, bool graceful) {
  absl::MutexLock lock(&state_->mutex);
  state_->objects.SetGraceful(CollectionOf(resource), graceful);
}

void FakeApiServer::RequireToken(const std::string& token) {
  absl::MutexLock lock(&state_->mutex);
  state_->token = token;
}

void FakeApiServer::Intercept(std::function<std::optional<ForcedAnswer>(const SeenRequest&)> interceptor) {
  absl::MutexLock lock(&state_->mutex);
  state_->interceptor = std::move(interceptor);
}

void FakeApiServer::OnCreate(const std::string& resource,
                             std::function<absl::StatusOr<Unstructured>(const Unstructured&)> answer) {
  absl::MutexLock lock(&state_->mutex);
  state_->creations[resource] = std::move(answer);
}

void FakeApiServer::Compact() {
  absl::MutexLock lock(&state_->mutex);
  for (const auto& watch : state_->watches) watch->compacted = true;
  state_->pages.clear();
  state_->objects.Compact();
}

void FakeApiServer::BreakWatches(Break how) {
  absl::MutexLock lock(&state_->mutex);
  for (const auto& watch : state_->watches) watch->broken = how;
}

void FakeApiServer::SendBookmarks() {
  absl::MutexLock lock(&state_->mutex);
  for (const auto& watch : state_->watches) watch->bookmark_due = true;
}

void FakeApiServer::HoldWatches(bool hold) {
  absl::MutexLock lock(&state_->mutex);
  state_->hold_watches = hold;
}

std::vector<SeenRequest> FakeApiServer::requests() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->requests;
}

void FakeApiServer::ForgetRequests() {
  absl::MutexLock lock(&state_->mutex);
  state_->requests.clear();
}

int FakeApiServer::open_watches() const {
  absl::MutexLock lock(&state_->mutex);
  return static_cast<int>(state_->watches.size());
}

bool FakeApiServer::WaitUntil(const std::function<bool()>& condition, absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

}  // namespace godwit::k8s::testing
