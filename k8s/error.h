// SPDX-License-Identifier: Apache-2.0
// What the API server said when it refused: metav1.Status, carried as a payload of the absl::Status, so that
// callers ask `IsConflict(status)` instead of reading messages.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace godwit::k8s {

struct ErrorCause {
  std::string reason;   // e.g. "FieldValueInvalid"
  std::string message;  // for a person
  std::string field;    // e.g. "spec.podRef.name"
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("reason", self.reason);
    field("message", self.message);
    field("field", self.field);
  }
  bool operator==(const ErrorCause&) const = default;
};

struct Error {
  int http_code = 0;    // e.g. 409
  std::string reason;   // metav1.StatusReason, e.g. "Conflict"; derived from http_code when the body had none
  std::string message;  // the server's sentence
  std::vector<ErrorCause> causes;
  absl::Duration
      retry_after;  // from the Retry-After header or details.retryAfterSeconds; zero when there was none
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("code", self.http_code);
    field("reason", self.reason);
    field("message", self.message);
    field("causes", self.causes);
    field("retryAfter", self.retry_after);
  }
  bool operator==(const Error&) const = default;
};

// The status for an error: its absl code follows the reason (NotFound, AlreadyExists; Conflict and Expired
// are kAborted and kOutOfRange; Invalid and BadRequest kInvalidArgument; Forbidden kPermissionDenied;
// Unauthorized kUnauthenticated; TooManyRequests kResourceExhausted; 5xx kUnavailable or kInternal).
absl::Status MakeStatus(const Error& error);

// From an answer that is not 2xx: the body is a metav1.Status, or anything else when a proxy answered.
// `retry_after` is the header's text or empty.
absl::Status StatusFromResponse(int http_code, absl::string_view body, absl::string_view retry_after = "");

// What the server said; nullopt when the status is OK or the error did not come from an API server (e.g. no
// connection).
std::optional<Error> ErrorOf(const absl::Status& status);

// The server's reason, or "" as above.
std::string ReasonOf(const absl::Status& status);

// Write them with their namespace, k8s::IsNotFound(status): absl has functions of the same names, for its
// codes.
bool IsNotFound(const absl::Status& status);
bool IsAlreadyExists(const absl::Status& status);
bool IsConflict(
    const absl::Status& status);  // somebody else changed the object, or a precondition does not hold
bool IsInvalid(const absl::Status& status);  // refused by validation: 422 Invalid
bool IsBadRequest(const absl::Status& status);
bool IsGone(
    const absl::Status& status);  // 410: Gone or Expired, the resourceVersion or continue token is too old
bool IsForbidden(const absl::Status& status);
bool IsUnauthorized(const absl::Status& status);
bool IsTooManyRequests(const absl::Status& status);
// Worth another try later with the same request: 429, 5xx, timeouts, no connection.
bool IsTransient(const absl::Status& status);

}  // namespace godwit::k8s
