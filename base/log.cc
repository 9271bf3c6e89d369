// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <unistd.h>

#include <algorithm>

#include "absl/base/log_severity.h"
#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "absl/log/log_entry.h"
#include "absl/log/log_sink.h"
#include "absl/log/log_sink_registry.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace godwit {
namespace {

bool NeedsQuotes(absl::string_view value) {
  return value.empty() || std::any_of(value.begin(), value.end(), [](char c) {
           return c == ' ' || c == '"' || c == '=' || c == '\\' ||
                  absl::ascii_iscntrl(static_cast<unsigned char>(c));
         });
}

// Control characters would break the line, or the terminal of who reads it.
void AppendEscaped(absl::string_view text, absl::string_view also_escaped, std::string& line) {
  static constexpr char kHex[] = "0123456789abcdef";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\t') {
      line += "\\t";
    } else if (absl::ascii_iscntrl(byte)) {
      line += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      if (absl::StrContains(also_escaped, c)) line += '\\';
      line += c;
    }
  }
}

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
}

// One write(2) a line, so that lines of several threads or processes do not mix.
class LineSink final : public absl::LogSink {
 public:
  LineSink(absl::string_view binary, int fd) : binary_(binary), fd_(fd) {}
  void Send(const absl::LogEntry& entry) override {
    absl::string_view text = entry.text_message();
    std::string line =
        FormatLogLine(entry.timestamp(), absl::LogSeverityName(entry.log_severity()), binary_, text);
    if (!entry.stacktrace().empty()) AppendEscaped(entry.stacktrace(), "", line);
    line += '\n';
    [[maybe_unused]] ssize_t n = write(fd_, line.data(), line.size());
  }

 private:
  const std::string binary_;
  const int fd_;
};

}  // namespace

void InitLog(absl::string_view binary, int fd) {
  static LineSink* sink = nullptr;
  if (sink != nullptr) return;
  sink = new LineSink(binary, fd);  // lives as long as the process: logging may happen until its very end
  absl::InitializeLog();
  absl::SetStderrThreshold(absl::LogSeverityAtLeast::kInfinity);
  absl::AddLogSink(sink);
}

Log& Log::With(absl::string_view key, absl::string_view value) {
  absl::StrAppend(&line_, " ", key, "=");
  if (!NeedsQuotes(value)) {
    line_.append(value.data(), value.size());
    return *this;
  }
  line_ += '"';
  AppendEscaped(value, "\"\\", line_);
  line_ += '"';
  return *this;
}

Log& Log::With(absl::string_view key, absl::Time value) { return With(key, TimeText(value)); }

std::string FormatLogLine(absl::Time time, absl::string_view level, absl::string_view binary,
                          absl::string_view text) {
  std::string line = absl::StrCat(TimeText(time), " ", level, " ", binary, " ");
  AppendEscaped(text, "", line);
  return line;
}

}  // namespace godwit
