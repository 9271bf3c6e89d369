// SPDX-License-Identifier: Apache-2.0
// Logs: one line format for all binaries,
//   2026-01-02T03:04:05.678Z INFO godwit-agent froze the pod migration=5d9c... pod="shop/cache 0"
// A message is constant; what varies are key=value pairs:
//   LOG(INFO) << Log("froze the pod").With("migration", uid).With("took", duration);
#pragma once

#include <string>
#include <type_traits>

#include "absl/log/log.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace godwit {

// Sends absl's log to descriptor `fd` in the format above; once, at the beginning of main.
void InitLog(absl::string_view binary, int fd = 2);

class Log {
 public:
  explicit Log(absl::string_view message) : line_(message) {}

  // Values are quoted where they hold a space, a quote, '=' or a control character.
  Log& With(absl::string_view key, absl::string_view value);
  Log& With(absl::string_view key, const char* value) { return With(key, absl::string_view(value)); }
  Log& With(absl::string_view key, const std::string& value) { return With(key, absl::string_view(value)); }
  Log& With(absl::string_view key, absl::Duration value) { return With(key, absl::FormatDuration(value)); }
  Log& With(absl::string_view key, absl::Time value);
  Log& With(absl::string_view key, bool value) { return With(key, value ? "true" : "false"); }
  template <class Number>
    requires(std::is_arithmetic_v<Number> && !std::is_same_v<Number, bool>)
  Log& With(absl::string_view key, Number value) {
    return With(key, absl::string_view(absl::StrCat(value)));
  }
  // error="<status>"
  Log& With(const absl::Status& status) { return With("error", status.ToString()); }

  template <class Sink>
  friend void AbslStringify(Sink& sink, const Log& log) {
    sink.Append(log.line_);
  }

 private:
  std::string line_;
};

// A line as InitLog writes it, without the newline; newlines within are escaped.
std::string FormatLogLine(absl::Time time, absl::string_view level, absl::string_view binary,
                          absl::string_view text);

}  // namespace godwit
