// SPDX-License-Identifier: Apache-2.0
// Waiting for a list of names to become empty, and telling which ones did not go.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace godwit::controller {

// Asks `remaining` each second until it answers an empty list (OK), or `timeout` has passed: DeadlineExceeded
// "waited 4m for <what>: <names> (<advice>)". Errors that may pass (no connection, a busy server) are asked
// again, others are returned.
absl::Status WaitUntilNone(const std::function<absl::StatusOr<std::vector<std::string>>()>& remaining,
                           absl::string_view what, absl::Duration timeout, Clock& clock,
                           absl::string_view advice);

}  // namespace godwit::controller
