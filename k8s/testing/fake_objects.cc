// SPDX-License-Identifier: Apache-2.0
#include "k8s/testing/fake_objects.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace godwit::k8s::testing {
namespace {

constexpr const char* kServersOwn[] = {"/metadata/uid", "/metadata/creationTimestamp",
                                       "/metadata/deletionTimestamp", "/metadata/deletionGracePeriodSeconds",
                                       "/metadata/generation"};

void CopyOrRemove(const Unstructured& from, const char* pointer, Unstructured& to) {
  if (const rapidjson::Value* value = from.Find(pointer); value != nullptr) {
    to.SetValue(pointer, *value);
  } else {
    to.Remove(pointer);
  }
}

int64_t Integer(const Unstructured& object, const char* pointer, int64_t otherwise) {
  const rapidjson::Value* value = object.Find(pointer);
  return value != nullptr && value->IsInt64() ? value->GetInt64() : otherwise;
}

bool HasFinalizers(const Unstructured& object) { return !object.Meta().finalizers.empty(); }

// The object without what is not its specification.
Unstructured Specification(Unstructured object) {
  object.Remove("/metadata");
  object.Remove("/status");
  return object;
}

absl::Status NotFound(const Collection& collection, const ObjectName& name) {
  return Refusal(
      404, "NotFound",
      absl::StrCat(collection.substr(collection.rfind('/') + 1), " \"", name.name, "\" not found"));
}

absl::Status CheckPreconditions(const Unstructured& current, const std::string& uid,
                                const std::string& version) {
  if (!uid.empty() && uid != current.String("/metadata/uid")) {
    return Refusal(409, "Conflict",
                   absl::StrCat("Precondition failed: UID in precondition: ", uid,
                                ", UID in object meta: ", current.String("/metadata/uid")));
  }
  if (!version.empty() && version != current.String("/metadata/resourceVersion")) {
    return Refusal(
        409, "Conflict",
        "the object has been modified; please apply your changes to the latest version and try again");
  }
  return absl::OkStatus();
}

// RFC 7386.
void MergeInto(rapidjson::Value& target, const rapidjson::Value& patch,
               rapidjson::Document::AllocatorType& allocator) {
  if (!patch.IsObject()) {
    target.CopyFrom(patch, allocator);
    return;
  }
  if (!target.IsObject()) target.SetObject();
  for (const auto& member : patch.GetObject()) {
    if (member.value.IsNull()) {
      target.RemoveMember(member.name);
      continue;
    }
    if (!target.HasMember(member.name)) {
      target.AddMember(rapidjson::Value(member.name, allocator), rapidjson::Value(), allocator);
    }
    MergeInto(target[member.name], member.value, allocator);
  }
}

// One step of RFC 6902; false when it cannot be done.
bool ApplyStep(const Unstructured& step, Unstructured& object) {
  const std::string operation = step.String("/op"), path = step.String("/path");
  const rapidjson::Value* value = step.Find("/value");
  const rapidjson::Value* present = object.Find(path);
  if (operation == "remove") return object.Remove(path);
  if (value == nullptr) return false;
  if (operation == "test") return present != nullptr && *present == *value;
  if (operation == "replace" && present == nullptr) return false;
  const std::string parent = path.substr(0, path.rfind('/'));
  rapidjson::Value* holder = object.Find(parent);
  if (holder == nullptr) return false;
  if (operation == "add" && holder->IsArray() && !absl::EndsWith(path, "/-")) {
    return false;  // an insertion in the middle of a list is more than these tests need
  }
  object.SetValue(path, *value);
  return operation == "add" || operation == "replace";
}

absl::StatusOr<Unstructured> Patched(const Unstructured& current, PatchType type, absl::string_view body) {
  absl::StatusOr<rapidjson::Document> patch = json::Parse(body);
  if (!patch.ok()) return Refusal(400, "BadRequest", patch.status().message());
  Unstructured result = current;
  if (type != PatchType::kJson) {
    if (!patch->IsObject()) return Refusal(400, "BadRequest", "the patch is not an object");
    MergeInto(result.value(), *patch, result.allocator());
    return result;
  }
  if (!patch->IsArray()) return Refusal(400, "BadRequest", "the patch is not a list");
  for (const rapidjson::Value& step : patch->GetArray()) {
    if (!step.IsObject() || !ApplyStep(Unstructured(step), result)) {
      return Refusal(422, "Invalid", absl::StrCat("the server rejected the patch step ", json::Write(step)));
    }
  }
  return result;
}

bool TermMatches(absl::string_view term, const std::map<std::string, std::string>& labels) {
  const std::vector<std::string> words = absl::StrSplit(std::string(term), ' ');
  LabelSelector selector;
  if (words.size() >= 3 && (words[1] == "in" || words[1] == "notin")) {
    absl::string_view list = term.substr(term.find('('));
    list = list.substr(1, list.size() - 2);
    selector.match_expressions.push_back(
        {words[0], words[1] == "in" ? "In" : "NotIn", absl::StrSplit(list, ',')});
  } else if (const size_t differs = term.find("!="); differs != absl::string_view::npos) {
    selector.match_expressions.push_back(
        {std::string(term.substr(0, differs)), "NotIn", {std::string(term.substr(differs + 2))}});
  } else if (const size_t equals = term.find('='); equals != absl::string_view::npos) {
    const absl::string_view value = term.substr(equals);
    selector.match_labels[std::string(term.substr(0, equals))] = std::string(
        value.substr(value.find_first_not_of('=') == absl::string_view::npos ? value.size()
                                                                             : value.find_first_not_of('=')));
  } else if (absl::ConsumePrefix(&term, "!")) {
    selector.match_expressions.push_back({std::string(term), "DoesNotExist", {}});
  } else {
    selector.match_expressions.push_back({std::string(term), "Exists", {}});
  }
  return selector.Matches(labels);
}

// At the commas that are not within parentheses.
std::vector<std::string> Terms(absl::string_view selector) {
  std::vector<std::string> terms(1);
  int depth = 0;
  for (const char c : selector) {
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    if (c == ',' && depth == 0) {
      terms.emplace_back();
    } else {
      terms.back().push_back(c);
    }
  }
  return terms;
}

bool FieldMatches(absl::string_view term, const Unstructured& object) {
  const size_t equals = term.find('=');
  if (equals == absl::string_view::npos || equals == 0) return false;
  const bool negated = term[equals - 1] == '!';
  const absl::string_view path = term.substr(0, negated ? equals - 1 : equals);
  absl::string_view value = term.substr(equals + 1);
  absl::ConsumePrefix(&value, "=");
  const bool same = object.String(absl::StrCat("/", absl::StrReplaceAll(path, {{".", "/"}}))) == value;
  return same != negated;
}

}  // namespace

