// SPDX-License-Identifier: Apache-2.0
// Errors and notes where a shim looks for runc's: the file of --log, from which the last line of level
// "error" becomes the container's failure message that `kubectl describe pod` shows.
#pragma once

#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace godwit::godwit_runtime {

class ErrorLog {
 public:
  // An empty path: nowhere. The file is appended to, and made as runc makes it.
  ErrorLog(std::string path, bool json) : path_(std::move(path)), json_(json) {}

  // Also written to stderr, as runc does.
  void Error(absl::string_view message) const;
  void Info(absl::string_view message) const;
  // The last error that is there, runc's perhaps; empty when there is none or it cannot be read.
  std::string LastError() const;

 private:
  void Append(absl::string_view level, absl::string_view message) const;

  std::string path_;
  bool json_;
};

// One line without its newline, as logrus writes it in its two formats.
std::string FormatLine(bool json, absl::string_view level, absl::string_view message, absl::Time time);

}  // namespace godwit::godwit_runtime
