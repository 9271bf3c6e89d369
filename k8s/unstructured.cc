// SPDX-License-Identifier: Apache-2.0
#include "k8s/unstructured.h"

#include "absl/log/check.h"
#include "absl/strings/str_replace.h"
#include "rapidjson/pointer.h"

namespace godwit::k8s {
namespace {

using Allocator = rapidjson::Document::AllocatorType;

rapidjson::Pointer PointerOf(absl::string_view pointer) {
  return rapidjson::Pointer(pointer.data(), pointer.size());
}

rapidjson::Value Diff(const rapidjson::Value& before, const rapidjson::Value& after, Allocator& allocator) {
  rapidjson::Value patch(rapidjson::kObjectType);
  for (const auto& member : after.GetObject()) {
    auto old = before.FindMember(member.name);
    rapidjson::Value change;
    if (old != before.MemberEnd() && old->value == member.value) continue;
    if (old != before.MemberEnd() && old->value.IsObject() && member.value.IsObject()) {
      change = Diff(old->value, member.value, allocator);
    } else {
      change.CopyFrom(member.value, allocator);
    }
    patch.AddMember(rapidjson::Value(member.name, allocator), change, allocator);
  }
  for (const auto& member : before.GetObject()) {
    if (!after.HasMember(member.name)) {
      patch.AddMember(rapidjson::Value(member.name, allocator), rapidjson::Value(), allocator);
    }
  }
  return patch;
}

// The value or a part of the typed metadata; a value of the wrong type counts as none.
template <class T>
void ReadPart(const Unstructured& object, absl::string_view pointer, T& out) {
  const rapidjson::Value* value = object.Find(pointer);
  if (value == nullptr || value->IsNull()) return;
  absl::StatusOr<T> part = json::FromValue<T>(*value);
  if (part.ok()) out = *std::move(part);
}

}  // namespace

std::string PointerKey(absl::string_view key) { return absl::StrReplaceAll(key, {{"~", "~0"}, {"/", "~1"}}); }

absl::StatusOr<Unstructured> Unstructured::Parse(absl::string_view text) {
  return json::Decode<Unstructured>(text);
}

const rapidjson::Value* Unstructured::Find(absl::string_view pointer) const {
  const rapidjson::Pointer parsed = PointerOf(pointer);
  return parsed.IsValid() ? parsed.Get(document_) : nullptr;
}

rapidjson::Value* Unstructured::Find(absl::string_view pointer) {
  const rapidjson::Pointer parsed = PointerOf(pointer);
  return parsed.IsValid() ? parsed.Get(document_) : nullptr;
}

std::string Unstructured::String(absl::string_view pointer) const {
  const rapidjson::Value* value = Find(pointer);
  if (value == nullptr || !value->IsString()) return "";
  return std::string(value->GetString(), value->GetStringLength());
}

void Unstructured::SetValue(absl::string_view pointer, const rapidjson::Value& value) {
  const rapidjson::Pointer parsed = PointerOf(pointer);
  CHECK(parsed.IsValid()) << "not a JSON pointer: " << pointer;
  parsed.Set(document_, value);
}

bool Unstructured::Remove(absl::string_view pointer) {
  const rapidjson::Pointer parsed = PointerOf(pointer);
  if (!parsed.IsValid() || parsed.GetTokenCount() == 0) return false;
  return parsed.Erase(document_);
}

ObjectMeta Unstructured::Meta() const {
  ObjectMeta meta;
  const rapidjson::Value* value = Find("/metadata");
  if (value == nullptr || !value->IsObject()) return meta;
  if (absl::StatusOr<ObjectMeta> typed = json::FromValue<ObjectMeta>(*value); typed.ok())
    return *std::move(typed);
  ReadPart(*this, "/metadata/name", meta.name);
  ReadPart(*this, "/metadata/generateName", meta.generate_name);
  ReadPart(*this, "/metadata/namespace", meta.name_space);
  ReadPart(*this, "/metadata/uid", meta.uid);
  ReadPart(*this, "/metadata/resourceVersion", meta.resource_version);
  return meta;
}

absl::Status ReadScalar(const rapidjson::Value& in, absl::string_view path, Unstructured& out) {
  if (!in.IsObject()) return json::internal::WrongType(path, "an object", in);
  out = Unstructured(in);
  return absl::OkStatus();
}

rapidjson::Value WriteScalar(const Unstructured& in, Allocator& allocator) {
  rapidjson::Value out;
  out.CopyFrom(in.value(), allocator);
  return out;
}

Unstructured MergeDiff(const rapidjson::Value& before, const rapidjson::Value& after) {
  Unstructured patch;
  if (!before.IsObject() || !after.IsObject()) return patch;
  rapidjson::Value difference = Diff(before, after, patch.allocator());
  patch.value().Swap(difference);
  return patch;
}

JsonPatch& JsonPatch::Remove(absl::string_view pointer) {
  return Step("remove", pointer, rapidjson::Value());
}

JsonPatch& JsonPatch::Step(const char* operation, absl::string_view pointer, const rapidjson::Value& value) {
  Allocator& allocator = operations_.GetAllocator();
  rapidjson::Value step(rapidjson::kObjectType);
  step.AddMember("op", rapidjson::Value(operation, allocator), allocator);
  step.AddMember(
      "path", rapidjson::Value(pointer.data(), static_cast<rapidjson::SizeType>(pointer.size()), allocator),
      allocator);
  if (absl::string_view(operation) != "remove") {
    step.AddMember("value", rapidjson::Value(value, allocator), allocator);
  }
  operations_.PushBack(step, allocator);
  return *this;
}

}  // namespace godwit::k8s