Collection CollectionOf(const Resource& resource) {
  return absl::StrCat(resource.group, "/", resource.version, "/", resource.plural);
}

absl::Status Refusal(int code, absl::string_view reason, absl::string_view message) {
  return MakeStatus({.http_code = code, .reason = std::string(reason), .message = std::string(message)});
}

bool Selection::Matches(const Unstructured& object) const {
  if (object.value().ObjectEmpty()) return false;
  const ObjectMeta meta = object.Meta();
  if (!name_space.empty() && meta.name_space != name_space) return false;
  for (const std::string& term : Terms(labels)) {
    if (!term.empty() && !TermMatches(term, meta.labels)) return false;
  }
  for (const std::string& term : Terms(fields)) {
    if (!term.empty() && !FieldMatches(term, object)) return false;
  }
  return true;
}

std::optional<WatchEventType> HistoryEntry::SeenBy(const Selection& selection) const {
  const bool matched = selection.Matches(before), matches = selection.Matches(object);
  if (type == WatchEventType::kDeleted) return matched ? std::optional(type) : std::nullopt;
  if (matches) return matched ? WatchEventType::kModified : WatchEventType::kAdded;
  return matched ? std::optional(WatchEventType::kDeleted) : std::nullopt;
}

void FakeObjects::Compact() {
  history_.clear();
  compacted_ = version_;
}

