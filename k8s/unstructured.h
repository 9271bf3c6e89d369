// SPDX-License-Identifier: Apache-2.0
// Any Kubernetes object with all its fields, also those that this library has no struct for: what is read can
// be written back, or created anew under another name, without losing anything. A typed view of it is
// As<Pod>().
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "k8s/meta.h"
#include "rapidjson/document.h"

namespace godwit::k8s {

// Paths are JSON pointers (RFC 6901): "/spec/containers/0/name"; a key that may contain '/' or '~' (labels,
// annotations) goes through PointerKey: StrCat("/metadata/labels/", PointerKey("app.kubernetes.io/name")).
std::string PointerKey(absl::string_view key);

// Copies are deep. Not thread-safe for writing.
class Unstructured {
 public:
  Unstructured() : document_(rapidjson::kObjectType) {}
  explicit Unstructured(const rapidjson::Value& value) {
    document_.CopyFrom(value, document_.GetAllocator());
  }
  Unstructured(const Unstructured& other) : Unstructured(other.document_) {}
  Unstructured(Unstructured&& other) noexcept : Unstructured() { document_.Swap(other.document_); }
  Unstructured& operator=(Unstructured other) noexcept {
    document_.Swap(other.document_);
    return *this;
  }

  static absl::StatusOr<Unstructured> Parse(absl::string_view text);
  // From a struct with Fields; apiVersion and kind are added when T has a kResource.
  template <class T>
  static Unstructured From(const T& object) {
    Unstructured out(json::ToDocument(object));
    if constexpr (requires { T::kResource; }) {
      out.Set("/apiVersion", T::kResource.ApiVersion());
      out.Set("/kind", std::string(T::kResource.kind));
    }
    return out;
  }
  template <class T>
  absl::StatusOr<T> As() const {
    return json::FromValue<T>(document_);
  }

  const rapidjson::Value& value() const { return document_; }
  // For what Set and Remove cannot do; new values come from allocator().
  rapidjson::Value& value() { return document_; }
  rapidjson::Document::AllocatorType& allocator() { return document_.GetAllocator(); }
  std::string ToJson() const { return json::Write(document_); }

  // The value at a path, or null when there is none. Valid until the object is changed.
  const rapidjson::Value* Find(absl::string_view pointer) const;
  rapidjson::Value* Find(absl::string_view pointer);
  // The string at a path; "" when there is none or it is no string.
  std::string String(absl::string_view pointer) const;

  // Puts a value at a path (which must be a JSON pointer: anything else is a bug and fatal), making the
  // objects on the way; "/-" at the end appends to a list.
  void SetValue(absl::string_view pointer, const rapidjson::Value& value);
  template <class T>
  void Set(absl::string_view pointer, const T& value) {
    SetValue(pointer, json::ToDocument(value));
  }
  void Set(absl::string_view pointer, const char* value) { Set(pointer, std::string(value)); }
  void Set(absl::string_view pointer, absl::string_view value) { Set(pointer, std::string(value)); }
  // JSON null: in a merge patch, "remove this".
  void SetNull(absl::string_view pointer) { SetValue(pointer, rapidjson::Value()); }
  // True when there was something.
  bool Remove(absl::string_view pointer);

  // The metadata's common fields; defaults where the object has none or has nonsense.
  ObjectMeta Meta() const;

  bool operator==(const Unstructured& other) const { return value() == other.value(); }

 private:
  rapidjson::Document document_;
};

// Takes part in json::Decode, Encode and Fields as any value that is an object.
absl::Status ReadScalar(const rapidjson::Value& in, absl::string_view path, Unstructured& out);
rapidjson::Value WriteScalar(const Unstructured& in, rapidjson::Document::AllocatorType& allocator);

// The RFC 7386 merge patch that makes `after` of `before` where the patch needs to touch it; an empty object
// when they are equal. Lists are replaced whole.
Unstructured MergeDiff(const rapidjson::Value& before, const rapidjson::Value& after);

// An RFC 6902 patch, built step by step.
class JsonPatch {
 public:
  JsonPatch() : operations_(rapidjson::kArrayType) {}
  template <class T>
  JsonPatch& Add(absl::string_view pointer, const T& value) {
    return Step("add", pointer, json::ToDocument(value));
  }
  template <class T>
  JsonPatch& Replace(absl::string_view pointer, const T& value) {
    return Step("replace", pointer, json::ToDocument(value));
  }
  // The whole patch is refused (Invalid) unless the value is there.
  template <class T>
  JsonPatch& Test(absl::string_view pointer, const T& value) {
    return Step("test", pointer, json::ToDocument(value));
  }
  JsonPatch& Remove(absl::string_view pointer);
  bool empty() const { return operations_.Empty(); }
  std::string ToJson() const { return json::Write(operations_); }

 private:
  JsonPatch& Step(const char* operation, absl::string_view pointer, const rapidjson::Value& value);
  rapidjson::Document operations_;
};

}  // namespace godwit::k8s
