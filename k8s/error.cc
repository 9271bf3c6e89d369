// SPDX-License-Identifier: Apache-2.0
#include "k8s/error.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"

namespace godwit::k8s {
namespace {

constexpr absl::string_view kPayload = "k8s.io/metav1.Status";
constexpr size_t kMaxQuoted = 300;  // bytes of an answer that is no Status, quoted in the message

// metav1.Status, as far as it is looked at.
struct WireStatus {
  struct Details {
    std::vector<ErrorCause> causes;
    int64_t retry_after_seconds = 0;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("causes", self.causes);
      field("retryAfterSeconds", self.retry_after_seconds);
    }
    bool operator==(const Details&) const = default;
  };
  std::string kind;
  std::string message;
  std::string reason;
  int code = 0;
  Details details;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("kind", self.kind);
    field("message", self.message);
    field("reason", self.reason);
    field("code", self.code);
    field("details", self.details);
  }
};

struct Known {
  int http_code;
  absl::string_view reason;
  absl::StatusCode code;
};

// Reasons of apimachinery's metav1.StatusReason; the first of a code is what an answer without a reason is
// taken for.
constexpr Known kKnown[] = {
    {400, "BadRequest", absl::StatusCode::kInvalidArgument},
    {401, "Unauthorized", absl::StatusCode::kUnauthenticated},
    {403, "Forbidden", absl::StatusCode::kPermissionDenied},
    {404, "NotFound", absl::StatusCode::kNotFound},
    {405, "MethodNotAllowed", absl::StatusCode::kUnimplemented},
    {406, "NotAcceptable", absl::StatusCode::kInvalidArgument},
    {409, "Conflict", absl::StatusCode::kAborted},
    {409, "AlreadyExists", absl::StatusCode::kAlreadyExists},
    {410, "Gone", absl::StatusCode::kOutOfRange},
    {410, "Expired", absl::StatusCode::kOutOfRange},
    {413, "RequestEntityTooLarge", absl::StatusCode::kInvalidArgument},
    {415, "UnsupportedMediaType", absl::StatusCode::kInvalidArgument},
    {422, "Invalid", absl::StatusCode::kInvalidArgument},
    {429, "TooManyRequests", absl::StatusCode::kResourceExhausted},
    {500, "InternalError", absl::StatusCode::kInternal},
    {500, "ServerTimeout", absl::StatusCode::kUnavailable},
    {502, "BadGateway", absl::StatusCode::kUnavailable},
    {503, "ServiceUnavailable", absl::StatusCode::kUnavailable},
    {504, "Timeout", absl::StatusCode::kUnavailable},
};

absl::string_view ReasonFor(int http_code) {
  for (const Known& known : kKnown) {
    if (known.http_code == http_code) return known.reason;
  }
  return http_code >= 500 ? "InternalError" : "Unknown";
}

absl::StatusCode CodeFor(const Error& error) {
  for (const Known& known : kKnown) {
    if (known.reason == error.reason) return known.code;
  }
  return error.http_code >= 500 ? absl::StatusCode::kInternal : absl::StatusCode::kUnknown;
}

bool HasReason(const absl::Status& status, absl::string_view reason) { return ReasonOf(status) == reason; }

}  // namespace

absl::Status MakeStatus(const Error& error) {
  absl::Status status(CodeFor(error),
                      absl::StrCat(error.message, " (", error.reason, ", HTTP ", error.http_code, ")"));
  status.SetPayload(kPayload, absl::Cord(json::Encode(error)));
  return status;
}

absl::Status StatusFromResponse(int http_code, absl::string_view body, absl::string_view retry_after) {
  Error error;
  error.http_code = http_code;
  absl::StatusOr<WireStatus> wire = json::Decode<WireStatus>(body);
  if (wire.ok() && wire->kind == "Status") {
    error.reason = wire->reason;
    error.message = wire->message;
    error.causes = std::move(wire->details.causes);
    error.retry_after = absl::Seconds(wire->details.retry_after_seconds);
    if (wire->code >= 400) error.http_code = wire->code;
  }
  int64_t seconds = 0;
  if (absl::SimpleAtoi(retry_after, &seconds) && seconds >= 0) error.retry_after = absl::Seconds(seconds);
  if (error.reason.empty()) error.reason = std::string(ReasonFor(error.http_code));
  if (error.message.empty()) {
    error.message = absl::StrCat("the server answered \"", body.substr(0, kMaxQuoted), "\"");
  }
  return MakeStatus(error);
}

std::optional<Error> ErrorOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return std::nullopt;
  absl::StatusOr<Error> error = json::Decode<Error>(std::string(*payload));
  if (!error.ok()) return std::nullopt;
  return *std::move(error);
}

std::string ReasonOf(const absl::Status& status) {
  const std::optional<Error> error = ErrorOf(status);
  return error.has_value() ? error->reason : "";
}

bool IsNotFound(const absl::Status& status) { return HasReason(status, "NotFound"); }
bool IsAlreadyExists(const absl::Status& status) { return HasReason(status, "AlreadyExists"); }
bool IsConflict(const absl::Status& status) { return HasReason(status, "Conflict"); }
bool IsInvalid(const absl::Status& status) { return HasReason(status, "Invalid"); }
bool IsBadRequest(const absl::Status& status) { return HasReason(status, "BadRequest"); }
bool IsGone(const absl::Status& status) { return HasReason(status, "Gone") || HasReason(status, "Expired"); }
bool IsForbidden(const absl::Status& status) { return HasReason(status, "Forbidden"); }
bool IsUnauthorized(const absl::Status& status) { return HasReason(status, "Unauthorized"); }
bool IsTooManyRequests(const absl::Status& status) { return HasReason(status, "TooManyRequests"); }

bool IsTransient(const absl::Status& status) {
  if (const std::optional<Error> error = ErrorOf(status); error.has_value()) {
    return error->http_code == 429 || error->http_code >= 500;
  }
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace godwit::k8s
