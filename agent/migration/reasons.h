// SPDX-License-Identifier: Apache-2.0
// The CamelCase reason of a failure, for statuses, metrics and the peer.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace godwit::migration {

// "DeadlineExceeded", "ResourceExhausted", ...; `otherwise` for the codes that say too little by themselves
// (Internal, Unknown, FailedPrecondition, Aborted).
inline std::string ReasonOf(const absl::Status& status, absl::string_view otherwise) {
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded: return "DeadlineExceeded";
    case absl::StatusCode::kResourceExhausted: return "ResourceExhausted";
    case absl::StatusCode::kDataLoss: return "DataLoss";
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated: return "PermissionDenied";
    case absl::StatusCode::kUnavailable: return "Unavailable";
    case absl::StatusCode::kNotFound: return "NotFound";
    case absl::StatusCode::kInvalidArgument: return "InvalidArgument";
    default: return std::string(otherwise);
  }
}

}  // namespace godwit::migration
