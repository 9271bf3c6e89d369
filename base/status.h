// SPDX-License-Identifier: Apache-2.0
// Status vocabulary: absl::Status with errno, and early return.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit {

// A status for the current errno: "<what>: <strerror>". The code follows absl::ErrnoToStatusCode.
absl::Status ErrnoStatus(absl::string_view what);
absl::Status ErrnoStatus(int error_number, absl::string_view what);

// The same error with "<context>: " put before its message; OK stays OK. Payloads are kept.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace godwit

#define GODWIT_CONCAT_INNER(a, b) a##b
#define GODWIT_CONCAT(a, b) GODWIT_CONCAT_INNER(a, b)

// Returns from the function when `expression` is an error.
#define GODWIT_RETURN_IF_ERROR(expression)         \
  do {                                             \
    absl::Status godwit_status = (expression);     \
    if (!godwit_status.ok()) return godwit_status; \
  } while (false)

// GODWIT_ASSIGN_OR_RETURN(auto value, Expression()): binds the value or returns the error.
#define GODWIT_ASSIGN_OR_RETURN(declaration, expression) \
  GODWIT_ASSIGN_OR_RETURN_INNER(GODWIT_CONCAT(godwit_statusor_, __LINE__), declaration, expression)
#define GODWIT_ASSIGN_OR_RETURN_INNER(temporary, declaration, expression) \
  auto temporary = (expression);                                          \
  if (!temporary.ok()) return std::move(temporary).status();              \
  declaration = *std::move(temporary)
