// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/error_log.h"

#include <fcntl.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "rapidjson/stringbuffer.h"
#include "rapidjson/writer.h"

namespace godwit::godwit_runtime {
namespace {

// As JSON text; bytes that are no UTF-8 become '?': a shim that cannot decode a line would show no error at
// all.
std::string Quoted(absl::string_view text) {
  rapidjson::StringBuffer out;
  rapidjson::Writer<rapidjson::StringBuffer, rapidjson::UTF8<>, rapidjson::UTF8<>, rapidjson::CrtAllocator,
                    rapidjson::kWriteValidateEncodingFlag>
      writer(out);
  if (writer.String(text.data(), static_cast<rapidjson::SizeType>(text.size()))) return out.GetString();
  std::string ascii(text);
  for (char& c : ascii) c = static_cast<unsigned char>(c) < 0x80 ? c : '?';
  return Quoted(ascii);
}

struct LogLine {
  std::string level;
  std::string msg;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("level", self.level);
    field("msg", self.msg);
  }
};

}  // namespace

std::string FormatLine(bool json, absl::string_view level, absl::string_view message, absl::Time time) {
  const std::string when = absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
  if (!json) return absl::StrCat("time=\"", when, "\" level=", level, " msg=", Quoted(message));
  return absl::StrCat("{\"level\":", Quoted(level), ",\"msg\":", Quoted(message), ",\"time\":\"", when,
                      "\"}");
}

void ErrorLog::Append(absl::string_view level, absl::string_view message) const {
  if (path_.empty()) return;
  absl::StatusOr<UniqueFd> file = OpenFile(path_, O_WRONLY | O_APPEND | O_CREAT, 0644);
  if (!file.ok()) return;  // nowhere left to say so but stderr, where an error goes anyway
  (void)WriteAll(file->get(), absl::StrCat(FormatLine(json_, level, message, absl::Now()), "\n"), path_);
}

void ErrorLog::Error(absl::string_view message) const {
  Append("error", message);
  std::fprintf(stderr, "godwit-runtime: %s\n", std::string(message).c_str());
}

void ErrorLog::Info(absl::string_view message) const { Append("info", message); }

std::string ErrorLog::LastError() const {
  std::string last;
  if (!json_ || path_.empty()) return last;
  absl::StatusOr<std::string> text = ReadFile(path_, 1u << 20);
  if (!text.ok()) return last;
  for (absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    absl::StatusOr<LogLine> parsed = json::Decode<LogLine>(line, {.max_bytes = 64u << 10, .max_depth = 4});
    if (parsed.ok() && parsed->level == "error") last = parsed->msg;
  }
  return last;
}

}  // namespace godwit::godwit_runtime
