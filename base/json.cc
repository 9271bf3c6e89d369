// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <cmath>

#include "absl/strings/string_view.h"
#include "rapidjson/error/en.h"
#include "rapidjson/reader.h"
#include "rapidjson/stringbuffer.h"
#include "rapidjson/writer.h"

namespace godwit::json {
namespace {

constexpr unsigned kParseFlags = rapidjson::kParseIterativeFlag | rapidjson::kParseValidateEncodingFlag |
                                 rapidjson::kParseFullPrecisionFlag;

// Depth of nesting, found before the tree is built: freeing a deep tree recurses.
class DepthMeter : public rapidjson::BaseReaderHandler<rapidjson::UTF8<>, DepthMeter> {
 public:
  explicit DepthMeter(int limit) : limit_(limit) {}
  bool StartObject() { return ++depth_ <= limit_; }
  bool EndObject(rapidjson::SizeType) { return depth_-- > 0; }
  bool StartArray() { return ++depth_ <= limit_; }
  bool EndArray(rapidjson::SizeType) { return depth_-- > 0; }

 private:
  const int limit_;
  int depth_ = 0;
};

}  // namespace

absl::StatusOr<rapidjson::Document> Parse(absl::string_view text, const Limits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON text of ", text.size(), " bytes is over the limit of ", limits.max_bytes));
  }
  DepthMeter meter(limits.max_depth);
  rapidjson::MemoryStream scan(text.data(), text.size());
  rapidjson::Reader reader;
  reader.Parse<kParseFlags>(scan, meter);
  if (reader.HasParseError()) {
    const bool too_deep = reader.GetParseErrorCode() == rapidjson::kParseErrorTermination;
    return absl::InvalidArgumentError(absl::StrCat(
        "not valid JSON at byte ", reader.GetErrorOffset(), ": ",
        too_deep ? "nested too deeply" : rapidjson::GetParseError_En(reader.GetParseErrorCode())));
  }
  rapidjson::Document document;
  document.Parse<kParseFlags>(text.data(), text.size());
  return document;
}

std::string Write(const rapidjson::Value& value) {
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  value.Accept(writer);
  return std::string(buffer.GetString(), buffer.GetSize());
}

namespace internal {

absl::string_view TypeName(const Value& value) {
  switch (value.GetType()) {
    case rapidjson::kNullType: return "null";
    case rapidjson::kFalseType:
    case rapidjson::kTrueType: return "a boolean";
    case rapidjson::kObjectType: return "an object";
    case rapidjson::kArrayType: return "a list";
    case rapidjson::kStringType: return "a string";
    case rapidjson::kNumberType: return "a number";
  }
  return "an unknown value";
}

absl::Status WrongType(absl::string_view path, absl::string_view expected, const Value& got) {
  return absl::InvalidArgumentError(
      absl::StrCat(path.empty() ? "value" : path, ": expected ", expected, ", got ", TypeName(got)));
}

absl::Status ReadScalar(const Value& in, absl::string_view path, std::string& out) {
  if (!in.IsString()) return WrongType(path, "a string", in);
  out.assign(in.GetString(), in.GetStringLength());
  return absl::OkStatus();
}

absl::Status ReadScalar(const Value& in, absl::string_view path, bool& out) {
  if (!in.IsBool()) return WrongType(path, "a boolean", in);
  out = in.GetBool();
  return absl::OkStatus();
}

absl::Status ReadScalar(const Value& in, absl::string_view path, double& out) {
  if (!in.IsNumber()) return WrongType(path, "a number", in);
  out = in.GetDouble();
  return absl::OkStatus();
}

absl::Status ReadScalar(const Value& in, absl::string_view path, absl::Time& out) {
  std::string text;
  absl::Status status = ReadScalar(in, path, text);
  if (!status.ok()) return status;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text, &out, &error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": \"", text, "\" is not an RFC 3339 time: ", error));
  }
  return absl::OkStatus();
}

absl::Status ReadScalar(const Value& in, absl::string_view path, absl::Duration& out) {
  std::string text;
  absl::Status status = ReadScalar(in, path, text);
  if (!status.ok()) return status;
  if (!absl::ParseDuration(text, &out)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": \"", text, "\" is not a duration such as 90s or 100ms"));
  }
  return absl::OkStatus();
}

absl::Status ReadScalar(const Value& in, absl::string_view, Raw& out) {
  out.text = Write(in);
  return absl::OkStatus();
}

absl::Status ReadInteger(const Value& in, absl::string_view path, int64_t low, uint64_t high,
                         uint64_t& bits) {
  if (in.IsInt64() && in.GetInt64() < 0) {
    bits = static_cast<uint64_t>(in.GetInt64());
    if (in.GetInt64() >= low) return absl::OkStatus();
  } else if (in.IsUint64()) {
    bits = in.GetUint64();
    if (bits <= high) return absl::OkStatus();
  } else {
    return WrongType(path, "an integer", in);
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", Write(in), " is out of range"));
}

Value WriteScalar(const std::string& in, Allocator& allocator) {
  return Value(in.data(), static_cast<rapidjson::SizeType>(in.size()), allocator);
}
Value WriteScalar(bool in, Allocator&) { return Value(in); }
Value WriteScalar(double in, Allocator&) { return std::isfinite(in) ? Value(in) : Value(); }
Value WriteScalar(absl::Time in, Allocator& allocator) {
  return WriteScalar(absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", in, absl::UTCTimeZone()), allocator);
}
Value WriteScalar(absl::Duration in, Allocator& allocator) {
  return WriteScalar(absl::FormatDuration(in), allocator);
}
Value WriteScalar(const Raw& in, Allocator& allocator) {
  rapidjson::Document document(&allocator);
  document.Parse<kParseFlags>(in.text.data(), in.text.size());
  if (document.HasParseError()) return Value();
  Value value;
  value.Swap(static_cast<Value&>(document));
  return value;
}

}  // namespace internal
}  // namespace godwit::json
