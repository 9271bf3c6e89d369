// SPDX-License-Identifier: Apache-2.0
// JSON to structs and back. A struct lists its fields once:
//
//   struct Point {
//     int64_t x = 0;
//     std::string label;
//     template <class Self, class Visitor>
//     static void Fields(Self& self, Visitor& field) {
//       field.Required("x", self.x);
//       field("label", self.label);
//     }
//   };
//
// and json::Decode<Point>(text) and json::Encode(point) do the rest. The rules:
//   - unknown fields are ignored (an older reader meets a newer writer); a field of the wrong type is an
//   error
//     that names its path, e.g. "containers[1].pid: expected an integer, got a string".
//   - field(...): absent or null leaves the default; a value equal to the type's empty value ("", 0, false,
//   [], {},
//     nullopt) is not written, as Kubernetes' omitempty. Required(...): must be present; always written.
//   - integers must fit their type; absl::Time is RFC 3339; absl::Duration is Go's notation ("1.5s",
//   "100ms");
//     an enum is a string from its JsonNames table; json::Raw keeps any JSON value as it came.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "rapidjson/document.h"

namespace godwit::json {

// What a hostile text may cost at most: bytes of input, and nesting.
struct Limits {
  size_t max_bytes = 8u << 20;
  int max_depth = 64;
};

// Parses one JSON value; trailing garbage, invalid UTF-8 and anything beyond the limits is InvalidArgument.
absl::StatusOr<rapidjson::Document> Parse(absl::string_view text, const Limits& limits = {});

// Compact text of a value.
std::string Write(const rapidjson::Value& value);

// Any JSON value, kept as text; empty means absent.
struct Raw {
  std::string text;
  bool operator==(const Raw&) const = default;
};

// An enum takes part by a function found by argument-dependent lookup:
//   constexpr auto JsonNames(Phase) { return std::array<std::pair<Phase, absl::string_view>, N>{{{Phase::kA,
//   "A"}, ...}}; }
template <class E>
concept NamedEnum = std::is_enum_v<E> && requires(E e) { JsonNames(e); };

template <NamedEnum E>
absl::string_view Name(E value) {
  for (const auto& [known, name] : JsonNames(value)) {
    if (known == value) return name;
  }
  return "";
}

namespace internal {

using Value = rapidjson::Value;
using Allocator = rapidjson::Document::AllocatorType;

absl::string_view TypeName(const Value& value);
absl::Status WrongType(absl::string_view path, absl::string_view expected, const Value& got);

template <class T>
concept Struct = std::is_class_v<T> && requires(T& t, int& v) { &T::template Fields<T, int>; };

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsMap : std::false_type {};
template <class T>
struct IsMap<std::map<std::string, T>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

absl::Status ReadScalar(const Value& in, absl::string_view path, std::string& out);
absl::Status ReadScalar(const Value& in, absl::string_view path, bool& out);
absl::Status ReadScalar(const Value& in, absl::string_view path, double& out);
absl::Status ReadScalar(const Value& in, absl::string_view path, absl::Time& out);
absl::Status ReadScalar(const Value& in, absl::string_view path, absl::Duration& out);
absl::Status ReadScalar(const Value& in, absl::string_view path, Raw& out);
absl::Status ReadInteger(const Value& in, absl::string_view path, int64_t low, uint64_t high, uint64_t& bits);

Value WriteScalar(const std::string& in, Allocator& allocator);
Value WriteScalar(bool in, Allocator& allocator);
Value WriteScalar(double in, Allocator& allocator);
Value WriteScalar(absl::Time in, Allocator& allocator);
Value WriteScalar(absl::Duration in, Allocator& allocator);
Value WriteScalar(const Raw& in, Allocator& allocator);

template <class T>
absl::Status Read(const Value& in, const std::string& path, T& out);
template <class T>
Value WriteValue(const T& in, Allocator& allocator);

// Reads the fields of one object; the first error stays.
class Reader {
 public:
  Reader(const Value& object, const std::string& path) : object_(object), path_(path) {}
  template <class T>
  void operator()(const char* name, T& out) {
    Member(name, out, /*required=*/false);
  }
  template <class T>
  void Required(const char* name, T& out) {
    Member(name, out, /*required=*/true);
  }
  const absl::Status& status() const { return status_; }

 private:
  template <class T>
  void Member(const char* name, T& out, bool required) {
    if (!status_.ok()) return;
    const std::string path = path_.empty() ? std::string(name) : absl::StrCat(path_, ".", name);
    auto member = object_.FindMember(name);
    if (member == object_.MemberEnd() || member->value.IsNull()) {
      if (required) status_ = absl::InvalidArgumentError(absl::StrCat(path, ": required, but absent"));
      return;
    }
    status_ = Read(member->value, path, out);
  }

  const Value& object_;
  const std::string& path_;
  absl::Status status_;
};

// Writes the fields of one object.
class Writer {
 public:
  Writer(Value& object, Allocator& allocator) : object_(object), allocator_(allocator) {}
  template <class T>
  void operator()(const char* name, const T& in) {
    if constexpr (requires { in == T{}; }) {
      if (in == T{}) return;
    }
    Required(name, in);
  }
  template <class T>
  void Required(const char* name, const T& in) {
    Value value = WriteValue(in, allocator_);
    if (value.IsObject() && value.ObjectEmpty() && Struct<T>) return;
    object_.AddMember(Value(name, allocator_), value, allocator_);
  }