void FakeObjects::SetGraceful(const Collection& collection, bool graceful) {
  if (graceful) {
    graceful_.insert(collection);
  } else {
    graceful_.erase(collection);
  }
}

const Unstructured* FakeObjects::Get(const Collection& collection, const ObjectName& name) const {
  auto objects = objects_.find(collection);
  if (objects == objects_.end()) return nullptr;
  auto found = objects->second.find(name);
  return found == objects->second.end() ? nullptr : &found->second;
}

std::vector<Unstructured> FakeObjects::List(const Collection& collection, const Selection& selection) const {
  std::vector<Unstructured> found;
  auto objects = objects_.find(collection);
  if (objects == objects_.end()) return found;
  for (const auto& [name, object] : objects->second) {
    if (selection.Matches(object)) found.push_back(object);
  }
  return found;
}

std::string FakeObjects::NewUid() { return absl::StrFormat("00000000-0000-4000-8000-%012x", ++uids_); }

// What the server adds to a new object.
void FakeObjects::Complete(Unstructured& object) {
  if (object.String("/metadata/name").empty()) {
    object.Set("/metadata/name", absl::StrFormat("%s%05x", object.String("/metadata/generateName"), ++uids_));
  }
  if (object.String("/metadata/uid").empty()) object.Set("/metadata/uid", NewUid());
  if (object.String("/metadata/creationTimestamp").empty()) {
    object.Set("/metadata/creationTimestamp", WholeSeconds(absl::Now()));
  }
  if (Integer(object, "/metadata/generation", 0) == 0) object.Set("/metadata/generation", int64_t{1});
}

Unstructured FakeObjects::Store(const Collection& collection, Unstructured object) {
  object.Set("/metadata/resourceVersion", absl::StrCat(++version_));
  const ObjectName name = object.Meta().object_name();
  auto [slot, added] = objects_[collection].try_emplace(name);
  HistoryEntry entry{.version = version_,
                     .type = added ? WatchEventType::kAdded : WatchEventType::kModified,
                     .collection = collection};
  if (!added) entry.before = slot->second;
  slot->second = object;
  entry.object = object;
  history_.push_back(std::move(entry));
  return object;
}

void FakeObjects::Erase(const Collection& collection, const ObjectName& name) {
  auto found = objects_[collection].find(name);
  HistoryEntry entry{.version = ++version_,
                     .type = WatchEventType::kDeleted,
                     .collection = collection,
                     .before = found->second,
                     .object = found->second};
  entry.object.Set("/metadata/resourceVersion", absl::StrCat(version_));
  objects_[collection].erase(found);
  history_.push_back(std::move(entry));
}

absl::StatusOr<Unstructured> FakeObjects::Create(const Collection& collection, Unstructured object) {
  const ObjectMeta meta = object.Meta();
  if (meta.name.empty() && meta.generate_name.empty()) {
    return Refusal(422, "Invalid", "metadata.name: Required value: name or generateName is required");
  }
  if (Get(collection, meta.object_name()) != nullptr) {
    return Refusal(
        409, "AlreadyExists",
        absl::StrCat(collection.substr(collection.rfind('/') + 1), " \"", meta.name, "\" already exists"));
  }
  for (const char* pointer : kServersOwn) object.Remove(pointer);
  object.Remove("/status");
  Complete(object);
  return Store(collection, std::move(object));
}

