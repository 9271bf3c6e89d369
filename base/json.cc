// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <cmath>
#include <system_error>

#include "absl/strings/charconv.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "rapidjson/error/en.h"
#include "rapidjson/reader.h"
#include "rapidjson/stringbuffer.h"
#include "rapidjson/writer.h"

namespace godwit::json {
namespace {

// Puts what the reader finds into a document. Stops where nesting gets too deep: freeing a deep tree
// recurses. Numbers come as text and are converted here: RapidJSON's own exact conversion has undefined
// behaviour for zeros like 0e40.
class Builder : public rapidjson::BaseReaderHandler<rapidjson::UTF8<>, Builder> {
 public:
  Builder(rapidjson::Document& document, int depth_limit) : document_(document), depth_limit_(depth_limit) {}

  bool Null() { return document_.Null(); }
  bool Bool(bool value) { return document_.Bool(value); }
  bool String(const char* text, rapidjson::SizeType size, bool) { return document_.String(text, size, true); }
  bool Key(const char* text, rapidjson::SizeType size, bool) { return document_.Key(text, size, true); }
  bool StartObject() { return Deeper() && document_.StartObject(); }
  bool EndObject(rapidjson::SizeType members) { return depth_-- > 0 && document_.EndObject(members); }
  bool StartArray() { return Deeper() && document_.StartArray(); }
  bool EndArray(rapidjson::SizeType elements) { return depth_-- > 0 && document_.EndArray(elements); }

  bool RawNumber(const char* text, rapidjson::SizeType size, bool) {
    const absl::string_view digits(text, size);
    if (digits.find_first_of(".eE") == absl::string_view::npos) {
      if (int64_t integer; absl::SimpleAtoi(digits, &integer)) return document_.Int64(integer);
      if (uint64_t integer; absl::SimpleAtoi(digits, &integer)) return document_.Uint64(integer);
    }
    double value = 0;
    const auto [end, error] = absl::from_chars(text, text + size, value);
    const bool whole =
        end == text + size && (error == std::errc() || std::abs(value) < 1);  // too small is zero
    if (!whole) problem_ = "Number too big to be stored in double.";
    return whole && document_.Double(value);
  }

  absl::string_view problem() const { return problem_; }

 private:
  bool Deeper() {
    if (++depth_ <= depth_limit_) return true;
    problem_ = "nested too deeply";
    return false;
  }

  rapidjson::Document& document_;
  const int depth_limit_;
  int depth_ = 0;
  absl::string_view problem_;
};

absl::Status ParseInto(absl::string_view text, int depth_limit, rapidjson::Document& document) {
  constexpr unsigned kFlags = rapidjson::kParseIterativeFlag | rapidjson::kParseValidateEncodingFlag |
                              rapidjson::kParseNumbersAsStringsFlag;
  rapidjson::MemoryStream stream(text.data(), text.size());
  rapidjson::Reader reader;
  Builder builder(document, depth_limit);
  auto generate = [&](rapidjson::Document&) { return !reader.Parse<kFlags>(stream, builder).IsError(); };
  document.Populate(generate);
  if (!reader.HasParseError()) return absl::OkStatus();
  const absl::string_view problem = reader.GetParseErrorCode() == rapidjson::kParseErrorTermination
                                        ? builder.problem()
                                        : rapidjson::GetParseError_En(reader.GetParseErrorCode());
  return absl::InvalidArgumentError(
      absl::StrCat("not valid JSON at byte ", reader.GetErrorOffset(), ": ", problem));
}

}  // namespace

absl::StatusOr<rapidjson::Document> Parse(absl::string_view text, const Limits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON text of ", text.size(), " bytes is over the limit of ", limits.max_bytes));
  }
  rapidjson::Document document;
  absl::Status status = ParseInto(text, limits.max_depth, document);
  if (!status.ok()) return status;
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
  if (!ParseInto(in.text, Limits().max_depth, document).ok()) return Value();
  Value value;
  value.Swap(static_cast<Value&>(document));
  return value;
}

}  // namespace internal
}  // namespace godwit::json