 private:
  Value& object_;
  Allocator& allocator_;
};

template <class T>
absl::Status ReadList(const Value& in, const std::string& path, std::vector<T>& out) {
  if (!in.IsArray()) return WrongType(path, "a list", in);
  out.clear();
  for (rapidjson::SizeType i = 0; i < in.Size(); ++i) {
    T element{};
    absl::Status status = Read(in[i], absl::StrCat(path, "[", i, "]"), element);
    if (!status.ok()) return status;
    out.push_back(std::move(element));
  }
  return absl::OkStatus();
}

template <class T>
absl::Status ReadMap(const Value& in, const std::string& path, std::map<std::string, T>& out) {
  if (!in.IsObject()) return WrongType(path, "an object", in);
  out.clear();
  for (const auto& member : in.GetObject()) {
    const std::string key(member.name.GetString(), member.name.GetStringLength());
    absl::Status status = Read(member.value, absl::StrCat(path, ".", key), out[key]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

template <class T>
absl::Status ReadEnum(const Value& in, const std::string& path, T& out) {
  if (!in.IsString()) return WrongType(path, "a string", in);
  const absl::string_view text(in.GetString(), in.GetStringLength());
  std::string known;
  for (const auto& [value, name] : JsonNames(T{})) {
    if (name == text) {
      out = value;
      return absl::OkStatus();
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", name);
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": \"", text, "\" is none of ", known));
}

template <class T>
absl::Status Read(const Value& in, const std::string& path, T& out) {
  if constexpr (IsVector<T>::value) {
    return ReadList(in, path, out);
  } else if constexpr (IsMap<T>::value) {
    return ReadMap(in, path, out);
  } else if constexpr (IsOptional<T>::value) {
    return Read(in, path, out.emplace());
  } else if constexpr (std::is_enum_v<T>) {
    return ReadEnum(in, path, out);
  } else if constexpr (std::integral<T> && !std::same_as<T, bool>) {
    uint64_t bits = 0;
    absl::Status status = ReadInteger(in, path, static_cast<int64_t>(std::numeric_limits<T>::min()),
                                      static_cast<uint64_t>(std::numeric_limits<T>::max()), bits);
    if (status.ok()) out = static_cast<T>(bits);
    return status;
  } else if constexpr (Struct<T>) {
    if (!in.IsObject()) return WrongType(path, "an object", in);
    Reader reader(in, path);
    T::Fields(out, reader);
    return reader.status();
  } else {
    return ReadScalar(in, path, out);
  }
}

template <class T>
Value WriteValue(const T& in, Allocator& allocator) {
  if constexpr (IsVector<T>::value) {
    Value list(rapidjson::kArrayType);
    for (const auto& element : in) list.PushBack(WriteValue(element, allocator), allocator);
    return list;
  } else if constexpr (IsMap<T>::value) {
    Value object(rapidjson::kObjectType);
    for (const auto& [key, element] : in) {
      object.AddMember(WriteScalar(key, allocator), WriteValue(element, allocator), allocator);
    }
    return object;
  } else if constexpr (IsOptional<T>::value) {
    return in.has_value() ? WriteValue(*in, allocator) : Value();
  } else if constexpr (std::is_enum_v<T>) {
    return WriteScalar(std::string(Name(in)), allocator);
  } else if constexpr (std::integral<T> && !std::same_as<T, bool>) {
    if constexpr (std::is_signed_v<T>) return Value(static_cast<int64_t>(in));
    return Value(static_cast<uint64_t>(in));
  } else if constexpr (Struct<T>) {
    Value object(rapidjson::kObjectType);
    Writer writer(object, allocator);
    T::Fields(in, writer);
    return object;
  } else {
    return WriteScalar(in, allocator);
  }
}

}  // namespace internal

// Reads a T from a parsed value. `path` names the value in error messages.
template <class T>
absl::StatusOr<T> FromValue(const rapidjson::Value& value, const std::string& path = "") {
  T out{};
  absl::Status status = internal::Read(value, path, out);
  if (!status.ok()) return status;
  return out;
}

// Reads a T from JSON text.
template <class T>
absl::StatusOr<T> Decode(absl::string_view text, const Limits& limits = {}) {
  absl::StatusOr<rapidjson::Document> document = Parse(text, limits);
  if (!document.ok()) return document.status();
  return FromValue<T>(*document);
}

// A value that owns its memory.
template <class T>
rapidjson::Document ToDocument(const T& in) {
  rapidjson::Document document;
  rapidjson::Value value = internal::WriteValue(in, document.GetAllocator());
  static_cast<rapidjson::Value&>(document).Swap(value);
  return document;
}

// Compact JSON text of a T.
template <class T>
std::string Encode(const T& in) {
  return Write(ToDocument(in));
}

}  // namespace godwit::json