absl::StatusOr<Unstructured> FakeObjects::Update(const Collection& collection, const ObjectName& name,
                                                 Unstructured object, absl::string_view subresource) {
  const Unstructured* found = Get(collection, name);
  if (found == nullptr) return NotFound(collection, name);
  Unstructured current = *found;
  GODWIT_RETURN_IF_ERROR(CheckPreconditions(current, "", object.String("/metadata/resourceVersion")));
  if (const std::string uid = object.String("/metadata/uid");
      !uid.empty() && uid != current.String("/metadata/uid")) {
    return Refusal(422, "Invalid", "metadata.uid: Invalid value: field is immutable");
  }
  Unstructured next;
  if (subresource == "status") {
    next = current;
    CopyOrRemove(object, "/status", next);
  } else {
    next = std::move(object);
    CopyOrRemove(current, "/status", next);
    for (const char* pointer : kServersOwn) CopyOrRemove(current, pointer, next);
  }
  next.Set("/metadata/resourceVersion", current.String("/metadata/resourceVersion"));
  if (next == current) return current;
  if (Specification(next) != Specification(current)) {
    next.Set("/metadata/generation", Integer(current, "/metadata/generation", 0) + 1);
  }
  Unstructured stored = Store(collection, std::move(next));
  if (stored.Meta().terminating() && HasFinalizers(current) && !HasFinalizers(stored))
    Erase(collection, name);
  return stored;
}

absl::StatusOr<Unstructured> FakeObjects::Patch(const Collection& collection, const ObjectName& name,
                                                PatchType type, absl::string_view body,
                                                absl::string_view subresource) {
  const Unstructured* current = Get(collection, name);
  if (current == nullptr && type != PatchType::kApply) return NotFound(collection, name);
  if (current == nullptr) {
    GODWIT_ASSIGN_OR_RETURN(Unstructured applied, Patched(Unstructured(), type, body));
    return Create(collection, std::move(applied));
  }
  GODWIT_ASSIGN_OR_RETURN(Unstructured patched, Patched(*current, type, body));
  return Update(collection, name, std::move(patched), subresource);
}

absl::StatusOr<std::optional<Unstructured>> FakeObjects::Delete(const Collection& collection,
                                                                const ObjectName& name,
                                                                const DeleteOptions& options) {
  const Unstructured* current = Get(collection, name);
  if (current == nullptr) return NotFound(collection, name);
  GODWIT_RETURN_IF_ERROR(CheckPreconditions(*current, options.uid, options.resource_version));
  const int64_t grace =
      options.grace_seconds.value_or(Integer(*current, "/spec/terminationGracePeriodSeconds", 30));
  const bool stays = graceful_.contains(collection) && grace > 0;
  if (!HasFinalizers(*current) && !stays) {
    Erase(collection, name);
    return std::nullopt;
  }
  if (current->Meta().terminating()) return *current;
  Unstructured marked = *current;
  marked.Set("/metadata/deletionTimestamp",
             WholeSeconds(absl::Now() + (stays ? absl::Seconds(grace) : absl::ZeroDuration())));
  marked.Set("/metadata/deletionGracePeriodSeconds", stays ? grace : int64_t{0});
  marked.Set("/metadata/generation", Integer(marked, "/metadata/generation", 0) + 1);
  return Store(collection, std::move(marked));
}

Unstructured FakeObjects::Put(const Collection& collection, Unstructured object) {
  if (const Unstructured* current = Get(collection, object.Meta().object_name()); current != nullptr) {
    for (const char* pointer : {"/metadata/uid", "/metadata/creationTimestamp"}) {
      if (object.String(pointer).empty()) CopyOrRemove(*current, pointer, object);
    }
    const int64_t generation = Integer(*current, "/metadata/generation", 0);
    const bool changed = Specification(object) != Specification(*current);
    if (object.Find("/metadata/generation") == nullptr)
      object.Set("/metadata/generation", generation + (changed ? 1 : 0));
  }
  Complete(object);
  return Store(collection, std::move(object));
}

bool FakeObjects::Remove(const Collection& collection, const ObjectName& name) {
  if (Get(collection, name) == nullptr) return false;
  Erase(collection, name);
  return true;
}

}  // namespace godwit::k8s::testing
