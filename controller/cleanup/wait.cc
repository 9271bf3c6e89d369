// SPDX-License-Identifier: Apache-2.0
#include "controller/cleanup/wait.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "k8s/error.h"

namespace godwit::controller {

absl::Status WaitUntilNone(const std::function<absl::StatusOr<std::vector<std::string>>()>& remaining,
                           absl::string_view what, absl::Duration timeout, Clock& clock,
                           absl::string_view advice) {
  const absl::Duration deadline = clock.Monotonic() + timeout;
  std::string told;
  for (;;) {
    const absl::StatusOr<std::vector<std::string>> names = remaining();
    if (names.ok() && names->empty()) return absl::OkStatus();
    if (!names.ok() && !k8s::IsTransient(names.status())) return names.status();
    const std::string left = names.ok() ? absl::StrJoin(*names, ", ") : std::string(names.status().message());
    if (left != told) {
      LOG(INFO) << Log("waiting").With("for", what).With("left", left);
      told = left;
    }
    if (clock.Monotonic() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("waited ", absl::FormatDuration(timeout), " for ", what,
                                                      ": ", left, " (", advice, ")"));
    }
    clock.SleepFor(absl::Seconds(1));
  }
}

}  // namespace godwit::controller
