// SPDX-License-Identifier: Apache-2.0
#include "k8s/meta.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace godwit::k8s {
namespace {

std::string ValueOr(const std::map<std::string, std::string>& map, const std::string& key) {
  auto found = map.find(key);
  return found == map.end() ? "" : found->second;
}

bool Satisfies(const LabelSelectorRequirement& requirement,
               const std::map<std::string, std::string>& labels) {
  auto label = labels.find(requirement.key);
  const bool present = label != labels.end();
  const auto& values = requirement.values;
  const bool listed = present && std::find(values.begin(), values.end(), label->second) != values.end();
  if (requirement.op == "In") return listed;
  if (requirement.op == "NotIn") return !listed;
  if (requirement.op == "Exists") return present;
  if (requirement.op == "DoesNotExist") return !present;
  return false;
}

std::string Expression(const LabelSelectorRequirement& requirement) {
  const std::string values = absl::StrCat("(", absl::StrJoin(requirement.values, ","), ")");
  if (requirement.op == "In") return absl::StrCat(requirement.key, " in ", values);
  if (requirement.op == "NotIn") return absl::StrCat(requirement.key, " notin ", values);
  if (requirement.op == "DoesNotExist") return absl::StrCat("!", requirement.key);
  return requirement.key;
}

absl::string_view TextOf(const rapidjson::Value& value) {
  return {value.GetString(), value.GetStringLength()};
}

}  // namespace

absl::Status ReadScalar(const rapidjson::Value& in, absl::string_view path, MicroTime& out) {
  return json::internal::ReadScalar(in, path, out.time);
}

rapidjson::Value WriteScalar(const MicroTime& in, rapidjson::Document::AllocatorType& allocator) {
  return json::internal::WriteScalar(absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", in.time, absl::UTCTimeZone()),
                                     allocator);
}

absl::Time WholeSeconds(absl::Time time) { return absl::FromUnixSeconds(absl::ToUnixSeconds(time)); }

absl::Status ReadScalar(const rapidjson::Value& in, absl::string_view path, Bytes& out) {
  if (!in.IsString()) return json::internal::WrongType(path, "a string", in);
  if (!absl::Base64Unescape(TextOf(in), &out.bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not base64"));
  }
  return absl::OkStatus();
}

rapidjson::Value WriteScalar(const Bytes& in, rapidjson::Document::AllocatorType& allocator) {
  return json::internal::WriteScalar(absl::Base64Escape(in.bytes), allocator);
}

bool ObjectMeta::HasFinalizer(absl::string_view finalizer) const {
  return std::find(finalizers.begin(), finalizers.end(), finalizer) != finalizers.end();
}

std::string ObjectMeta::Label(const std::string& key) const { return ValueOr(labels, key); }
std::string ObjectMeta::Annotation(const std::string& key) const { return ValueOr(annotations, key); }

const OwnerReference* ObjectMeta::Controller() const {
  for (const OwnerReference& owner : owner_references) {
    if (owner.controller) return &owner;
  }
  return nullptr;
}

const Condition* FindCondition(const std::vector<Condition>& conditions, absl::string_view type) {
  for (const Condition& condition : conditions) {
    if (condition.type == type) return &condition;
  }
  return nullptr;
}

bool IsConditionTrue(const std::vector<Condition>& conditions, absl::string_view type) {
  const Condition* found = FindCondition(conditions, type);
  return found != nullptr && found->status == "True";
}

bool SetCondition(std::vector<Condition>& conditions, Condition condition, absl::Time now) {
  if (condition.message.size() > kMaxConditionMessage) {
    size_t end = kMaxConditionMessage - 3;
    while (end > 0 && (condition.message[end] & 0xc0) == 0x80) --end;  // in the middle of a character
    condition.message = condition.message.substr(0, end) + "...";
  }
  condition.last_transition_time = WholeSeconds(now);
  for (Condition& known : conditions) {
    if (known.type != condition.type) continue;
    if (known.status == condition.status) condition.last_transition_time = known.last_transition_time;
    if (known == condition) return false;
    known = std::move(condition);
    return true;
  }
  conditions.push_back(std::move(condition));
  return true;
}

bool RemoveCondition(std::vector<Condition>& conditions, absl::string_view type) {
  return std::erase_if(conditions, [type](const Condition& known) { return known.type == type; }) > 0;
}

bool LabelSelector::Matches(const std::map<std::string, std::string>& labels) const {
  for (const auto& [key, value] : match_labels) {
    auto label = labels.find(key);
    if (label == labels.end() || label->second != value) return false;
  }
  return std::all_of(
      match_expressions.begin(), match_expressions.end(),
      [&labels](const LabelSelectorRequirement& requirement) { return Satisfies(requirement, labels); });
}

std::string LabelSelector::ToString() const {
  std::vector<std::string> terms;
  terms.reserve(match_labels.size() + match_expressions.size());
  for (const auto& [key, value] : match_labels) terms.push_back(absl::StrCat(key, "=", value));
  for (const LabelSelectorRequirement& requirement : match_expressions)
    terms.push_back(Expression(requirement));
  return absl::StrJoin(terms, ",");
}

ObjectReference ReferenceTo(const Resource& resource, const ObjectMeta& meta) {
  return {.api_version = resource.ApiVersion(),
          .kind = std::string(resource.kind),
          .name_space = meta.name_space,
          .name = meta.name,
          .uid = meta.uid,
          .resource_version = meta.resource_version};
}

}  // namespace godwit::k8s
